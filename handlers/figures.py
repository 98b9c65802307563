"""Pictures of a run: curves of its losses and scores, and cases with both branches side by side.

Drawn through Matplotlib's objects on the Agg canvas: no window, no pyplot state. Colours are Okabe
and Ito's, which colour-blind readers can tell apart; a branch has the same one in every figure.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from mixseg.handlers._canvas import (
    BRANCH_COLORS,
    INK,
    LEGEND_COLUMNS,
    MUTED,
    new_figure,
    note,
    save_png,
    style,
)

__all__ = ["BRANCH_COLORS", "CasePanel", "plot_cases", "plot_curves", "select_slice"]

_REFERENCE_COLOR = "#F0E442"
_UNLABELED_COLOR = "#9E9E9E"
_CLASS_COLORS = ("#56B4E9", "#E69F00", "#CC79A7", "#009E73", "#F0E442", "#0072B2", "#D55E00")
_TERM_COLORS = ("#0072B2", "#E69F00", "#CC79A7", "#009E73", "#56B4E9", "#D55E00", "#8C6D31")
_FILL = 0.45
_Series = dict[str, tuple[list[float], list[float]]]
_NOT_TERMS = {"epoch", "iteration", "loss", "lr"}
_HEADINGS = ("Image", "Reference", "Teacher", "Student", "Student's entropy")


@dataclass(frozen=True)
class CasePanel:
    """One row of `plot_cases`: a slice of a case. Arrays have shape (H, W), axis 0 being x.

    Attributes:
        case_id: name of the case.
        image: intensities, any real range.
        reference: integer labels 0…C−1, with C for unlabelled; None if there is none.
        teacher: the teacher's integer labels; None if it was not trained.
        student: the student's integer labels; None if it was not trained.
        entropy: Shannon entropy of the student's probabilities in nats, 0…ln C; None if unknown.
        scores: Dice in [0, 1] by branch, for the titles "teacher" and "student".
    """

    case_id: str
    image: NDArray[Any]
    reference: NDArray[Any] | None = None
    teacher: NDArray[Any] | None = None
    student: NDArray[Any] | None = None
    entropy: NDArray[Any] | None = None
    scores: Mapping[str, float] = field(default_factory=dict)


def select_slice(
    reference: ArrayLike, prediction: ArrayLike | None = None, *, unlabeled: int | None = None
) -> int:
    """Choose the slice of a volume that shows most of the object.

    Args:
        reference: integer label map of shape (H, W, D); every non-zero label but `unlabeled` is
            object.
        prediction: label map that decides where the reference has no object.
        unlabeled: label that does not count as object, or None.

    Returns:
        Index along the last axis: the largest object area (the first of equals) in the reference,
        else in the prediction, else the middle slice D // 2.

    Raises:
        ValueError: if a map is not three-dimensional or has no slice.
    """
    depth = 0
    for name, labels in (("reference", reference), ("prediction", prediction)):
        if labels is None:
            continue
        array = np.asarray(labels)
        if array.ndim != 3 or array.shape[2] == 0:
            raise ValueError(f"{name}: expected the shape (H, W, D) with D > 0, got {array.shape}")
        depth = depth or array.shape[2]
        area = ((array != 0) & (array != unlabeled)).sum(axis=(0, 1))
        if area.any():
            return int(area.argmax())
    return depth // 2


def plot_curves(history: Sequence[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draw the losses, the learning rate and the validation Dice of a run, atomically.

    Args:
        history: one mapping per epoch with ``epoch`` or ``iteration`` (the x-axis; epochs where all
            have one), ``loss``, any further loss terms by name, ``lr``, and Dice values in [0, 1]
            under ``val_dice_<branch>``. Missing, None and non-finite values are left out; other
            ``val_`` entries, ``weight_`` entries and values that are no numbers are not drawn.
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
    counts = len(_loss_names(series)), sum(name.startswith("val_") for name in series)
    legend_rows = -(-max(counts) // LEGEND_COLUMNS)  # the same in both, so that titles align
    _draw_losses(losses, series, legend_rows)
    _draw_dice(dice, series, legend_rows)
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


def plot_cases(
    panels: Sequence[CasePanel], path: str | os.PathLike[str], class_names: Sequence[str]
) -> None:
    """Draw one row per case: image, reference, teacher, student and the student's entropy.

    Masks lie over the image as transparent colours with an outline; the reference's outline is
    repeated in white over both predictions. With one foreground class a mask has its branch's
    colour, with more each class has its own. Arrays are shown with axis 0 to the right and axis 1
    down. Intensities run from the 1st to the 99th percentile.

    Args:
        panels: at least one case.
        path: PNG file to write.
        class_names: C names, background first; the entropy's scale ends at ln C.

    Raises:
        ValueError: if there is no panel, fewer than two classes, or an array of a panel does not
            have the shape (H, W) of its image.
        OSError: if the file cannot be written.
    """
    if not panels:
        raise ValueError("nothing to draw: no panels")
    if len(class_names) < 2:
        raise ValueError(f"expected the background and at least one class, got {list(class_names)}")
    for panel in panels:
        _check_panel(panel)
    side = 2.3
    tallest = max(panel.image.shape[1] / panel.image.shape[0] for panel in panels)
    figure = new_figure(5 * side + 1.2, len(panels) * (side * tallest + 0.3) + 0.85)
    heights = [0.16, *[tallest] * len(panels)]
    grid = figure.add_gridspec(len(panels) + 1, len(_HEADINGS), height_ratios=heights)
    for column, heading in enumerate(_HEADINGS):
        axes = figure.add_subplot(grid[0, column])
        axes.axis("off")
        font = {"fontsize": 12, "fontweight": "bold", "color": _heading_color(column)}
        axes.text(0.5, 0.0, heading, ha="center", va="bottom", fontdict=font)
    entropies: list[Axes] = []
    heat = None
    for index, panel in enumerate(panels, start=1):
        row = [figure.add_subplot(grid[index, column]) for column in range(len(_HEADINGS))]
        heat = _draw_case(row, panel, len(class_names)) or heat
        entropies.append(row[-1])
    if heat is not None:
        aspect = 14 * len(panels)
        bar = figure.colorbar(heat, ax=entropies, fraction=0.07, pad=0.03, aspect=aspect)
        bar.set_label("nats", fontsize=9, color=INK)
        bar.ax.tick_params(labelsize=8, colors=MUTED)
        bar.outline.set_visible(False)
    handles = _legend(panels, class_names)
    columns = min(len(handles), 6)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
    save_png(figure, path)


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


def _loss_names(series: _Series) -> list[str]:
    terms = [name for name in series if name not in _NOT_TERMS and not name.startswith("val_")]
    return [name for name in ("loss", *terms) if name in series]


def _draw_losses(axes: Axes, series: _Series, legend_rows: int) -> None:
    names = _loss_names(series)
    values = [value for name in names for value in series[name][1]]
    if values and min(values) >= 0.0 and max(values) > 0.0:
        axes.set_yscale("log", nonpositive="mask")
    for index, name in enumerate(names):
        xs, ys = series[name]
        color = INK if name == "loss" else _TERM_COLORS[(index - 1) % len(_TERM_COLORS)]
        label = name if any(ys) else f"{name} (always 0)"
        marker = "o" if len(xs) == 1 else None
        width = 2.2 if name == "loss" else 1.5
        axes.plot(xs, ys, color=color, linewidth=width, marker=marker, label=label)
    style(axes, "Training losses", legend_rows)
    if not names:
        note(axes, "no losses recorded")


def _draw_dice(axes: Axes, series: _Series, legend_rows: int) -> None:
    axes.set_ylim(0.0, 1.0)
    names = [name for name in series if name.startswith("val_dice_")]
    others = iter(_TERM_COLORS[1:] * (1 + len(names)))
    for name in names:
        branch = name.removeprefix("val_dice_")
        xs, ys = series[name]
        best = max(range(len(ys)), key=ys.__getitem__)
        color = BRANCH_COLORS.get(branch) or next(others)
        label = f"{branch} {ys[best]:.3f}"
        size = 3.5 if len(xs) <= 60 else 0.0
        axes.plot(xs, ys, color=color, linewidth=1.8, marker="o", markersize=size, label=label)
        axes.plot(xs[best], ys[best], "o", color=color, markersize=8, markeredgecolor="white")
    style(axes, "Validation Dice, best epoch marked", legend_rows)
    if not names:
        note(axes, "no validation recorded")


def _check_panel(panel: CasePanel) -> None:
    shape = panel.image.shape
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"{panel.case_id}: image must have the shape (H, W), got {shape}")
    for name in ("reference", "teacher", "student", "entropy"):
        array = getattr(panel, name)
        if array is not None and array.shape != shape:
            raise ValueError(f"{panel.case_id}: {name} has shape {array.shape}, the image {shape}")


def _draw_case(row: Sequence[Axes], panel: CasePanel, num_classes: int) -> Any:
    """Draw the five cells of one case; returns the entropy's mappable, or None."""
    finite = panel.image[np.isfinite(panel.image)]
    low, high = np.percentile(finite, (1, 99)) if finite.size else (0.0, 1.0)
    scale = max(float(high) - float(low), 1e-12)
    gray = np.clip((np.nan_to_num(panel.image).T - float(low)) / scale, 0.0, 1.0)
    for axes in row:
        axes.set(xticks=[], yticks=[], facecolor="#F4F4F4", aspect="equal")
        axes.set(xlim=(-0.5, gray.shape[1] - 0.5), ylim=(gray.shape[0] - 0.5, -0.5))
        axes.spines[:].set_visible(False)
    row[0].imshow(gray, cmap="gray", vmin=0.0, vmax=1.0)
    row[0].set_title(panel.case_id, fontsize=9.5, color=MUTED)
    for column, name in enumerate(("reference", "teacher", "student"), start=1):
        labels = getattr(panel, name)
        if labels is None:
            note(row[column], "not available" if name == "reference" else "not trained")
            continue
        colors = _class_colors(num_classes, BRANCH_COLORS.get(name, _REFERENCE_COLOR))
        row[column].imshow(_overlay(gray, labels.T, colors))
        for label, color in enumerate(colors, start=1):
            _outline(row[column], np.equal(labels, label).T, color, 1.1)
        if name != "reference" and panel.reference is not None:
            for label in range(1, num_classes):
                _outline(row[column], np.equal(panel.reference, label).T, "white", 1.0)
        if name in panel.scores and math.isfinite(panel.scores[name]):
            text = f"Dice {100 * panel.scores[name]:.1f} %"
            row[column].set_title(text, fontsize=9.5, color=_heading_color(column))
    if panel.entropy is None:
        note(row[4], "not available")
        return None
    return row[4].imshow(panel.entropy.T, cmap="magma", vmin=0.0, vmax=math.log(num_classes))


