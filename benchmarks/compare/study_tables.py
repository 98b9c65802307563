"""The table of an experiment list that says which scores it is about.

Used by ``benchmarks/tables.py``, which says where a table stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from measured import NOT_RUN, table

from .list import Experiment, ExperimentList
from .results import (
    Result,
    mean_sd,
    paired_comparison,
    report_value,
    score_of,
)
from .tables import Measured, comparison_cell, corrected

#: Score → heading, factor, digits.
SCORES = {
    "dice": ("Dice (F1)", 100, 1),
    "iou": ("mIoU", 100, 1),
    "precision": ("Precision", 100, 1),
    "recall": ("Recall", 100, 1),
    "hd95_vox": ("HD95", 1, 1),
    "assd_vox": ("ASSD", 1, 2),
}
Rows = Sequence[tuple[Experiment, list[Result]]]
#: Row → heading of the table of settings; a setting's rows end in its name.
COLUMNS = {
    "lower": "Lower bound",
    "kl_ent": "KL+Ent, student",
    "uamt": "UA-MT",
    "glmi": "GLMI",
    "ssco": "SSCO",
    "upper": "Upper bound",
}
#: End of the rows' names → what all of them share.
SETTINGS = {
    "": "2,000 iterations, rate 5·10⁻⁴",
    "_long": "4,000 iterations, rate 10⁻³; KL+Ent with the entropy of all slices and plain outputs",
    "_turned": "the same, and random quarter turns of all slices",
}


def labels_of(settings: dict[str, Any], method: str) -> str:
    """Which labels a row learns from."""
    full = f"{settings['num_full']} full"
    if method in ("Lower bound", "Upper bound"):
        return full
    names = {
        "num_full": "full",
        "num_partial": "drawn" if settings.get("weak_label") == "drawn" else "eroded",
        "num_noisy": "noisy",
        "num_unlabeled": "without",
    }
    if names.keys() & settings.keys() == {"num_full"}:
        # Like the bundle, five scribbled patients for each one with full masks.
        settings = {**settings, "num_partial": 5 * settings["num_full"]}
    return ", ".join(f"{settings[key]} {name}" for key, name in names.items() if settings.get(key))


def own_branch(result: Result) -> str:
    """The branch that a row is about: the student, or the only one that was trained."""
    scores = result["test"]["scores"]
    return "student" if "student" in scores else next(iter(scores))


def settings_block(rows: Rows) -> str:
    """Dice of the methods in each of :data:`SETTINGS`, over the seeds, whose number follows."""
    found = {row.row: results for row, results in rows}
    lines = []
    for end, text in SETTINGS.items():
        cells = [f"`…{end}`" if end else "of the tables", text]
        for name in COLUMNS:
            results = found.get(name + end, [])
            score = _score(results, own_branch(results[0]), "dice") if results else ""
            cells.append(f"{score} ({len(results)})" if results else NOT_RUN)
        lines.append(cells)
    text = "Test Dice in %: mean ± sd over the seeds, whose number follows."
    return table(["Rows", "Setting", *COLUMNS.values()], lines, text, texts=2)


def study_block(name: str, listed: ExperimentList, rows: Rows) -> str:
    """A line per row and branch: its scores over the seeds, and the test against the reference.

    Rows that were not run are left out.
    """
    heads = ["Row", "Method", "Labels", "Branch", "Seeds", "Validation: Dice"]
    shown = [SCORES[key][0] for key in listed.scores]
    heads += [f"Test: {shown[0]}", *shown[1:]] + (["Δ Dice, p"] if listed.reference else [])
    heads += [*listed.reports, *(f"*{heading}*" for heading in listed.beside)]
    lines = []
    compared = _compared(listed, rows)
    for place, (row, results) in enumerate(rows):
        if not results:
            continue
        # What the bundle's own default was stands in the result only.
        used = {"weak_label": results[0]["test"]["configuration"].get("weak_label")}
        first = [f"`{row.row}`", row.label, labels_of(used | row.settings, row.method)]
        for branch in results[0]["test"]["scores"]:
            cells = [*first, branch, str(len(results))]
            cells += [_score(results, branch, "dice", "validation")]
            cells += [_score(results, branch, key) for key in listed.scores]
            if listed.reference:
                cells.append(comparison_cell(compared.get((place, branch))))
            cells += [_report(results, column) for column in listed.reports.values()]
            cells += [values.get(row.row, "") for values in listed.beside.values()]
            lines.append(cells)
    return table(heads, lines, _explanation(name, listed, rows), texts=4)


def _score(results: list[Result], branch: str, key: str, split: str = "test") -> str:
    _, factor, digits = SCORES[key]
    values = [score_of(result, branch, key, split) for result in results]
    known = [factor * value for value in values if value is not None]
    # Files that lack a score are older than it.
    return mean_sd(known, digits) if len(known) == len(results) else ""


def _report(results: list[Result], column: str) -> str:
    values = [report_value(result, column) for result in results]
    known = [value for value in values if value is not None]
    return mean_sd(known, 2) if known and len(known) == len(results) else ""


def _compared(listed: ExperimentList, rows: Rows) -> dict[tuple[int, str], Measured]:
    """Place of the row and branch → difference from the reference row, p Holm-corrected."""
    found = [results for row, results in rows if row.row == listed.reference]
    reference = found[0] if found else []
    if not reference:
        return {}
    own = next(iter(reference[0]["test"]["scores"]))
    places, tested = [], []
    for place, (row, results) in enumerate(rows):
        for branch in results[0]["test"]["scores"] if results else ():
            one = Measured([], [], is_reference=row.row == listed.reference and branch == own)
            test = None
            if not one.is_reference:
                test = paired_comparison(results, branch, reference, own)
            places.append((place, branch))
            tested.append(replace(one, difference=test[0], p=test[1]) if test else one)
    return {
        place: one for place, one in zip(places, corrected(tested), strict=True) if one is not None
    }


def _explanation(name: str, listed: ExperimentList, rows: Rows) -> str:
    distances = any(key.endswith("_vox") for key in listed.scores)
    machines = {
        result["test"]["hardware"]["gpu"] or result["test"]["hardware"]["cpu"]
        for _, results in rows
        for result in results
    }
    text = (
        f"Scores in %{', distances in pixels' if distances else ''}: mean over the cases of each "
        "class, then over the classes without the background, then mean ± sd over the seeds."
    )
    if listed.reference:
        text += (
            f" Δ Dice: difference from `{listed.reference}` on the test cases, in points, and p of "
            "the Wilcoxon signed-rank test over these cases (averaged over the classes and the "
            "seeds that both have), "
            "Holm-corrected over the rows."
        )
    if listed.beside:
        text += " In italics: what the paper gives, for other data and larger networks."
    text += f" Settings: `benchmarks/experiments/{name}.yaml`"
    return text + (f"; machine: {', '.join(sorted(machines))}." if machines else ".")
