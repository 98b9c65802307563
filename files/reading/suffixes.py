"""Which files are images, by their names and, where these do not say, by their first bytes."""

from __future__ import annotations

import os
from pathlib import Path

#: Formats with geometry. ``.hdr`` stands for a NIfTI pair, whose voxels lie in the ``.img``.
IMAGE_SUFFIXES = (".nii", ".nii.gz", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd")

#: Two-dimensional formats without geometry, gray or color.
PICTURE_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg")

_DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")


def is_picture(path: str | os.PathLike[str]) -> bool:
    """Whether a file's suffix is that of a picture, which carries no geometry."""
    return os.fspath(path).lower().endswith(PICTURE_SUFFIXES)


def split_suffix(name: str) -> tuple[str, str] | None:
    """The stem and the suffix of an image's file name; None for a name without a known suffix.

    ``.seg.nrrd`` of 3D Slicer counts as one suffix.
    """
    known = (".seg.nrrd", *IMAGE_SUFFIXES, *PICTURE_SUFFIXES, *_DICOM_SUFFIXES)
    suffix = next((s for s in known if name.lower().endswith(s)), None)
    return None if suffix is None else (name[: -len(suffix)], suffix)


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Whether a file is DICOM: by its suffix, or without one by the mark after its preamble."""
    path = Path(path)
    if path.name.upper() == "DICOMDIR":  # an index of the files beside it
        return False
    if path.name.lower().endswith(_DICOM_SUFFIXES):
        return True
    if split_suffix(path.name) is not None:
        return False
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def subject_name(path: str | os.PathLike[str]) -> str:
    """The path that names what is made of an image: that of a DICOM series with a suffix.

    MONAI's savers cut off what follows the last dot, which in a folder's name is part of it; and
    ``.nii.gz``, not ``.NII.GZ``.
    """
    text = os.fspath(path).rstrip("/")
    parts = split_suffix(os.path.basename(text))
    if parts is None:
        return f"{text}.dcm"
    return text[: len(text) - len(parts[1])] + parts[1].lower()
