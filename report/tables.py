"""Tables of scores, for the terminal and for Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mixseg.metrics.scores import CaseScore
from mixseg.metrics.summary import summarize

_STYLES = {"main": "red", "teacher": "blue", "student": "red", "ensemble": "green"}


def score_table(rows: Iterable[CaseScore]) -> Table:
    """Table for the terminal: one line per branch and class, mean ± sd over the cases.

    Args:
        rows: scores of one run.

    Returns:
        Table with Dice in percent, HD95 and ASSD in voxels (and in mm if known for any case), and
        the number of cases with an empty prediction, reference or both.
    """
    header, lines = score_cells(rows)
    return as_table("Scores, mean ± sd over cases", header, lines, texts=header[:2])


def as_table(
    title: str,
    header: Sequence[str],
    lines: Iterable[Sequence[str]],
    texts: Collection[str],
    width: int = 13,
) -> Table:
    """A table for the terminal; a line whose first cell is a branch has the branch's color.

    Words, and headings of more letters than ``width``, break, figures never do: the table fits
    narrow terminals.

    Args:
        texts: the columns that are aligned to the left, and not as numbers.
    """
    table = Table(title=title, title_justify="left")
    for name in header:
        # Rich takes what stands in brackets for a style, and drops it.
        heading = escape("\n".join(textwrap.wrap(name, width)))
        left = name in texts
        table.add_column(heading, justify="left" if left else "right", no_wrap=not left)
    for line in lines:
        table.add_row(*map(escape, line), style=_STYLES.get(line[0]))
    return table


def print_scores(rows: Iterable[CaseScore]) -> None:
    """Print `score_table` in its full width."""
    table, console = score_table(rows), Console()
    # In a log file or a narrow window rich would squeeze the columns until nothing is left.
    unbounded = console.options.update(max_width=1000)
    console.width = max(console.width, console.measure(table, options=unbounded).maximum)
    console.print(table)


def markdown_table(rows: Iterable[CaseScore]) -> str:
    """The lines of `score_table` as a Markdown table.

    Args:
        rows: scores of one run.

    Returns:
        Markdown text that ends with a newline.
    """
    header, lines = score_cells(rows)
    return as_markdown(header, lines, texts=header[:2])


def as_markdown(
    header: Sequence[str], lines: Iterable[Sequence[str]], texts: Collection[str]
) -> str:
    """A Markdown table.

    Args:
        texts: the columns that are aligned to the left, and not as numbers.
    """
    rule = ["---" if name in texts else "---:" for name in header]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n"
        for line in [header, rule, *lines]
    )


def score_cells(rows: Iterable[CaseScore]) -> tuple[list[str], list[list[str]]]:
    """Header and text cells of the tables: branch, class, number of cases, mean ± sd of scores."""
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
