"""Faults of one case's files: the part of the validator that opens them."""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nibabel.affines import voxel_sizes

from mixseg.data.datalist import Split
from mixseg.files.geometry import AFFINE_TOLERANCE
from mixseg.files.reading import (
    UnreadableError,
    Volume,
    count_values,
    is_picture,
    open_volume,
)

#: Distance beyond the usual intensities, in their range, that is an outlier; and one in any case.
_FAR, _HUGE = 1e4, 1e15
#: What helps where a label has values between its classes.
INTERPOLATED = (
    "a label map holds class indices; it may have been resampled with interpolation, so export it "
    "again with nearest neighbor, or, if it is a mask of one class, give 'mixseg prepare folder' "
    "--threshold"
)
#: A label map of more values may be a smoothed mask.
_FEW_VALUES = 8
#: Numbers, quoted names and paths, in which faults of one kind differ.
_VARYING = re.compile(r"'[^']*'|\([^()]*[/\\][^()]*\)|\S*/\S*|[-+]?\d[\d.,]*(?:e[-+]?\d+)?")
_MOST_NAMED = 20
#: Voxels that the usual intensities are taken from.
_SAMPLE = 200_000


@dataclass(frozen=True)
class Fault:
    """One finding of the validator.

    Attributes:
        file: the file (or the datalist's split) that it concerns.
        split: split of the case, or an empty string.
        case_id: the case, or an empty string.
        problem: what is wrong, with the offending value.
        fix: what to do about it.
        level: an ``"error"`` stops training; a ``"note"`` does not.
    """

    file: str
    split: str
    case_id: str
    problem: str
    fix: str
    level: Literal["error", "note"] = "error"

    def __str__(self) -> str:
        case = f" (case {self.case_id}, {self.split})" if self.case_id else ""
        return f"{self.file}{case}: {self.problem}; {self.fix}"


@dataclass(frozen=True)
class Case:
    """A case with absolute paths.

    ``erode`` marks a full mask that is used as partial; ``complete`` and ``channels``, the image's
    further files, are the datalist's.
    """

    split: Split
    case_id: str
    patient_id: str
    image: str
    label: str | None = None
    scribble: str | None = None
    supervision: str | None = None
    erode: bool = False
    complete: bool = False
    channels: tuple[str, ...] = ()

    def fault(
        self, file: str, problem: str, fix: str, level: Literal["error", "note"] = "error"
    ) -> Fault:
        """A finding about one file of the case."""
        return Fault(file, self.split, self.case_id, problem, fix, level)


@dataclass(frozen=True)
class Rules:
    """Permitted values of labels: number of classes, unlabeled value, classes of eroded masks."""

    classes: int
    unlabeled: int
    check_voxels: bool
    foreground: frozenset[int]


@dataclass
class Finding:
    """Faults and facts that one case contributes.

    Attributes:
        faults: of its files.
        labeled: its labeled voxels; None where they are not counted.
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


def image_files(item: Mapping[str, Any]) -> list[str]:
    """The files of the image of an item for transforms: one, or one a channel."""
    image = item["image"]
    return [str(path) for path in image] if isinstance(image, (list, tuple)) else [str(image)]


def read_file(
    case: Case, path: str, name: str, check_voxels: bool, add: Callable[[Fault], None]
) -> Volume | None:
    """The file's grid and, where asked for, its voxels; None for what cannot be read."""
    paths = [path, *(case.channels if name == "image" else ())]
    missing = [each for each in paths if not os.path.lexists(each)]
    for each in missing:
        add(case.fault(each, f"the {name} file is missing", "fix the path or add the file"))
    if missing:
        return None
    try:
        volume = open_volume(path if len(paths) == 1 else paths, check_voxels)
    except UnreadableError as reason:
        kind = "NIfTI" if path.lower().endswith((".nii", ".nii.gz")) else "image"
        problem = f"the {name} is not a readable {kind} file ({reason})"
        add(case.fault(path, problem, reason.fix))
        return None
    for remark in volume.remarks:
        add(case.fault(path, remark.problem, remark.fix, "note"))
    return volume


def examine_image(case: Case, image: Volume, add: Callable[[Fault], None]) -> tuple[int, int]:
    """Collect an image's faults; its spatial axes and channels."""
    if image.palette:
        add(
            case.fault(
                case.image,
                "the image is a palette picture, whose numbers are not intensities",
                "store it as gray or RGB",
            )
        )
    if image.data is not None:
        _examine_intensities(case, image.data, add)
    return len(image.shape), image.channels


def _examine_intensities(case: Case, data: np.ndarray, add: Callable[[Fault], None]) -> None:
    bad = not_finite(data)
    if bad:
        add(
            case.fault(
                case.image,
                f"the image has {bad} NaN or infinite voxels",
                "replace them, or leave the case out",
            )
        )
    elif data.size == 0 or data.min() == data.max():
        add(
            case.fault(
                case.image,
                "the image is constant (all voxels are equal)",
                "export it again, or leave the case out",
            )
        )
    elif outlier := find_outlier(data):
        add(case.fault(case.image, *outlier, "note"))


