"""Curves of a run: its losses, its learning rate and its validation scores."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mixseg.report.canvas import (
    BRANCH_COLORS,
    INK,
    MUTED,
    legend_rows,
    literal,
    new_figure,
    note,
    save_png,
    style,
)

_TERM_COLORS = ("#0072B2", "#E69F00", "#CC79A7", "#009E73", "#56B4E9", "#D55E00", "#8C6D31")
_LOSSES, _DICE = "Training losses", "Validation Dice, best epoch marked"
_Series = dict[str, tuple[list[float], list[float]]]
_NOT_TERMS = {"epoch", "iteration", "loss", "lr"}


def plot_curves(history: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draw the losses, the learning rate and the validation Dice of a run, atomically.

    Args:
        history: one mapping per epoch with ``epoch`` or ``iteration`` (the x-axis; epochs where all
            have one), ``loss``, any further loss terms by name, ``lr``, and Dice values in [0, 1]
            under ``val_dice_<branch>``. Missing, None and non-finite values are left out; other
            ``val_`` entries, ``weight_`` entries and values that are not numbers are not drawn.
        path: PNG file to write.

    The losses share a logarithmic axis unless one is negative or none is positive.

    Raises:
        ValueError: if no entry has an epoch or an iteration.
        OSError: if the file cannot be written.
    """
    unit = "epoch" if all(_number(row.get("epoch")) is not None for row in history) else "iteration"
    series = _series(history, unit)
    if not series and not any(_number(row.get(unit)) is not None for row in history):
        raise ValueError("a history needs entries with an epoch or an iteration")
    figure = new_figure(11.0, 4.4)
    grid = figure.add_gridspec(2, 2, height_ratios=(4.2, 1.0), width_ratios=(1.0, 1.0))
    has_rate = "lr" in series
    losses = figure.add_subplot(grid[0, 0] if has_rate else grid[:, 0])
    dice = figure.add_subplot(grid[:, 1], sharex=losses)
    _draw_losses(losses, series)
    _draw_dice(dice, series)
    rows = max(legend_rows(losses), legend_rows(dice))  # the same in both, so that titles align
    style(losses, _LOSSES, rows)
    style(dice, _DICE, rows)
    bottom = [losses, dice]
    if has_rate:
        rate = figure.add_subplot(grid[1, 0], sharex=losses)
        style(rate)
        rate.plot(*series["lr"], color=MUTED, linewidth=1.4)
        rate.set_ylim(bottom=0.0)
        rate.set_ylabel("rate", fontsize=9, color=INK)
        rate.yaxis.set_major_locator(MaxNLocator(2))
        rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2), useMathText=True)
        rate.yaxis.get_offset_text().set(fontsize=8, color=MUTED)
        losses.tick_params(labelbottom=False)
        bottom = [rate, dice]
    for axes in bottom:
        axes.set_xlabel(unit, fontsize=10, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    save_png(figure, path)


def curve_figures(history: Sequence[Mapping[str, Any]]) -> tuple[Figure, Figure]:
    """The losses and the validation Dice of :func:`plot_curves`, a figure each."""
    unit = "epoch" if all(_number(row.get("epoch")) is not None for row in history) else "iteration"
    series = _series(history, unit)
    figures = []
    for draw, title in ((_draw_losses, _LOSSES), (_draw_dice, _DICE)):
        figure = new_figure(5.4, 3.9)
        axes = figure.add_subplot()
        draw(axes, series)
        style(axes, title)
        axes.set_xlabel(unit, fontsize=10, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
        figures.append(figure)
    return figures[0], figures[1]


def _number(value: Any) -> float | None:
    """The value as a finite float, or None if it is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _series(history: Sequence[Mapping[str, Any]], unit: str) -> _Series:
    """Points (x, y) of every entry that is drawn, in order of first appearance."""
    series: _Series = {}
    for row in history:
        x = _number(row.get(unit))
        for name, value in row.items():
            y = _number(value)
            drawn = not name.startswith(("val_", "weight_")) or name.startswith("val_dice_")
            if x is None or y is None or not drawn or name in ("epoch", "iteration"):
                continue
            xs, ys = series.setdefault(name, ([], []))
            xs.append(x)
            ys.append(y)
    return series


def _draw_losses(axes: Axes, series: _Series) -> None:
    terms = [name for name in series if name not in _NOT_TERMS and not name.startswith("val_")]
    names = [name for name in ("loss", *terms) if name in series]
    values = [value for name in names for value in series[name][1]]
    if values and min(values) >= 0.0 and max(values) > 0.0:
        axes.set_yscale("log", nonpositive="mask")
    for index, name in enumerate(names):
        xs, ys = series[name]
        color = INK if name == "loss" else _TERM_COLORS[(index - 1) % len(_TERM_COLORS)]
        label = literal(name if any(ys) else f"{name} (always 0)")
        marker = "o" if len(xs) == 1 else None
        width = 2.2 if name == "loss" else 1.5
        axes.plot(xs, ys, color=color, linewidth=width, marker=marker, label=label)
    if not names:
        note(axes, "no losses recorded")


def _draw_dice(axes: Axes, series: _Series) -> None:
    axes.set_ylim(0.0, 1.0)
    names = [name for name in series if name.startswith("val_dice_")]
    others = iter(_TERM_COLORS[1:] * (1 + len(names)))
    for name in names:
        branch = name.removeprefix("val_dice_")
        xs, ys = series[name]
        best = max(range(len(ys)), key=ys.__getitem__)
        color = BRANCH_COLORS.get(branch) or next(others)
        label = literal(f"{branch} {ys[best]:.3f}")
        size = 3.5 if len(xs) <= 60 else 0.0
        axes.plot(xs, ys, color=color, linewidth=1.8, marker="o", markersize=size, label=label)
        axes.plot(xs[best], ys[best], "o", color=color, markersize=8, markeredgecolor="white")
    if not names:
        note(axes, "no validation recorded")
