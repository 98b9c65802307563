"""Reading and writing of images, their geometry, atomic files, and provenance."""

from __future__ import annotations

from mixseg.files.atomic import (
    ensure_writable,
    strict_json,
    write_atomically,
    write_bytes_atomic,
    write_text_atomic,
)
from mixseg.files.geometry import AFFINE_TOLERANCE, nearest_axes, spacing_mm
from mixseg.files.lock import claim
from mixseg.files.provenance import environment, hash_of, sha256_of
from mixseg.files.reading import (
    IMAGE_SUFFIXES,
    PICTURE_SUFFIXES,
    UnreadableError,
    Volume,
    VolumeReader,
    count_values,
    is_picture,
    open_volume,
    split_suffix,
    voxels,
)
from mixseg.files.weights import read_weights
from mixseg.files.writing import NativeNiftiWriter, stored_dtype, write_nifti

__all__ = [
    "AFFINE_TOLERANCE",
    "IMAGE_SUFFIXES",
    "PICTURE_SUFFIXES",
    "NativeNiftiWriter",
    "UnreadableError",
    "Volume",
    "VolumeReader",
    "claim",
    "count_values",
    "ensure_writable",
    "environment",
    "hash_of",
    "is_picture",
    "nearest_axes",
    "open_volume",
    "read_weights",
    "sha256_of",
    "spacing_mm",
    "split_suffix",
    "stored_dtype",
    "strict_json",
    "voxels",
    "write_atomically",
    "write_bytes_atomic",
    "write_nifti",
    "write_text_atomic",
]
