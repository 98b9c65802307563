"""Opened images, and the errors of files that cannot be opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes

from mixseg.files.memory import free_memory

#: What helps where bytes are missing or wrong.
DAMAGED = "it may be truncated: copy or download it again"

#: Least determinant of the axes' directions that still span the space.
_LEAST_DETERMINANT = 1e-3


@dataclass(frozen=True)
class Remark:
    """Remark about an unusual but usable file, and what to do about it."""

    problem: str
    fix: str


@dataclass(frozen=True)
class Segment:
    """A segment of a 3D Slicer segmentation: its name, its value, and the layer that holds it."""

    name: str
    value: int
    layer: int


@dataclass(frozen=True)
class Volume:
    """Grid of an image file, and its voxels where they were asked for.

    Attributes:
        shape: sizes of the spatial axes, two or three; axis 0 is x.
        affine: voxel indices to mm, 4×4, right–anterior–superior whatever the format; the identity
            for a picture, which has no geometry.
        data: the voxels, None unless asked for; with several channels these are the last axis.
        channels: colors of a picture, components of a vector, size of a fourth axis; 1 for a
            scalar image.
        header: what a NIfTI header says beside the affine, by MONAI's names (``xyzt_units``,
            ``sform_code``, ``qform_code``) and ``qform``, its matrix; empty for other formats.
        remarks: what is odd about the file.
        segments: of a 3D Slicer segmentation (``.seg.nrrd``).
        palette: whether the voxels are indices into a table of colors.
        opaque: whether a picture has no opacity, or the same everywhere.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    data: np.ndarray | None
    channels: int = 1
    header: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[Remark, ...] = ()
    segments: tuple[Segment, ...] = ()
    palette: bool = False
    opaque: bool = True


class UnreadableError(ValueError):
    """A file that cannot be opened; the message is the reason, in one line.

    Args:
        reason: what is wrong.
        fix: what helps against that very fault.
    """

    def __init__(self, reason: str, fix: str = DAMAGED) -> None:
        super().__init__(reason)
        self.fix = fix


def voxels(volume: Volume) -> np.ndarray:
    """The voxels of a volume that was opened with them.

    Raises:
        ValueError: it was opened without.
    """
    if volume.data is None:
        raise ValueError("the volume was opened without its voxels")
    return volume.data


def checked_affine(affine: np.ndarray, dims: int) -> np.ndarray:
    """An affine that can be inverted.

    The third axis of a flat image, which headers leave out or set to zero, becomes perpendicular
    to the others, 1 mm long.

    Raises:
        UnreadableError: it is not finite, or singular, such as with voxels of size 0.
    """
    affine = np.array(affine, dtype=float)
    if dims == 2 and np.isfinite(affine[:3, :2]).all():
        normal = np.cross(affine[:3, 0], affine[:3, 1])
        length = float(np.linalg.norm(normal))
        third = affine[:3, 2]
        flat = not np.isfinite(third).all() or abs(normal @ third) <= 1e-6 * length
        if flat and length > 0:
            affine[:3, 2] = normal / length
    if not np.isfinite(affine).all():
        raise UnreadableError(
            "its affine, which places the voxels in space, holds NaN or infinity",
            "correct the header, or convert the scan again from its source",
        )
    sizes = voxel_sizes(affine)
    if not (sizes > 0).all() or not np.isfinite(sizes).all():
        listed = " × ".join(f"{size:g}" for size in sizes)
        raise UnreadableError(
            f"its affine is singular: voxels of {listed} mm",
            "correct the spacing in the header, or convert the scan again from its source",
        )
    if abs(np.linalg.det(affine[:3, :3] / sizes)) < _LEAST_DETERMINANT:
        raise UnreadableError(
            "its affine is singular: two axes have one direction",
            "correct the directions in the header, or convert the scan again from its source",
        )
    return affine


def lps_to_ras(directions: np.ndarray, origin: np.ndarray, flips: np.ndarray | None = None) -> Any:
    """A 4×4 affine, right–anterior–superior, of column vectors (3×n) and an origin in LPS."""
    affine = np.eye(4)
    affine[:3, : directions.shape[1]] = directions
    affine[:3, 3] = origin
    return np.diag([*([-1.0, -1.0, 1.0] if flips is None else flips), 1.0]) @ affine


def checked_size(shape: tuple[int, ...], itemsize: int) -> int:
    """Bytes of the voxels of an image that fits into the memory.

    Raises:
        UnreadableError: an axis without voxels, or more voxels than would fit as float32.
    """
    if not shape or min(shape) < 1:
        raise UnreadableError(f"its header says {'×'.join(map(str, shape)) or 'no'} voxels")
    count = 1
    for size in shape:
        count *= int(size)
    needed, there = count * max(4, itemsize), free_memory()
    if 0 < there < needed:
        raise UnreadableError(
            f"its header says {'×'.join(map(str, shape))} voxels, {needed / 1e9:.1f} GB in "
            f"memory, where {there / 1e9:.1f} GB are free",
            "crop or resample it, or correct its header if that is wrong",
        )
    return count * itemsize
