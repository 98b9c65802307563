"""Sizes and directions of voxels, as the files state them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from nibabel.affines import voxel_sizes
from nibabel.orientations import io_orientation

__all__ = ["AFFINE_TOLERANCE", "nearest_axes", "spacing_mm"]


#: Largest difference of any element of two affines (mm) that still counts as the same grid:
#: headers store float32, and writers round differently.
AFFINE_TOLERANCE = 1e-3


def spacing_mm(meta: dict[str, Any], ndim: int = 3) -> tuple[float, ...] | None:
    """Voxel size in mm (x, y, z), or None where the file does not know it.

    A NIfTI header with units unknown and all sizes 1 says nothing (the public ACDC copies). Any
    other size is taken as mm, which NRRD and most NIfTI writers mean; metres and micrometres in
    the NIfTI units field are converted.

    Args:
        meta: metadata of a MONAI MetaTensor, with ``affine``.
        ndim: spatial axes.
    """
    affine = torch.as_tensor(meta["affine"]).numpy()
    sizes = np.linalg.norm(affine[:ndim, :ndim], axis=0)
    code = int(meta.get("xyzt_units", 2)) & 7
    if code == 0 and np.allclose(sizes, 1.0):
        return None
    factor = {1: 1e3, 3: 1e-3}.get(code, 1.0)
    return tuple(float(size * factor) for size in sizes)


def nearest_axes(affine: np.ndarray) -> Iterable[tuple[int, int, float]]:
    """For each array axis: the nearest world axis (0 right, 1 anterior, 2 superior), sign, mm."""
    orientation = io_orientation(affine)
    spacing = voxel_sizes(affine)
    for (world, sign), step in zip(orientation, spacing, strict=True):
        yield int(world), int(sign), float(step)