def _class_colors(num_classes: int, single: str) -> list[str]:
    """Colours of the foreground classes: the branch's own where there is only one class."""
    if num_classes == 2:
        return [single]
    return [_CLASS_COLORS[index % len(_CLASS_COLORS)] for index in range(num_classes - 1)]


def _overlay(
    gray: NDArray[np.float64], labels: NDArray[Any], colors: Sequence[str]
) -> NDArray[np.float64]:
    """RGB image with the classes, and unlabelled pixels in grey, blended over the intensities."""
    picture = np.repeat(gray[..., None], 3, axis=2)
    for label, color in enumerate([*colors, _UNLABELED_COLOR], start=1):
        inside = labels == label
        picture[inside] = (1 - _FILL) * picture[inside] + _FILL * np.array(to_rgb(color))
    return picture


def _outline(axes: Axes, mask: NDArray[np.bool_], color: str, width: float) -> None:
    # A frame of background, so that an object at the image's edge is closed there too.
    padded = np.pad(mask, 1).astype(np.float64)
    if mask.any():
        ys, xs = np.arange(-1, mask.shape[0] + 1), np.arange(-1, mask.shape[1] + 1)
        axes.contour(xs, ys, padded, levels=[0.5], colors=[color], linewidths=width)


def _legend(panels: Sequence[CasePanel], class_names: Sequence[str]) -> list[Any]:
    count = len(class_names)
    handles: list[Any] = []
    if count > 2:
        for name, color in zip(class_names[1:], _class_colors(count, ""), strict=True):
            handles.append(Patch(color=color, label=name))
    else:
        for name, color in (("reference", _REFERENCE_COLOR), *list(BRANCH_COLORS.items())[:2]):
            handles.append(Patch(color=color, label=f"{class_names[1]}, {name}"))
    if any(panel.reference is not None and (panel.reference == count).any() for panel in panels):
        handles.append(Patch(color=_UNLABELED_COLOR, label="unlabelled"))
    outline = Line2D([], [], color="white", linewidth=1.6, label="outline of the reference")
    outline.set_path_effects([Stroke(linewidth=3.0, foreground=MUTED), Normal()])
    return [*handles, outline]


def _heading_color(column: int) -> str:
    return BRANCH_COLORS.get(_HEADINGS[column].lower(), INK)
