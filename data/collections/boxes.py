"""Crop image files to a box, with the geometry kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mixseg.data.datalist import DatalistError
from mixseg.files.geometry import AFFINE_TOLERANCE, nearest_axes
from mixseg.files.reading import UnreadableError, Volume, open_volume, voxels

#: Voxel centers this far (mm) outside a box still count as inside: headers store float32.
_TOLERANCE = 1e-3
_INFERIOR_SUPERIOR = 2


@dataclass(frozen=True)
class Box:
    """An in-plane box, in mm from the scan's center; through-plane everything is kept.

    Attributes:
        right: first and last position along the axis that runs nearest to left → right.
        anterior: likewise for posterior → anterior.
    """

    right: tuple[float, float]
    anterior: tuple[float, float]

    @classmethod
    def centered(cls, size: float) -> Box:
        """A square of ``size`` mm around the center."""
        half = float(size) / 2
        return cls((-half, half), (-half, half))


def read_volume(path: Path, what: str) -> Volume:
    """A 3D file with its voxels.

    Raises:
        DatalistError: unreadable, not 3D, or without usable geometry; names the file.
    """
    try:
        volume = open_volume(path)
    except UnreadableError as reason:
        raise DatalistError(
            f"{path}: the {what} is not a readable image file ({reason}); {reason.fix}"
        ) from reason
    if volume.channels > 1:
        raise DatalistError(
            f"{path}: the {what} has {volume.channels} channels; store one number per voxel"
        )
    if len(volume.shape) != 3:
        raise DatalistError(
            f"{path}: the {what} is {len(volume.shape)}D, shape {tuple(volume.shape)}; 3D is "
            "expected: store one volume per file"
        )
    return volume


def check_scan(path: Path, scan: Volume) -> None:
    """Refuse a scan with NaN or infinite voxels."""
    data = voxels(scan)
    if np.issubdtype(data.dtype, np.inexact) and not np.isfinite(data).all():
        raise DatalistError(
            f"{path}: the scan has NaN or infinite voxels; replace them, or remove the case"
        )


def read_mask(path: Path) -> Volume:
    """A mask with its values checked.

    Raises:
        DatalistError: as :func:`read_volume`, or values other than 0, 1 and 255.
    """
    mask = read_volume(path, "mask")
    wrong = [value for value in np.unique(voxels(mask)) if value not in (0, 1, 255)]
    if wrong:
        values = ", ".join(f"{value:g}" for value in wrong[:10])
        raise DatalistError(
            f"{path}: the mask holds {values}; expected are 0 (background) and 1 or 255 (left "
            "atrium): was it resampled with interpolation?"
        )
    return mask


def check_mask(path: Path, mask: Volume, scan: Volume) -> None:
    """Refuse a mask that does not lie on its scan's grid.

    Raises:
        DatalistError: shapes differ, or affines by more than ``AFFINE_TOLERANCE``.
    """
    if mask.shape != scan.shape:
        raise DatalistError(
            f"{path}: the mask's shape {tuple(mask.shape)} is not the scan's {tuple(scan.shape)}; "
            "resample the mask to the scan's grid"
        )
    difference = float(np.abs(mask.affine - scan.affine).max())
    if difference > AFFINE_TOLERANCE:
        raise DatalistError(
            f"{path}: the mask's affine differs from the scan's by up to {difference:g} mm; copy "
            "the scan's header to the mask if the grids are truly the same, else resample"
        )


def box_slices(shape: tuple[int, ...], affine: np.ndarray, box: Box | None) -> tuple[slice, ...]:
    """The voxels whose centers lie inside ``box``, as a slice for each array axis.

    The box is laid along the array axes, each taken for the anatomical axis nearest to it, so
    that the same scan stored in any orientation gives the same voxels.

    Raises:
        ValueError: no voxel of the scan lies inside.
    """
    result = []
    for size, (world, sign, step) in zip(shape, nearest_axes(affine), strict=True):
        if box is None or world == _INFERIOR_SUPERIOR:
            result.append(slice(0, size))
            continue
        low, high = (box.right, box.anterior)[world]
        position = sign * step * (np.arange(size) - (size - 1) / 2)
        inside = np.flatnonzero((position >= low - _TOLERANCE) & (position <= high + _TOLERANCE))
        if not len(inside):
            raise ValueError(f"no voxel of the scan lies inside the crop {box}")
        result.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return tuple(result)


def mask_box(masks: Iterable[Volume], margin: float) -> Box | None:
    """The union of the masks' in-plane bounding boxes about each scan's center, and a margin in mm.

    Returns:
        None where no mask holds foreground.
    """
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for mask in masks:
        foreground = voxels(mask)
        for axis, (world, sign, step) in enumerate(nearest_axes(mask.affine)):
            others = tuple(other for other in range(3) if other != axis)
            places = np.flatnonzero(foreground.any(axis=others))
            if len(places):
                position = sign * step * (places[[0, -1]] - (mask.shape[axis] - 1) / 2)
                low[world] = min(low[world], position.min())
                high[world] = max(high[world], position.max())
    if not np.isfinite(low[:2]).all():
        return None
    right, anterior = (
        (round(float(low[axis]) - margin, 6), round(float(high[axis]) + margin, 6))
        for axis in (0, 1)
    )
    return Box(right, anterior)


def cropped(volume: Volume, box: tuple[slice, ...]) -> Volume:
    """The voxels of ``box``, with the affine's origin moved to its first voxel."""
    affine = volume.affine.astype(float)
    affine[:3, 3] = (affine @ [*(part.start for part in box), 1.0])[:3]
    data = voxels(volume)[box]
    return Volume(data.shape, affine, data)
