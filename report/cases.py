"""Pictures of cases with the branches side by side."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke
from numpy.typing import ArrayLike, NDArray

from mixseg.report.canvas import BRANCH_COLORS, INK, MUTED, literal, new_figure, note, save_png
from mixseg.report.planes import select_slice, shown_channels, standard_planes

_REFERENCE_COLOR = "#F0E442"
_UNLABELED_COLOR = "#9E9E9E"
CLASS_COLORS = ("#56B4E9", "#E69F00", "#CC79A7", "#009E73", "#F0E442", "#0072B2", "#D55E00")
_FILL = 0.45
_SIDE, _GAP = 2.3, 0.3  # inches: width of a cell, height of a title
_HEADINGS = {
    "image": "Image",
    "reference": "Reference",
    "teacher": "Teacher",
    "student": "Student",
    "entropy": "Student's entropy",
}
_SINGLE_HEADINGS = {
    "image": "Image",
    "reference": "Reference",
    "main": "Prediction",
    "entropy": "Entropy",
}
_MASKS = ("reference", "teacher", "student", "main")
_EDGES = ((0.0, 0.5), (1.0, 0.5), (0.5, 1.0), (0.5, 0.0))  # left, right, top, bottom


@dataclass(frozen=True)
class CasePanel:
    """One row of `plot_cases`: a slice of a case. Arrays have shape (H, W), axis 0 being x.

    Attributes:
        case_id: name of the case. Rows of one case follow one another and have one scale.
        image: intensities, any real range; (3, H, W) for the red, green and blue of a picture.
        reference: integer labels 0…C−1, with C for unlabeled; None if there is none.
        teacher: the teacher's integer labels; None if it was not trained.
        student: the student's integer labels; None if it was not trained.
        entropy: Shannon entropy of the student's probabilities, or of the only branch's, in nats,
            0…ln C; None if unknown.
        scores: Dice in [0, 1] by branch, for the titles of the masks.
        spacing: size of a pixel along the two axes, in one unit.
        view: what is written left of the row, e.g. "axial, slice 45 of 88"; may be empty.
        edges: anatomical letters at the left, right, top and bottom, e.g. "RLAP"; may be empty.
        main: integer labels of a network of one branch; None if it has two.
    """

    case_id: str
    image: NDArray[Any]
    reference: NDArray[Any] | None = None
    teacher: NDArray[Any] | None = None
    student: NDArray[Any] | None = None
    entropy: NDArray[Any] | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    spacing: tuple[float, float] = (1.0, 1.0)
    view: str = ""
    edges: str = ""
    main: NDArray[Any] | None = None

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height of the picture, in the unit of the spacing."""
        width, height = self.image.shape[-2:]
        return width * self.spacing[0], height * self.spacing[1]


def cut_panels(
    case_id: str,
    image: ArrayLike,
    *,
    reference: NDArray[Any] | None = None,
    branches: Mapping[str, NDArray[Any]],
    probabilities: NDArray[Any] | None = None,
    entropy: NDArray[Any] | None = None,
    unlabeled: int | None = None,
    affine: ArrayLike | None = None,
    spacing: tuple[float, float] | None = None,
    scores: Mapping[str, float] = MappingProxyType({}),
) -> list[CasePanel]:
    """Cut the rows of one case out of its arrays, copied so that no volume is kept for them.

    Args:
        case_id: name of the case.
        image: (channels, *spatial); see :func:`mixseg.report.planes.shown_channels`.
        reference: integer labels (*spatial), or None.
        branches: integer labels (*spatial) by branch: ``teacher`` and ``student``, or ``main``.
        probabilities: of the student or the only branch, (classes, *spatial): their entropy is
            shown; or None.
        entropy: the same, known already: (*spatial), in nats.
        unlabeled: label that is not an object, when the cut that shows most is looked for.
        affine: of the voxels, (4, 4): an axial, a coronal and a sagittal cut of a volume are
            returned; None for the slice along the last axis, and for pictures (H, W).
        spacing: size of a pixel of that slice, which is then numbered at its left; or None.
        scores: Dice in [0, 1] by branch, for the first row.

    Returns:
        One row, or three.
    """
    shown = shown_channels(image)
    decisive = next(branches[name] for name in ("student", "main", "teacher") if name in branches)
    masks = [decisive] if reference is None else [reference, decisive]

    def panel(cut: Callable[[Any], NDArray[Any]], **options: Any) -> CasePanel:
        nats = None if entropy is None else cut(entropy)
        if probabilities is not None:
            nats = _entropy(cut(probabilities))
        labels = {name: cut(mask) for name, mask in branches.items()}
        return CasePanel(
            case_id,
            cut(shown),
            None if reference is None else cut(reference),
            teacher=labels.get("teacher"),
            student=labels.get("student"),
            main=labels.get("main"),
            entropy=nats,
            **options,
        )

    if masks[0].ndim == 2:
        return [panel(np.asarray, scores=scores)]
    if affine is None:
        where = select_slice(*masks, unlabeled=unlabeled)
        options: dict[str, Any] = {"scores": scores}
        if spacing is not None:
            options |= {"view": f"slice {where + 1} of {masks[0].shape[2]}", "spacing": spacing}
        return [panel(lambda volume: volume[..., where].copy(), **options)]
    return [
        panel(
            plane.cut,
            scores={} if index else scores,
            spacing=plane.spacing,
            view=f"{plane.name}\nslice {plane.index + 1} of {plane.size}",
            edges=plane.edges,
        )
        for index, plane in enumerate(standard_planes(affine, *masks, unlabeled=unlabeled))
    ]


