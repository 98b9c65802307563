"""One way to open an image of any format that the project reads."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mixseg.files.geometry import AFFINE_TOLERANCE
from mixseg.files.reading.dicom import read_dicom
from mixseg.files.reading.metaimage import read_metaimage
from mixseg.files.reading.nifti import read_nifti
from mixseg.files.reading.nrrd import read_nrrd
from mixseg.files.reading.pictures import read_picture
from mixseg.files.reading.streams import refuse_pointers
from mixseg.files.reading.suffixes import is_dicom, is_picture
from mixseg.files.reading.volume import UnreadableError, Volume

_NIFTI = (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz")


_Path = str | os.PathLike[str]


def open_volume(path: _Path | Sequence[_Path], voxels: bool = True) -> Volume:
    """Open an image: NIfTI, NRRD, MetaImage, PNG, TIFF, BMP, JPEG, or a folder of one DICOM series.

    The result depends on the file alone, not on what else is installed. Checksums that the format
    has (gzip, zlib, PNG) are read to their end, and an image that would not fit into the memory as
    float32 is refused before it is read.

    Args:
        path: the file, or the folder of a series; several are the channels of one image, in their
            order, and must share a grid.
        voxels: read the voxels too.

    Raises:
        UnreadableError: the file is missing, damaged, too large, or of a format that none reads;
            the message is the reason, its ``fix`` what helps.
    """
    if not isinstance(path, (str, os.PathLike)):
        return _joined([Path(each) for each in path], voxels)
    path = Path(path)
    try:
        # Headers may hold any number; what comes of it is checked.
        with np.errstate(all="ignore"):
            return _open(path, voxels)
    except UnreadableError:
        raise
    except Exception as error:  # nibabel, Pillow and ITK raise many unrelated types
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1] if lines else type(error).__name__
        raise UnreadableError(reason[:300]) from error


def _joined(paths: Sequence[Path], voxels: bool) -> Volume:
    """Files that hold a channel each, as one image; what is odd about any of them is kept."""
    volumes = []
    for path in paths:
        try:
            volumes.append(open_volume(path, voxels))
        except UnreadableError as error:
            raise UnreadableError(f"{path.name}: {error}", error.fix) from error
    first = volumes[0]
    for path, volume in zip(paths, volumes, strict=True):
        same = volume.shape == first.shape and np.allclose(
            volume.affine, first.affine, atol=AFFINE_TOLERANCE
        )
        if not same:
            raise UnreadableError(
                f"the grid of {path.name} is not that of {paths[0].name}, another channel of the "
                "image",
                "resample the channels to one grid",
            )
    data = None
    if voxels:
        shape = (*first.shape, -1)
        data = np.concatenate([np.asarray(v.data).reshape(shape) for v in volumes], axis=-1)
    return replace(
        first,
        data=data,
        channels=sum(volume.channels for volume in volumes),
        remarks=tuple(remark for volume in volumes for remark in volume.remarks),
        palette=any(volume.palette for volume in volumes),
    )


def _open(path: Path, voxels: bool) -> Volume:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise UnreadableError(
                f"it is a link to '{os.readlink(path)}', which does not exist",
                "fetch the file that it stands for (such as: git annex get, datalad get)",
            ) from None
        raise UnreadableError("there is no such file", "correct the path") from None
    if stat.S_ISDIR(mode):
        return read_dicom(path, voxels)
    if not stat.S_ISREG(mode):
        raise UnreadableError("it is not a regular file", "put the image in its place")
    name = path.name.lower()
    refuse_pointers(path)
    if name.endswith(_NIFTI):
        return read_nifti(path, voxels)
    if is_picture(path):
        return read_picture(path, voxels)
    if name.endswith((".nrrd", ".nhdr")):
        return read_nrrd(path, voxels)
    if name.endswith((".mha", ".mhd")):
        return read_metaimage(path, voxels)
    if is_dicom(path):
        return read_dicom(path, voxels)
    raise UnreadableError(
        f"the format '{path.suffix}' is not known", "convert it to NIfTI, NRRD, MetaImage or PNG"
    )
