"""One way to open an image file of any format that the project reads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np

__all__ = [
    "IMAGE_SUFFIXES",
    "PICTURE_SUFFIXES",
    "UnreadableError",
    "Volume",
    "count_values",
    "is_palette",
    "is_picture",
    "open_volume",
    "split_suffix",
    "voxels",
]

#: Two-dimensional formats without geometry, grey or colour.
PICTURE_SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg")

_NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True)
class Volume:
    """Grid of an image file, and its voxels where they were asked for.

    Attributes:
        shape: sizes of all axes of the file but that of colours or vector components; axis 0 is x.
        affine: voxel indices to mm, 4×4, right–anterior–superior whatever the format; the identity
            for a picture, which has no geometry.
        data: the voxels, None unless asked for; with several channels these are the last axis.
        channels: colours of a picture or components of a vector image; 1 for a scalar image.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    data: np.ndarray | None
    channels: int = 1


class UnreadableError(ValueError):
    """A file that no reader can open; the message is the reader's own reason, in one line."""


def is_picture(path: str | os.PathLike[str]) -> bool:
    """Whether a file's suffix is that of a picture, which carries no geometry."""
    return os.fspath(path).lower().endswith(PICTURE_SUFFIXES)


def is_palette(path: str | os.PathLike[str]) -> bool:
    """Whether a readable picture stores indices into a table of colours."""
    from PIL import Image

    with Image.open(path) as picture:
        return picture.mode == "P"


def open_volume(path: str | os.PathLike[str], voxels: bool = True) -> Volume:
    """Open NIfTI by nibabel, pictures (PNG, BMP, JPEG) by Pillow and any other format by ITK.

    Pictures are what MONAI's reader makes of them: axis 0 is x, the indices of a palette stay.

    Args:
        path: the file.
        voxels: read the voxels too. ITK (NRRD, MHA, MHD) reads them in any case.

    Raises:
        UnreadableError: the file is missing, damaged, or of a format that none reads.
    """
    try:
        return _open(path, voxels)
    except Exception as error:  # nibabel, gzip, zlib, Pillow and ITK raise many unrelated types
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # ITK names its own source file first and the cause last, but where it lacks a type.
        reason = next((line for line in lines if "is not wrapped" in line), "".join(lines[-1:]))
        raise UnreadableError(reason or type(error).__name__) from error


def _open(path: str | os.PathLike[str], voxels: bool) -> Volume:
    if os.fspath(path).lower().endswith(_NIFTI):
        return _open_nifti(path, voxels)
    if is_picture(path):
        return _open_picture(path, voxels)
    from monai.data import ITKReader
    from monai.data.utils import to_affine_nd

    reader = ITKReader()
    data, meta = reader.get_data(reader.read(os.fspath(path)))
    # The reader marks the axis of a vector image's components, and has NaN for a scalar image.
    channels = data.shape[-1] if meta["original_channel_dim"] == -1 else 1
    shape = data.shape[:-1] if channels > 1 else data.shape
    affine = to_affine_nd(3, np.asarray(meta["affine"], dtype=float))
    return Volume(shape, affine, data if voxels else None, channels)


def _open_nifti(path: str | os.PathLike[str], voxels: bool) -> Volume:
    image: Any = nib.load(path)
    if image.get_data_dtype().names:
        raise ValueError("voxels of RGB colours; store one number a voxel")
    return Volume(image.shape, image.affine, np.asanyarray(image.dataobj) if voxels else None)


def _open_picture(path: str | os.PathLike[str], voxels: bool) -> Volume:
    from monai.data import PILReader

    reader = PILReader()
    picture = reader.read(os.fspath(path))
    channels = len(picture.getbands())
    data = reader.get_data(picture)[0] if voxels else None
    return Volume(picture.size, np.eye(4), data, channels)


#: Voxels that are counted at a time: counting needs eight bytes for each.
_PART = 1 << 22


#: Widest range of values that is counted in a table; wider ones are sorted.
_TABLE = 1 << 16


def count_values(data: np.ndarray) -> tuple[dict[int, int], float | None]:
    """Voxels of each value, in rising order.

    Args:
        data: a label map of any shape and real type.

    Returns:
        Number of voxels of each whole value, and one value that is no whole number (NaN and
        infinity are none), or None where there is no such value.
    """
    counts: dict[int, int] = {}
    # In the order of memory: no copy of the whole.
    flat = data.ravel(order="K")
    for start in range(0, flat.size, _PART):
        part = flat[start : start + _PART]
        if np.issubdtype(part.dtype, np.inexact):
            odd = ~np.isfinite(part) | (part != np.rint(part))
            if odd.any():
                return {}, float(part[odd][0])
        for value, number in _count(part):
            counts[value] = counts.get(value, 0) + number
    return dict(sorted(counts.items())), None


def _count(part: np.ndarray) -> list[tuple[int, int]]:
    low, high = int(part.min()), int(part.max())
    if high - low < _TABLE:
        numbers = np.bincount(part.astype(np.int64) - low)
        return [(int(i) + low, int(numbers[i])) for i in np.flatnonzero(numbers)]
    values, numbers = np.unique(part, return_counts=True)
    return [(int(v), int(n)) for v, n in zip(values, numbers, strict=True)]


def voxels(volume: Volume) -> np.ndarray:
    """The voxels of a volume that was opened with them.

    Raises:
        ValueError: it was opened without.
    """
    if volume.data is None:
        raise ValueError("the volume was opened without its voxels")
    return volume.data


IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")


def split_suffix(name: str) -> tuple[str, str] | None:
    """The stem and the suffix of an image's file name; None for a name without a known suffix."""
    known = (*IMAGE_SUFFIXES, *PICTURE_SUFFIXES)
    suffix = next((s for s in known if name.lower().endswith(s)), None)
    return None if suffix is None else (name[: -len(suffix)], suffix)
