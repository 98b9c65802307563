"""What can be wrong with one case's files: the part of the validator that opens them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mixseg.data.datalist import Split
from mixseg.files.geometry import AFFINE_TOLERANCE
from mixseg.files.reading import (
    UnreadableError,
    Volume,
    count_values,
    is_palette,
    is_picture,
    open_volume,
)


@dataclass(frozen=True)
class Fault:
    """One finding of the validator.

    Attributes:
        file: the file (or the datalist's split) that it concerns.
        split: split of the case, or an empty string.
        case_id: the case, or an empty string.
        problem: what is wrong, with the offending value.
        mend: what to do about it.
        level: an ``"error"`` stops training; a ``"note"`` does not.
    """

    file: str
    split: str
    case_id: str
    problem: str
    mend: str
    level: Literal["error", "note"] = "error"

    def __str__(self) -> str:
        case = f" (case {self.case_id}, {self.split})" if self.case_id else ""
        return f"{self.file}{case}: {self.problem}; {self.mend}"


@dataclass(frozen=True)
class Case:
    """A case with absolute paths.

    ``erode`` marks a full mask that is used as partial; ``complete`` is the datalist's.
    """

    split: Split
    case_id: str
    patient_id: str
    image: str
    label: str | None
    scribble: str | None
    supervision: str | None
    erode: bool
    complete: bool = False


@dataclass(frozen=True)
class Rules:
    """What the labels may hold: number of classes, unlabelled value, classes of eroded masks."""

    classes: int
    unlabeled: int
    check_voxels: bool
    foreground: frozenset[int]


@dataclass
class Finding:
    """What one case adds.

    Attributes:
        faults: of its files.
        labeled: its labelled voxels; None where they are not counted.
        grid: spatial axes and channels of its image; None where it cannot be used.
    """

    faults: list[Fault]
    labeled: int | None = None
    grid: tuple[int, int] | None = None


def examine_case(case: Case, rules: Rules) -> Finding:
    """Open one case's files and collect its faults."""
    finding = Finding([])
    add = finding.faults.append
    image = read_file(case, case.image, "image", rules.check_voxels, add)
    if image is not None:
        finding.grid = examine_image(case, image, add)

    if case.supervision == "none":
        if case.split != "training":
            add(_unscorable(case, "has no label"))
        return finding
    if case.label is None and case.split != "training":
        add(_unscorable(case, "has no label"))
    for path, name in ((case.label, "label"), (case.scribble, "scribble")):
        if path is None:
            continue
        label = read_file(case, path, name, rules.check_voxels, add)
        if label is not None and image is not None:
            examine_grid(case, path, name, image, label, add)
        if label is not None and label.data is not None:
            is_label = name == "label"
            values = _examine_values(case, path, label.data, rules, add)
            if values is not None and (is_label or case.label is None):
                _examine_supervision(case, path, values, rules, finding)
    return finding


def read_file(
    case: Case, path: str, name: str, check_voxels: bool, add: Callable[[Fault], None]
) -> Volume | None:
    """The file's grid and, where asked for, its voxels; None for what cannot be read."""
    if not Path(path).is_file():
        add(case_fault(case, path, f"the {name} file is missing", "mend the path or add the file"))
        return None
    try:
        return open_volume(path, check_voxels)
    except UnreadableError as reason:
        kind = "NIfTI" if path.lower().endswith((".nii", ".nii.gz")) else "image"
        add(
            case_fault(
                case,
                path,
                f"the {name} is not a readable {kind} file ({reason})",
                "it may be truncated: copy or download it again",
            )
        )
        return None


def examine_image(
    case: Case, image: Volume, add: Callable[[Fault], None]
) -> tuple[int, int] | None:
    """Collect an image's faults; its spatial axes and channels, None where they cannot be used."""
    dims = len(image.shape)
    if dims not in (2, 3):
        add(_shape_fault(case, image.shape))
    if is_picture(case.image) and is_palette(case.image):
        add(
            case_fault(
                case,
                case.image,
                "the image is a palette picture, whose numbers are no intensities",
                "store it as grey or RGB",
            )
        )
    if image.data is not None:
        _examine_intensities(case, image.data, add)
    return (dims, image.channels) if dims in (2, 3) else None


def _examine_intensities(case: Case, data: np.ndarray, add: Callable[[Fault], None]) -> None:
    bad = int((~np.isfinite(data)).sum()) if np.issubdtype(data.dtype, np.inexact) else 0
    if bad:
        add(
            case_fault(
                case,
                case.image,
                f"the image has {bad} NaN or infinite voxels",
                "replace them, or leave the case out",
            )
        )
    elif data.size == 0 or data.min() == data.max():
        add(
            case_fault(
                case,
                case.image,
                "the image is constant (all voxels are equal)",
                "export it again, or leave the case out",
            )
        )


def examine_grid(
    case: Case, path: str, name: str, image: Volume, label: Volume, add: Callable[[Fault], None]
) -> None:
    """Collect the faults of a label that does not lie on its image's grid."""
    if label.channels > 1:
        add(
            case_fault(
                case,
                path,
                f"the {name} has {label.channels} channels",
                "store class indices in one channel",
            )
        )
    if image.shape != label.shape:
        add(
            case_fault(
                case,
                path,
                f"the {name}'s shape {label.shape} is not the image's {image.shape} ({case.image})",
                "resample the label to the image's grid",
            )
        )
        return
    if is_picture(case.image) or is_picture(path):
        return  # a picture has no geometry to compare
    # Written as 'not close' so that a NaN in either affine counts as a fault.
    difference = float(np.abs(image.affine - label.affine).max())
    if not difference <= AFFINE_TOLERANCE:
        add(
            case_fault(
                case,
                path,
                f"the {name}'s affine differs from the image's by up to {difference:g} mm "
                f"(tolerance {AFFINE_TOLERANCE:g}; {case.image})",
                "copy the image's header to the label if the grids are truly the same, else "
                "resample",
            )
        )


def _examine_values(
    case: Case, path: str, data: np.ndarray, rules: Rules, add: Callable[[Fault], None]
) -> dict[int, int] | None:
    """Voxels per label value, or None where the values are no class indices."""
    present, odd = count_values(data)
    if odd is not None:
        add(
            case_fault(
                case,
                path,
                f"the label ({data.dtype}) has values that are not whole numbers, such as {odd:g}",
                "a label map holds class indices; it may have been resampled with "
                "interpolation, so export it again with nearest neighbour",
            )
        )
        return None
    unlabeled = {rules.classes, rules.unlabeled}
    outside = [v for v in present if not 0 <= v < rules.classes and v not in unlabeled]
    if outside:
        allowed = " or ".join(str(v) for v in sorted(unlabeled))
        add(
            case_fault(
                case,
                path,
                f"label values {outside} are outside the classes 0..{rules.classes - 1} "
                f"(unlabelled: {allowed})",
                "mend the label, the datalist's 'classes' or its 'unlabeled' value",
            )
        )
        return None
    return present


def _examine_supervision(
    case: Case, path: str, values: dict[int, int], rules: Rules, finding: Finding
) -> None:
    """Whether the label holds what its supervision promises."""
    unknown = sum(n for v, n in values.items() if v in (rules.classes, rules.unlabeled))
    if unknown and (case.supervision == "full" or case.erode):
        finding.faults.append(
            case_fault(
                case,
                path,
                f"supervision is 'full', but {unknown} voxels are unlabelled",
                "declare supervision 'partial', or complete the mask",
            )
        )
    elif unknown and case.split != "training":
        finding.faults.append(_unscorable(case, f"has {unknown} unlabelled voxels", path))
    is_partial = case.supervision == "partial" or (case.supervision is None and unknown > 0)
    if case.complete and not is_partial and case.scribble is None:
        finding.faults.append(
            case_fault(
                case,
                path,
                "'complete' is about the seeds of a partially labeled case, but no voxel of the "
                "label is unlabeled",
                "remove 'complete' from the entry, or correct the label",
            )
        )
    if case.split != "training" or not is_partial:
        return
    if case.erode:
        finding.labeled = sum(n for v, n in values.items() if v in rules.foreground)
    else:
        finding.labeled = sum(values.values()) - unknown
    if finding.labeled == 0:
        finding.faults.append(
            Fault(
                path,
                case.split,
                case.case_id,
                "the partially labelled case has no labelled voxel",
                "nothing to mend: it trains on the terms that need no label",
                level="note",
            )
        )


def grid_faults(
    grids: Sequence[tuple[Case, tuple[int, int]]], spatial_dims: int | None = None
) -> list[Fault]:
    """Images that a network made for the other ones cannot take.

    Args:
        grids: cases with the spatial axes and channels of their images.
        spatial_dims: the axes that are asked for; None for those of the first image.
    """
    faults = []
    for case, grid in grids:
        if spatial_dims is not None and grid[0] != spatial_dims:
            problem = f"the image is {grid[0]}D; {spatial_dims}D is expected"
            mend = "use a bundle for images of this kind"
        elif grid != grids[0][1]:
            problem = (
                f"the image is {_kind(grid)}, that of {grids[0][0].case_id} is "
                f"{_kind(grids[0][1])} ({grids[0][0].image})"
            )
            mend = "a datalist holds images of one kind; convert them, or make another datalist"
        else:
            continue
        faults.append(case_fault(case, case.image, problem, mend))
    return faults


def _kind(grid: tuple[int, int]) -> str:
    return f"{grid[0]}D with {grid[1]} channel{'s' if grid[1] > 1 else ''}"


def _shape_fault(case: Case, shape: tuple[int, ...]) -> Fault:
    mend = (
        "store one frame per file (such as patientXXX_frameYY.nii.gz out of patientXXX_4d.nii.gz)"
        if len(shape) == 4
        else "store the slices as one volume, with the slice axis last"
    )
    return case_fault(
        case, case.image, f"the image is {len(shape)}D, shape {shape}; 3D is expected", mend
    )


def _unscorable(case: Case, what: str, path: str | None = None) -> Fault:
    return case_fault(
        case,
        path or case.image,
        f"the {case.split} case {what}",
        "validation and test need complete masks; move the case to training",
    )


def case_fault(case: Case, file: str, problem: str, mend: str) -> Fault:
    """An error about one file of a case."""
    return Fault(file, case.split, case.case_id, problem, mend)