def not_finite(data: np.ndarray) -> int:
    """Voxels that are NaN or infinite as float32, which networks compute in."""
    if not np.issubdtype(data.dtype, np.inexact):
        return 0
    with np.errstate(over="ignore"):
        return int((~np.isfinite(data.astype(np.float32, copy=False))).sum())


def find_outlier(data: np.ndarray) -> tuple[str, str] | None:
    """What is to be said of an image whose greatest value is far beyond all others.

    Far is ten thousand times the range that 99.8 % of the voxels have, or 1e15.
    """
    low, high = float(data.min()), float(data.max())
    flat = data.ravel(order="K")
    sample = flat[:: max(1, flat.size // _SAMPLE)].astype(np.float64)
    usual_low, usual_high = np.percentile(sample, (0.1, 99.9))
    beyond, usual = max(high - usual_high, usual_low - low), usual_high - usual_low
    far = usual > 0 and beyond > _FAR * usual
    if not far and max(high, -low) < _HUGE:
        return None
    value = high if high - usual_high >= usual_low - low else low
    return (
        f"the image has a voxel of {value:g}, where most lie between {usual_low:g} and "
        f"{usual_high:g}",
        "replace it, or normalize by percentile: scaled by its range (minmax) the image is flat",
    )


def examine_grid(
    case: Case, path: str, name: str, image: Volume, label: Volume, add: Callable[[Fault], None]
) -> None:
    """Collect the faults of a label that does not lie on its image's grid."""
    if label.channels > 1:
        add(
            case.fault(
                path,
                f"the {name} has {label.channels} channels",
                "store class indices in one channel",
            )
        )
    if image.shape != label.shape:
        add(
            case.fault(
                path,
                f"the {name}'s shape {label.shape} is not the image's {image.shape} ({case.image})",
                _shape_fix(label, image),
            )
        )
        return
    if is_picture(case.image) or is_picture(path):
        return  # a picture has no geometry to compare
    # Written as 'not close' so that a NaN in either affine counts as a fault.
    difference = float(np.abs(image.affine - label.affine).max())
    # Of voxels of some micrometers, less.
    tolerance = min(AFFINE_TOLERANCE, 0.01 * float(voxel_sizes(image.affine).min()))
    if not difference <= tolerance:
        add(
            case.fault(
                path,
                f"the {name}'s affine differs from the image's by up to {difference:g} mm "
                f"(tolerance {tolerance:g}; {case.image})",
                "its axes run otherwise than the image's: resample it to the image's grid, do not "
                "copy the header"
                if _turned(image, label)
                else "copy the image's header to the label if the grids are truly the same, else "
                "resample",
            )
        )


def _turned(one: Volume, other: Volume) -> bool:
    """Whether two grids fill one place, with axes in other directions or another order."""
    ends = np.array(list(itertools.product(*((0, size - 1) for size in one.shape))))
    here, there = (ends @ v.affine[:3, : ends.shape[1]].T + v.affine[:3, 3] for v in (one, other))
    near = np.linalg.norm(here[:, None] - there[None], axis=-1).min(axis=1)
    return bool((near < 0.1 * voxel_sizes(one.affine).min()).all())


def listed(values: Sequence[int]) -> str:
    """The first values of a list."""
    shown = ", ".join(str(value) for value in values[:12])
    return shown + (", …" if len(values) > 12 else "")


def is_smoothed(counts: Mapping[int, int]) -> bool:
    """Whether the values of a label map are gray levels between two classes.

    So they are after resizing with interpolation, or in a JPEG: many different values, of which
    the least and the greatest are the two classes and the others lie on their border. Values in a
    row, 0, 1, 2, …, with 255 far from them, are numbers of classes.
    """
    values = sorted(counts)
    if len(values) <= _FEW_VALUES or values[0] < 0:
        return False
    low, high = values[0], values[-1]
    if high == 255:
        return values[:-1] != list(range(len(values) - 1)) or len(values) > 255
    above = sum(n for v, n in counts.items() if v > low)
    bright = sum(n for v, n in counts.items() if v - low >= 0.9 * (high - low))
    return len(values) > 2 * _FEW_VALUES and bright >= 0.25 * above


def odd_value_fix(odd: float, highest: float | None = None) -> str:
    """What helps against a label's value that is not a whole number."""
    if not math.isfinite(odd):
        return (
            "export it again with whole numbers: 0 where such voxels are background; where they "
            "are unlabeled a value of its own, which 'mixseg prepare folder --unlabeled' takes"
        )
    return INTERPOLATED if highest is None else f"{INTERPOLATED} {highest / 2:g}"


def _values_fix(present: Mapping[int, int], outside: Sequence[int]) -> str:
    if is_smoothed(present):
        return (
            "these are gray levels of a smoothed mask: write a label of two values with "
            f"'mixseg prepare folder … --threshold {max(present) / 2:g}'"
        )
    if set(present) == {0, 255}:
        return "255 seems to be the foreground: 'mixseg prepare folder … --values \"0,255\"'"
    if len(outside) == 1:
        return (
            f'if {outside[0]} means unlabeled, set "unlabeled": {outside[0]} in the datalist; else '
            "correct the label or the datalist's 'classes'"
        )
    return "correct the label, or the datalist's 'classes'"


def _shape_fix(label: Volume, image: Volume) -> str:
    if label.segments:
        return (
            "3D Slicer crops segmentations: 'mixseg prepare folder' writes them on the image's grid"
        )
    if label.shape == (image.shape[1], image.shape[0], *image.shape[2:]):
        return "its first two axes seem exchanged: export it again in the image's orientation"
    return "resample the label to the image's grid"


def _examine_values(
    case: Case, path: str, data: np.ndarray, rules: Rules, add: Callable[[Fault], None]
) -> dict[int, int] | None:
    """Voxels per label value, or None where the values are not class indices."""
    present, odd = count_values(data)
    if odd is not None:
        add(
            case.fault(
                path,
                f"the label ({data.dtype}) has values that are not whole numbers, such as {odd:g}",
                odd_value_fix(odd),
            )
        )
        return None
    outside = [v for v in present if not 0 <= v < rules.classes and v != rules.unlabeled]
    if outside:
        add(
            case.fault(
                path,
                f"label values [{listed(outside)}] are outside the classes 0..{rules.classes - 1} "
                f"(unlabeled: {rules.unlabeled})",
                _values_fix(present, outside),
            )
        )
        return None
    return present


def _examine_supervision(
    case: Case, path: str, values: dict[int, int], rules: Rules, finding: Finding
) -> None:
    """Whether the label holds what its supervision promises."""
    unknown = sum(n for v, n in values.items() if v == rules.unlabeled)
    if unknown and (case.supervision == "full" or case.erode):
        finding.faults.append(
            case.fault(
                path,
                f"supervision is 'full', but {unknown} voxels are unlabeled",
                "declare supervision 'partial', or complete the mask"
                if case.split == "training"
                else "complete the mask, or move the case to training as 'partial'",
            )
        )
    elif unknown and case.split != "training":
        finding.faults.append(_unscorable(case, f"has {unknown} unlabeled voxels", path))
    is_partial = case.supervision == "partial" or (case.supervision is None and unknown > 0)
    if case.complete and not is_partial and case.scribble is None:
        finding.faults.append(
            case.fault(
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
            case.fault(
                path,
                "the partially labeled case has no labeled voxel",
                "nothing to fix: it trains on the terms that need no label",
                "note",
            )
        )


def grid_faults(
    grids: Sequence[tuple[Case, tuple[int, int]]], spatial_dims: int | None = None
) -> list[Fault]:
    """Images that a network made for the other ones cannot take."""
    faults = []
    for case, grid in grids:
        if spatial_dims is not None and grid[0] != spatial_dims:
            problem = f"the image is {grid[0]}D; {spatial_dims}D is expected"
            fix = "use a bundle for images of this kind"
        elif grid != grids[0][1]:
            problem = (
                f"the image is {_kind(grid)}, that of {grids[0][0].case_id} is "
                f"{_kind(grids[0][1])} ({grids[0][0].image})"
            )
            fix = (
                "a datalist holds images of one kind; convert them, or make another datalist; of a "
                "series in time, store one frame per file"
            )
        else:
            continue
        faults.append(case.fault(case.image, problem, fix))
    return faults


def _kind(grid: tuple[int, int]) -> str:
    return f"{grid[0]}D with {grid[1]} channel{'s' if grid[1] > 1 else ''}"


def _unscorable(case: Case, what: str, path: str | None = None) -> Fault:
    return case.fault(
        path or case.image,
        f"the {case.split} case {what}",
        "validation and test need complete masks; move the case to training",
    )


def group_faults(faults: Sequence[Fault]) -> list[tuple[Fault, list[str]]]:
    """Each kind of fault once, with the further files that have it.

    Faults are of one kind where their texts differ in numbers and in file names alone.
    """
    groups: dict[tuple[str, str, str], tuple[Fault, list[str]]] = {}
    for fault in faults:
        key = (fault.level, _VARYING.sub("#", fault.problem), _VARYING.sub("#", fault.fix))
        if key in groups:
            groups[key][1].append(fault.file)
        else:
            groups[key] = (fault, [])
    return list(groups.values())


def describe_faults(faults: Sequence[Fault]) -> list[str]:
    """A line for each kind of fault: the first of it, and how many further files have it."""
    lines = []
    for fault, others in group_faults(faults):
        more = ""
        if others:
            names = ", ".join(told_apart([fault.file, *others])[1 : _MOST_NAMED + 1])
            files = "1 other file" if len(others) == 1 else f"{len(others)} other files"
            more = f" (so {files}: {names}{', …' * (len(others) > _MOST_NAMED)})"
        lines.append(f"{fault}{more}")
    return lines


def told_apart(paths: Sequence[str]) -> list[str]:
    """The names of files, with as many of their folders as tell them apart."""
    parts = [Path(path).parts for path in paths]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(set(paths)):
            return names
    return list(paths)