def plot_cases(
    panels: Sequence[CasePanel],
    path: str | os.PathLike[str],
    class_names: Sequence[str],
    headings: Mapping[str, str] | None = None,
) -> None:
    """Draw one row per panel: image, reference, teacher, student and the student's entropy.

    Of a network of one branch: image, reference, prediction and its entropy. Masks lie over the
    image as transparent colors with an outline; the reference's outline is repeated in white over
    the predictions. With one foreground class a mask has its branch's color, with more each class
    has its own. Arrays are shown with axis 0 to the right and axis 1 down. Intensities run from the
    1st to the 99th percentile; of a picture in color that of its three channels together, so that
    gray stays gray.

    Args:
        panels: at least one.
        path: PNG file to write.
        class_names: C names, background first; the entropy's scale ends at ln C.
        headings: heading of each cell that is wanted, by the panel's attribute, in their order;
            ``image`` is the first. None for those above.

    Raises:
        ValueError: if there is no panel, fewer than two classes, an image of another shape, an
            array of a panel that does not have the shape (H, W) of its image, or a spacing that is
            not positive.
        OSError: if the file cannot be written.
    """
    if not panels:
        raise ValueError("nothing to draw: no panels")
    if len(class_names) < 2:
        raise ValueError(f"expected the background and at least one class, got {list(class_names)}")
    for panel in panels:
        _check_panel(panel)
    if headings is None:
        single = any(panel.main is not None for panel in panels)
        headings = _SINGLE_HEADINGS if single else _HEADINGS
    heights = list(_heights(panels))
    inches = sum(_SIDE * height + (_GAP if first else 0.1) for height, first in heights)
    figure = new_figure(len(headings) * _SIDE + 1.2, inches + 0.85)
    ratios = [0.16, *[height for height, _ in heights]]
    grid = figure.add_gridspec(len(panels) + 1, len(headings), height_ratios=ratios)
    for column, (name, heading) in enumerate(headings.items()):
        axes = figure.add_subplot(grid[0, column])
        axes.axis("off")
        font = {"fontsize": 12, "fontweight": "bold", "color": BRANCH_COLORS.get(name, INK)}
        axes.text(0.5, 0.0, heading, ha="center", va="bottom", fontdict=font)
    entropies: list[Axes] = []
    heat = None
    for index, (panel, (_, first)) in enumerate(zip(panels, heights, strict=True), start=1):
        row = {name: figure.add_subplot(grid[index, c]) for c, name in enumerate(headings)}
        heat = _draw_case(row, panel, len(class_names)) or heat
        if first:
            row["image"].set_title(literal(panel.case_id), fontsize=9.5, color=MUTED)
        if "entropy" in row:
            entropies.append(row["entropy"])
    if heat is not None:
        bar = figure.colorbar(
            heat, ax=entropies, fraction=0.07, pad=0.03, aspect=5.4 * inches, panchor=False
        )
        bar.set_label("nats", fontsize=9, color=INK)
        bar.ax.tick_params(labelsize=8, colors=MUTED)
        bar.outline.set_visible(False)
    handles = _legend(panels, class_names, headings)
    columns = min(len(handles), 6)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
    save_png(figure, path)


def _check_panel(panel: CasePanel) -> None:
    shape = panel.image.shape
    if shape[:-2] not in ((), (3,)) or len(shape) < 2 or 0 in shape:
        raise ValueError(
            f"{panel.case_id}: image must have the shape (H, W) or (3, H, W), got {shape}"
        )
    shape = shape[-2:]
    for name in (*_MASKS, "entropy"):
        array = getattr(panel, name)
        if array is not None and array.shape != shape:
            raise ValueError(f"{panel.case_id}: {name} has shape {array.shape}, the image {shape}")
    if min(panel.spacing) <= 0:
        raise ValueError(f"{panel.case_id}: spacing must be positive, got {panel.spacing}")


def _heights(panels: Sequence[CasePanel]) -> Iterator[tuple[float, bool]]:
    """Height of each row over the width of a cell, and whether it is the first of its case."""
    widest: dict[str, float] = {}
    for panel in panels:
        widest[panel.case_id] = max(widest.get(panel.case_id, 0.0), panel.extent[0])
    seen = set()
    for panel in panels:
        yield panel.extent[1] / widest[panel.case_id], panel.case_id not in seen
        seen.add(panel.case_id)


