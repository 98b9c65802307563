"""Mean, spread and worst case of the scores: `summary.json` and tables to read."""

from __future__ import annotations

import os
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from mixseg.files.atomic import strict_json, write_bytes_atomic
from mixseg.files.provenance import environment
from mixseg.metrics.scores import CaseScore

__all__ = ["markdown_table", "mean_and_sd", "score_table", "summarize", "write_summary"]

_METRICS = ("dice", "hd95_vox", "assd_vox", "hd95_mm", "assd_mm", "iou", "precision", "recall")
_BRANCH_ORDER = ("teacher", "student", "ensemble")
_STYLES = {"teacher": "blue", "student": "red", "ensemble": "green"}


def summarize(rows: Iterable[CaseScore]) -> dict[str, dict[str, dict[str, Any]]]:
    """Summarise the cases of each branch and class.

    Args:
        rows: scores of any number of cases, branches and classes.

    Returns:
        ``{branch: {class: summary}}`` with teacher, student and ensemble first and the classes in
        order of appearance. A summary has ``n``; for each of ``dice``, ``hd95_vox``, ``assd_vox``,
        ``hd95_mm``, ``assd_mm``, ``iou``, ``precision`` and ``recall`` a mapping ``mean``, ``sd``
        (n − 1 in the denominator) and ``n``, where an unknown value counts in neither (mean NaN
        without any, sd NaN below two); ``worst`` with ``case_id`` and ``dice`` of the lowest Dice
        (the first of equals); and ``empty`` with the number of cases whose ``prediction``,
        ``reference`` or ``both`` lacked the class.
    """
    groups: dict[str, dict[str, list[CaseScore]]] = {}
    for row in rows:
        groups.setdefault(row.branch, {}).setdefault(row.class_name, []).append(row)
    known = [branch for branch in _BRANCH_ORDER if branch in groups]
    others = [branch for branch in groups if branch not in _BRANCH_ORDER]
    return {
        branch: {name: _summary(cases) for name, cases in groups[branch].items()}
        for branch in known + others
    }


def write_summary(
    path: str | os.PathLike[str],
    rows: Iterable[CaseScore],
    *,
    configuration: Mapping[str, Any],
    seed: int | None,
    data_hash: str | None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write `summary.json`: the scores and all that is needed to trace them, atomically.

    The file holds ``scores`` (see `summarize`), ``configuration``, ``seed``, ``data_hash``, the
    entries of `mixseg.files.provenance.environment` and those of `extra`. It is strict JSON: a
    NaN is written as null.

    Args:
        path: target file.
        rows: scores of the run.
        configuration: the knobs of the run.
        seed: the run's seed, or None if it had none.
        data_hash: digest that names the data and its split, or None.
        extra: further top-level entries.

    Raises:
        ValueError: if `extra` has an entry of a name that is already in use.
        OSError: if the file cannot be written.
    """
    content: dict[str, Any] = {
        "scores": summarize(rows),
        "configuration": configuration,
        "seed": seed,
        "data_hash": data_hash,
        **environment(),
    }
    taken = sorted(set(content) & set(extra or {}))
    if taken:
        raise ValueError(f"extra entries of summary.json would replace {taken}")
    write_bytes_atomic(path, strict_json({**content, **(extra or {})}).encode("utf-8"))


def score_table(rows: Iterable[CaseScore]) -> Table:
    """Table for the terminal: one line per branch and class, mean ± sd over the cases.

    Args:
        rows: scores of one run.

    Returns:
        Table with Dice in percent, HD95 and ASSD in voxels (and in mm if known for any case), and
        the number of cases with an empty prediction, reference or both.
    """
    header, lines = _cells(rows)
    table = Table(title="Scores, mean ± sd over cases", header_style="bold", title_justify="left")
    for index, name in enumerate(header):
        # Long headings break, figures never do: the table fits narrow terminals.
        heading = escape("\n".join(textwrap.wrap(name, 13)))
        table.add_column(heading, justify="left" if index < 2 else "right", no_wrap=True)
    for line in lines:
        table.add_row(*line, style=_STYLES.get(line[0]))
    return table


def markdown_table(rows: Iterable[CaseScore]) -> str:
    """The lines of `score_table` as a Markdown table.

    Args:
        rows: scores of one run.

    Returns:
        Markdown text that ends with a newline.
    """
    header, lines = _cells(rows)
    rule = ["---" if index < 2 else "---:" for index in range(len(header))]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n"
        for line in [header, rule, *lines]
    )


def _summary(cases: list[CaseScore]) -> dict[str, Any]:
    worst = min(cases, key=lambda case: case.dice)
    empty = Counter(case.empty for case in cases)
    return {
        "n": len(cases),
        **{name: _statistics([getattr(case, name) for case in cases]) for name in _METRICS},
        "worst": {"case_id": worst.case_id, "dice": worst.dice},
        "empty": {kind: empty[kind] for kind in ("prediction", "reference", "both")},
    }


def _statistics(values: list[float | None]) -> dict[str, Any]:
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    return {
        "mean": float(known.mean()) if known.size else float("nan"),
        "sd": float(known.std(ddof=1)) if known.size > 1 else float("nan"),
        "n": int(known.size),
    }


def _cells(rows: Iterable[CaseScore]) -> tuple[list[str], list[list[str]]]:
    """Header and text cells shared by both tables."""
    summary = summarize(rows)
    groups = [item for classes in summary.values() for item in classes.values()]
    columns = [("Dice [%]", "dice", 100.0, 1)]
    for unit, label in (("vox", "voxels"), ("mm", "mm")):
        if any(item[f"hd95_{unit}"]["n"] for item in groups):
            columns += [(f"HD95 [{label}]", f"hd95_{unit}", 1.0, 2)]
            columns += [(f"ASSD [{label}]", f"assd_{unit}", 1.0, 2)]
    header = ["Branch", "Class", "n", *(column[0] for column in columns)]
    header.append("Empty: prediction / reference / both")
    lines = []
    for branch, classes in summary.items():
        for name, item in classes.items():
            values = [mean_and_sd(item[key], scale, digits) for _, key, scale, digits in columns]
            counts = " / ".join(str(count) for count in item["empty"].values())
            lines.append([branch, name, str(item["n"]), *values, counts])
    return header, lines


def mean_and_sd(statistics: Mapping[str, Any], scale: float = 1.0, digits: int = 1) -> str:
    """``mean ± sd`` of a statistic of ``summary.json``; the mean alone of one case, – of none.

    Examples:
        >>> mean_and_sd({"n": 2, "mean": 0.8, "sd": 0.05}, scale=100)
        '80.0 ± 5.0'
    """
    if statistics["n"] == 0:
        return "–"
    mean = f"{statistics['mean'] * scale:.{digits}f}"
    if statistics["n"] == 1:
        return mean
    return f"{mean} ± {statistics['sd'] * scale:.{digits}f}"
