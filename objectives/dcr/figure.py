"""Picture of learned instance weights: the extremes, their histogram, and what they follow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from mixseg.report.canvas import INK, MUTED, new_figure, note, save_png, style

_INTACT, _CORRUPTED = "#0072B2", "#D55E00"
_CLASS_COLORS = ("#F0E442", "#E69F00", "#CC79A7", "#009E73", "#56B4E9", "#D55E00")
_SIDE = 1.75  # inches: width of a picture


@dataclass(frozen=True)
class InstancePanel:
    """An instance with its weight.

    Attributes:
        name: of the instance.
        image: (channels, H, W), axis 1 being x; three channels are red, green and blue.
        label: (H, W), what the instance is trained with, 0…C−1 and C = unlabeled.
        reference: (H, W), its true labels; None where unknown.
        gamma: weight in [0, 1].
    """

    name: str
    image: NDArray[Any]
    label: NDArray[Any]
    reference: NDArray[Any] | None
    gamma: float


def plot_indicators(
    path: str | os.PathLike[str],
    *,
    lowest: Sequence[InstancePanel],
    highest: Sequence[InstancePanel],
    gamma: ArrayLike,
    quality: Sequence[float | None],
    corrupted: Sequence[bool | None],
    auc: float | None,
    class_names: Sequence[str],
) -> None:
    """Draw the instances with the extreme weights, the histogram, and weight against quality.

    Pictures have the outline of the label that the instance is trained with, a color per class, and
    in thin white that of its reference.

    Args:
        path: PNG file to write.
        lowest: instances with the lowest weights, lowest first.
        highest: instances with the highest weights, highest first; as many.
        gamma: (M,) weights of all learned instances.
        quality: Dice of each one's label with its reference, None where unknown.
        corrupted: whether each one's foreground is missing, None where unknown.
        auc: area under the ROC curve of the weights for instances that are not corrupted, if known.
        class_names: C names, background first.

    Raises:
        ValueError: if there is no instance.
        OSError: if the file cannot be written.
    """
    if not lowest:
        raise ValueError("nothing to draw: no instance has a learned weight")
    columns = max(len(lowest), 4)
    figure = new_figure(columns * _SIDE + 0.4, 2 * (_SIDE + 0.4) + 3.6)
    halves: Any = figure.subfigures(2, 1, height_ratios=(2 * (_SIDE + 0.4), 3.4))
    rows, plots = halves
    grid = rows.add_gridspec(2, columns)
    for row, (panels, heading) in enumerate(
        ((lowest, "lowest weights"), (highest, "highest weights"))
    ):
        for column, panel in enumerate(panels):
            axes = rows.add_subplot(grid[row, column])
            _draw_instance(axes, panel, len(class_names))
            if column == 0:
                axes.set_ylabel(heading, fontsize=10, fontweight="bold", color=INK)
    rows.legend(
        handles=_legend([*lowest, *highest], class_names),
        loc="outside lower center",
        ncols=len(class_names),
        frameon=False,
        fontsize=9,
    )
    left, right = plots.subplots(1, 2)
    values = np.asarray(gamma, dtype=np.float64)
    groups = _groups(corrupted)
    _draw_histogram(left, values, groups)
    _draw_quality(right, values, quality, groups, auc)
    save_png(figure, path)


def _draw_instance(axes: Axes, panel: InstancePanel, num_classes: int) -> None:
    picture = panel.image.astype(np.float64)
    low, high = np.percentile(picture, (1, 99))
    picture = np.clip((picture - low) / max(float(high - low), 1e-12), 0.0, 1.0)
    if len(picture) == 3:
        axes.imshow(picture.transpose(2, 1, 0), interpolation="nearest")
    else:  # other numbers of channels are not colors: the first one
        axes.imshow(picture[0].T, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
    for c in range(1, num_classes):
        _outline(axes, panel.label == c, _color(c), 1.6)
    if panel.reference is not None:
        for c in range(1, num_classes):
            _outline(axes, panel.reference == c, "white", 0.8)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title(f"γ {panel.gamma:.2f}", fontsize=10, color=INK, pad=3)
    axes.set_xlabel(panel.name, fontsize=8, color=MUTED, labelpad=2)


def _outline(axes: Axes, mask: NDArray[np.bool_], color: str, width: float) -> None:
    if mask.any():
        # A frame of background, so that an object at the image's edge is closed there too.
        padded = np.pad(mask.T, 1).astype(np.float64)
        ys, xs = np.arange(-1, mask.shape[1] + 1), np.arange(-1, mask.shape[0] + 1)
        axes.contour(xs, ys, padded, levels=[0.5], colors=[color], linewidths=width)
        axes.set(xlim=(-0.5, mask.shape[0] - 0.5), ylim=(mask.shape[1] - 0.5, -0.5))


def _color(label: int) -> str:
    return _CLASS_COLORS[(label - 1) % len(_CLASS_COLORS)]


def _legend(panels: Sequence[InstancePanel], class_names: Sequence[str]) -> list[Line2D]:
    handles = [
        Line2D([], [], color=_color(c), linewidth=1.8, label=f"{name}, as given")
        for c, name in enumerate(class_names)
        if c
    ]
    if any(panel.reference is not None for panel in panels):
        outline = Line2D([], [], color="white", linewidth=1.2, label="reference")
        outline.set_path_effects([Stroke(linewidth=2.6, foreground=MUTED), Normal()])
        handles.append(outline)
    return handles


def _groups(corrupted: Sequence[bool | None]) -> dict[str, tuple[str, NDArray[np.bool_]]]:
    """Name → color and members; one group where nothing is known of any instance."""
    state = np.array([-1 if value is None else int(value) for value in corrupted])
    found = {
        "foreground there": (_INTACT, state == 0),
        "foreground missing": (_CORRUPTED, state == 1),
        "unknown": (MUTED, state == -1),
    }
    return {name: (color, members) for name, (color, members) in found.items() if members.any()}


def _draw_histogram(
    axes: Axes, gamma: NDArray[np.float64], groups: dict[str, tuple[str, NDArray[np.bool_]]]
) -> None:
    axes.hist(
        [gamma[members] for _, members in groups.values()],
        bins=list(np.linspace(0.0, 1.0, 21)),
        stacked=True,
        color=[color for color, _ in groups.values()],
        label=[f"{name} ({members.sum()})" for name, (_, members) in groups.items()],
    )
    style(axes, "Learned weights", rows=1)
    axes.set_xlabel("γ", fontsize=10, color=INK)
    axes.set_ylabel("instances", fontsize=10, color=INK)
    axes.set_xlim(0.0, 1.0)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))


def _draw_quality(
    axes: Axes,
    gamma: NDArray[np.float64],
    quality: Sequence[float | None],
    groups: dict[str, tuple[str, NDArray[np.bool_]]],
    auc: float | None,
) -> None:
    dice = np.array([np.nan if value is None else value for value in quality])
    known = np.isfinite(dice)
    for name, (color, members) in groups.items():
        chosen = members & known
        if chosen.any():
            axes.plot(
                dice[chosen], gamma[chosen], "o", color=color, markersize=4, alpha=0.6, label=name,
                markeredgewidth=0,
            )  # fmt: skip
    style(axes, "γ and quality" + ("" if auc is None else f", AUC {auc:.3f}"), rows=1)
    axes.set_xlabel("Dice of the given mask with the reference", fontsize=10, color=INK)
    axes.set_ylabel("γ", fontsize=10, color=INK)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    if not known.any():
        note(axes, "no reference is known")
