"""Predicted volumes beside those of the reference: figures, and the limits of agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from mixseg.report.canvas import BRANCH_COLORS, INK, MUTED, literal, new_figure, style
from mixseg.report.cases import CLASS_COLORS

#: Volumes of a class: predicted ones, and those of the reference.
Volumes = Mapping[str, tuple[Sequence[float], Sequence[float]]]


@dataclass(frozen=True)
class Agreement:
    """How far predicted values are from the reference, in its unit (Bland and Altman, 1986).

    Attributes:
        n: number of cases.
        bias: mean of the differences, predicted less reference.
        sd: standard deviation of the differences, n − 1 in the denominator; NaN of one case.
    """

    n: int
    bias: float
    sd: float

    @property
    def limits(self) -> tuple[float, float]:
        """The limits of agreement, bias ± 1.96 sd."""
        return self.bias - 1.96 * self.sd, self.bias + 1.96 * self.sd


def agreement(predicted: ArrayLike, reference: ArrayLike) -> Agreement:
    """Agreement of two measurements of the same cases.

    Args:
        predicted: a value per case.

    Raises:
        ValueError: there is no case.

    Examples:
        >>> found = agreement([12.0, 18.0], [10.0, 20.0])  # differences 2 and −2
        >>> found.bias, round(found.sd, 3)
        (0.0, 2.828)
    """
    difference = np.asarray(predicted, dtype=float) - np.asarray(reference, dtype=float)
    if not difference.size:
        raise ValueError("no case to compare volumes of")
    sd = float(difference.std(ddof=1)) if difference.size > 1 else float("nan")
    return Agreement(difference.size, float(difference.mean()), sd)


def volume_figure(volumes: Volumes, unit: str) -> Figure:
    """Predicted over reference volumes, a color per class, with the line of identity."""
    figure, axes = _empty()
    top = max(max(max(p), max(r)) for p, r in volumes.values()) or 1.0
    axes.plot([0, top], [0, top], color=MUTED, linewidth=1.0, linestyle="--")
    for (name, (predicted, reference)), color in zip(
        volumes.items(), _colors(volumes), strict=True
    ):
        axes.scatter(reference, predicted, s=20, color=color, alpha=0.75, label=literal(name))
    axes.set(xlim=(0, 1.04 * top), ylim=(0, 1.04 * top))
    _finish(axes, "Volumes", f"reference [{unit}]", f"predicted [{unit}]")
    return figure


def bland_altman_figure(volumes: Volumes, unit: str) -> Figure:
    """Differences over means of predicted and reference volumes, with bias and limits a class."""
    figure, axes = _empty()
    axes.axhline(0.0, color=MUTED, linewidth=1.0)
    for (name, (predicted, reference)), color in zip(
        volumes.items(), _colors(volumes), strict=True
    ):
        first, second = np.asarray(predicted, float), np.asarray(reference, float)
        found = agreement(first, second)
        axes.scatter(
            (first + second) / 2, first - second, s=20, color=color, alpha=0.75, label=literal(name)
        )
        axes.axhline(found.bias, color=color, linewidth=1.4)
        for limit in found.limits if found.n > 1 else ():
            axes.axhline(limit, color=color, linewidth=1.0, linestyle=":")
    _finish(axes, "Differences (Bland–Altman)", f"mean [{unit}]", f"predicted − reference [{unit}]")
    return figure


def _empty() -> tuple[Figure, Axes]:
    figure = new_figure(5.4, 3.9)
    return figure, figure.add_subplot()


def _colors(volumes: Volumes) -> list[str]:
    if len(volumes) == 1:
        return [BRANCH_COLORS["teacher"]]
    return [CLASS_COLORS[i % len(CLASS_COLORS)] for i in range(len(volumes))]


def _finish(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=10, color=INK)
    axes.set_ylabel(y, fontsize=10, color=INK)
    style(axes, title)
