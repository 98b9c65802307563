"""Sizes and directions of voxels, as the files state them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from nibabel.affines import voxel_sizes
from nibabel.orientations import io_orientation

#: Largest difference of any element of two affines (mm) that still counts as the same grid:
#: headers store float32, and writers round differently.
AFFINE_TOLERANCE = 1e-3
#: Distance from a grid's voxels, in voxels, that is rounding.
_OFF_GRID = 0.01


def mm_of_unit(xyzt_units: int) -> float:
    """Millimeters of the unit of space that a NIfTI header states; unknown counts as mm."""
    return {1: 1e3, 3: 1e-3}.get(int(xyzt_units) & 7, 1.0)


def spacing_mm(meta: dict[str, Any], ndim: int = 3) -> tuple[float, ...] | None:
    """Voxel size in mm (x, y, z), or None where the file does not know it.

    A NIfTI header with units unknown and all sizes 1 says nothing (the public ACDC copies). Any
    other size is taken as mm, which NRRD and most NIfTI writers mean; meters and micrometers in
    the NIfTI units field are converted.

    Args:
        meta: metadata of a MONAI MetaTensor, with ``affine``.
        ndim: spatial axes.
    """
    affine = torch.as_tensor(meta["affine"]).numpy()
    sizes = np.linalg.norm(affine[:3, :ndim], axis=0)
    code = int(meta.get("xyzt_units", 2)) & 7
    if code == 0 and np.allclose(sizes, 1.0):
        return None
    return tuple(float(size * mm_of_unit(code)) for size in sizes)


def nearest_axes(affine: np.ndarray) -> Iterable[tuple[int, int, float]]:
    """For each array axis: the nearest world axis (0 right, 1 anterior, 2 superior), sign, mm."""
    orientation = io_orientation(affine)
    spacing = voxel_sizes(affine)
    for (world, sign), step in zip(orientation, spacing, strict=True):
        yield int(world), int(sign), float(step)


def place_on_grid(
    data: np.ndarray, affine: np.ndarray, shape: tuple[int, ...], target: np.ndarray
) -> np.ndarray | None:
    """A label map of a part of a grid, on the whole grid; 0 elsewhere.

    Returns:
        None where the part lies on no voxels of the grid, turned or between them, or where
        something other than 0 lies outside.
    """
    step = np.linalg.solve(target, affine)
    offset = np.rint(step[:3, 3]).astype(int)
    extent = np.array(data.shape)
    if data.ndim != 3 or len(shape) != 3 or not np.isfinite(step).all():
        return None
    # Of the far corner too, where differences of the directions add up.
    if np.abs(step[:3, :3] - np.eye(3)).max() * extent.max() > _OFF_GRID:
        return None
    if np.abs(step[:3, 3] - offset).max() > _OFF_GRID:
        return None
    low = np.maximum(offset, 0)
    high = np.minimum(offset + extent, shape)
    out = np.zeros(shape, data.dtype)
    inside = tuple(slice(a, max(a, b)) for a, b in zip(low - offset, high - offset, strict=True))
    part = data[inside] if (high > low).all() else data[:0]
    if np.count_nonzero(part) != np.count_nonzero(data):
        return None
    if part.size:
        out[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = part
    return out
