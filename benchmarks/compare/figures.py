"""One figure a table: published against measured scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from PIL import Image

from .published import load_published
from .tables import (
    PROFILES,
    Line,
    Measurements,
    read_complexity,
    set_name,
    table_lines,
)

__all__ = ["draw", "is_current"]

#: Key of the PNG's text that says what is drawn.
_CONTENT = "Content"
# Okabe and Ito's colors.
_STYLES = {
    "published": ("o", "none", "#000000"),
    "cpu": ("s", "#0072B2", "#0072B2"),
    "gpu": ("D", "#D55E00", "#D55E00"),
}
_NAMES = {"published": "published", "cpu": "measured, CPU profile", "gpu": "measured, GPU profile"}


def draw(number: str, measurements: Measurements, path: Path) -> bool:
    """Write the figure of a table, unless the file shows the same already.

    Args:
        number: of the table in the papers.
        measurements: what was measured.
        path: PNG to write.

    Returns:
        Whether it was written.
    """
    content = _content(number, measurements)
    if is_current(number, measurements, path):
        return False
    if number in load_published().complexity:
        figure = _complexity_figure(content)
    else:
        figure = _score_figure(number, table_lines(load_published().tables[number], measurements))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90, metadata={_CONTENT: _digest(content)})
    return True


def is_current(number: str, measurements: Measurements, path: Path) -> bool:
    """Whether the file shows these numbers, whatever Matplotlib drew it."""
    if not path.is_file():
        return False
    with Image.open(path) as image:
        return image.info.get(_CONTENT) == _digest(_content(number, measurements))


def _content(number: str, measurements: Measurements) -> Any:
    published = load_published()
    if number in published.complexity:
        measured = {p: read_complexity(measurements.folder, p) for p in PROFILES}
        return [
            [row.method, row.parameters, row.milliseconds]
            + [measured[profile].get(row.bundle) for profile in PROFILES]
            for row in published.complexity[number].rows
        ]
    return [
        [line.set, line.label, line.branch, line.published]
        + [
            [line.measured[p].dice, line.measured[p].hd95] if p in line.measured else None
            for p in PROFILES
        ]
        for line in table_lines(published.tables[number], measurements)
    ]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _score_figure(number: str, lines: Sequence[Line]) -> Figure:
    """A column of panels a Set; Dice above, HD95 below where the paper has it."""
    sets = list(dict.fromkeys(line.set for line in lines if line.set != "all"))
    kinds = [("Dice, %", 0), ("HD95, voxels", 1)][: max(len(line.published) for line in lines)]
    labels = list(dict.fromkeys(_label(line) for line in lines if line.set != "all"))
    figure = Figure(
        figsize=(2.2 + 3.0 * len(sets), 1.1 + 0.26 * len(labels) * len(kinds)),
        layout="constrained",
    )
    panels = figure.subplots(len(kinds), len(sets), squeeze=False, sharex="row", sharey=True)
    for place, (title, kind) in enumerate(kinds):
        for axes, name in zip(panels[place], sets, strict=True):
            for line in lines:
                if line.set == name:
                    _draw_line(axes, line, kind, labels.index(_label(line)))
            axes.set_yticks(range(len(labels)), labels, fontsize=8)
            axes.set_ylim(len(labels) - 0.5, -0.5)
            axes.set_xlabel(title, fontsize=8)
            _tidy(axes)
            if place == 0:
                axes.set_title(set_name(name), fontsize=9)
    _legend(figure)
    return figure


def _draw_line(axes: Axes, line: Line, kind: int, height: float) -> None:
    if kind < len(line.published):
        _point(axes, "published", [line.published[kind]], height - 0.15)
    for profile, shift in zip(PROFILES, (0.05, 0.25), strict=True):
        one = line.measured.get(profile)
        if one is not None:
            _point(axes, profile, (one.dice, one.hd95)[kind], height + shift)


def _point(axes: Axes, style: str, values: Sequence[float], height: float) -> None:
    """Mean, with the standard deviation over seeds as a bar."""
    marker, face, color = _STYLES[style]
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    axes.errorbar(
        float(np.mean(values)), height, xerr=spread, fmt=marker, color=color,
        markerfacecolor=face, markersize=4.5, elinewidth=1, label=_NAMES[style],
    )  # fmt: skip


def _complexity_figure(content: Any) -> Figure:
    figure = Figure(figsize=(9, 2.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for height, (_, parameters, milliseconds, *measured) in enumerate(content):
        _point(left, "published", [parameters / 1e6], height - 0.15)
        _point(right, "published", [milliseconds], height - 0.15)
        for profile, one, shift in zip(PROFILES, measured, (0.05, 0.25), strict=True):
            if one is not None:
                _point(left, profile, [one["parameters"] / 1e6], height + shift)
                _point(right, profile, [one["milliseconds_all"]], height + shift)
    left.set_yticks(range(len(content)), [row[0] for row in content], fontsize=8)
    left.set_ylim(len(content) - 0.5, -0.5)
    left.set_xlabel("parameters during training, millions", fontsize=8)
    right.set_xlabel("time per sample, all networks, ms", fontsize=8)
    right.set_xscale("log")
    right.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    right.xaxis.set_minor_locator(NullLocator())
    for axes in (left, right):
        _tidy(axes)
    _legend(figure)
    return figure


def _tidy(axes: Axes) -> None:
    axes.grid(axis="x", alpha=0.25)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure) -> None:
    handles = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    shown = [name for name in _NAMES.values() if name in handles]
    figure.legend(
        [handles[name] for name in shown], shown,
        loc="outside lower center", ncols=3, frameon=False, fontsize=8,
    )  # fmt: skip


def _label(line: Line) -> str:
    return line.label + (f", {line.branch}" if line.branch else "")
