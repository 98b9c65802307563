"""One way to open an image file of any format that the project reads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np

__all__ = ["UnreadableError", "Volume", "open_volume"]

_NIFTI = (".nii", ".nii.gz")


@dataclass(frozen=True)
class Volume:
    """Grid of an image file, and its voxels where they were asked for.

    Attributes:
        shape: sizes of all axes of the file.
        affine: voxel indices to mm, 4×4, right–anterior–superior whatever the format.
        data: the voxels, None unless asked for.
    """

    shape: tuple[int, ...]
    affine: np.ndarray
    data: np.ndarray | None


class UnreadableError(ValueError):
    """A file that no reader can open; the message is the reader's own reason, in one line."""


def open_volume(path: str | os.PathLike[str], voxels: bool = True) -> Volume:
    """Open NIfTI by nibabel and any other format (NRRD, MHA, MHD) by ITK.

    Args:
        path: the file.
        voxels: read the voxels too. ITK reads them in any case.

    Raises:
        UnreadableError: the file is missing, damaged, or of a format that neither reads.
    """
    try:
        return _open(path, voxels)
    except Exception as error:  # nibabel, gzip, zlib and ITK raise many unrelated types
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # ITK names its own source file first and the cause last.
        raise UnreadableError((lines[-1] if lines else "") or type(error).__name__) from error


def _open(path: str | os.PathLike[str], voxels: bool) -> Volume:
    if os.fspath(path).lower().endswith(_NIFTI):
        image: Any = nib.load(path)
        return Volume(image.shape, image.affine, np.asanyarray(image.dataobj) if voxels else None)
    from monai.data import ITKReader

    reader = ITKReader()
    data, meta = reader.get_data(reader.read(os.fspath(path)))
    return Volume(data.shape, np.asarray(meta["affine"], dtype=float), data if voxels else None)