def _draw_case(row: Mapping[str, Axes], panel: CasePanel, num_classes: int) -> Any:
    """Draw the cells of one panel; returns the entropy's mappable, or None."""
    finite = panel.image[np.isfinite(panel.image)]
    low, high = np.percentile(finite, (1, 99)) if finite.size else (0.0, 1.0)
    scale = max(float(high) - float(low), 1e-12)
    shown = np.clip((np.nan_to_num(panel.image) - float(low)) / scale, 0.0, 1.0)
    shown = shown.T  # (down, right), and colors last
    aspect = panel.spacing[1] / panel.spacing[0]
    style: dict[str, Any] = {"aspect": aspect, "interpolation": "nearest"}
    for axes in row.values():
        axes.set(xticks=[], yticks=[], facecolor="#F4F4F4", aspect=aspect)
        axes.set(xlim=(-0.5, shown.shape[1] - 0.5), ylim=(shown.shape[0] - 0.5, -0.5))
        axes.spines[:].set_visible(False)
    row["image"].imshow(shown, cmap="gray", vmin=0.0, vmax=1.0, **style)
    row["image"].set_ylabel(panel.view, fontsize=9, color=MUTED)
    halo = [Stroke(linewidth=2.0, foreground=INK), Normal()]
    for (x, y), letter in zip(_EDGES, panel.edges, strict=False):
        inward = 14 * (0.5 - x), 14 * (0.5 - y)  # points, whatever the height of the row
        row["image"].annotate(
            letter, (x, y), inward, "axes fraction", "offset points", fontsize=8, color="white",
            ha="center", va="center", path_effects=halo,
        )  # fmt: skip
    for name in _MASKS:
        if name not in row:
            continue
        labels = getattr(panel, name)
        if labels is None:
            note(row[name], "not available" if name == "reference" else "not trained")
            continue
        colors = _class_colors(num_classes, BRANCH_COLORS.get(name, _REFERENCE_COLOR))
        row[name].imshow(_overlay(shown, labels.T, colors), **style)
        for label, color in enumerate(colors, start=1):
            _outline(row[name], np.equal(labels, label).T, color, 1.1)
        if name != "reference" and panel.reference is not None:
            for label in range(1, num_classes):
                _outline(row[name], np.equal(panel.reference, label).T, "white", 1.0)
        if name in panel.scores and math.isfinite(panel.scores[name]):
            text = f"Dice {100 * panel.scores[name]:.1f} %"
            row[name].set_title(text, fontsize=9.5, color=BRANCH_COLORS.get(name, INK))
    if "entropy" not in row:
        return None
    if panel.entropy is None:
        note(row["entropy"], "not available")
        return None
    limit = math.log(num_classes)
    return row["entropy"].imshow(panel.entropy.T, cmap="magma", vmin=0.0, vmax=limit, **style)


def _class_colors(num_classes: int, single: str) -> list[str]:
    """Colors of the foreground classes: the branch's own where there is only one class."""
    if num_classes == 2:
        return [single]
    return [CLASS_COLORS[index % len(CLASS_COLORS)] for index in range(num_classes - 1)]


def _overlay(
    shown: NDArray[np.float64], labels: NDArray[Any], colors: Sequence[str]
) -> NDArray[np.float64]:
    """RGB image with the classes, and unlabeled pixels in gray, blended over the intensities."""
    picture = np.broadcast_to(np.atleast_3d(shown), (*labels.shape, 3)).copy()
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


def _legend(
    panels: Sequence[CasePanel], class_names: Sequence[str], headings: Mapping[str, str]
) -> list[Any]:
    count = len(class_names)
    handles: list[Any] = []
    if count > 2:
        for name, color in zip(class_names[1:], _class_colors(count, ""), strict=True):
            handles.append(Patch(color=color, label=literal(name)))
    else:
        for name in _MASKS:
            if name in headings:
                color = BRANCH_COLORS.get(name, _REFERENCE_COLOR)
                label = f"{class_names[1]}, {headings[name].lower()}"
                handles.append(Patch(color=color, label=literal(label)))
    if any(panel.reference is not None and (panel.reference == count).any() for panel in panels):
        handles.append(Patch(color=_UNLABELED_COLOR, label="unlabeled"))
    if "reference" not in headings:
        return handles
    outline = Line2D([], [], color="white", linewidth=1.6, label="outline of the reference")
    outline.set_path_effects([Stroke(linewidth=3.0, foreground=MUTED), Normal()])
    return [*handles, outline]


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    """Shannon entropy in nats over axis 0."""
    p = np.clip(probabilities, 1e-12, 1.0)
    # The restored probabilities fade to zero at the edge of a crop and are zero outside.
    total = p.sum(axis=0)
    p = p / total
    return np.where(total > 0.5, -(p * np.log(p)).sum(axis=0), 0.0)
