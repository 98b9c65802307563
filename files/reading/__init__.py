"""The one reader: every format is opened here, for checks, training, prediction and scoring."""

from __future__ import annotations

from mixseg.files.reading.dicom import dicom_files
from mixseg.files.reading.monai_reader import VolumeReader
from mixseg.files.reading.opening import open_volume
from mixseg.files.reading.suffixes import (
    IMAGE_SUFFIXES,
    PICTURE_SUFFIXES,
    is_dicom,
    is_picture,
    split_suffix,
    subject_name,
)
from mixseg.files.reading.values import ROUNDING, count_values
from mixseg.files.reading.volume import Remark, Segment, UnreadableError, Volume, voxels

__all__ = [
    "IMAGE_SUFFIXES",
    "PICTURE_SUFFIXES",
    "ROUNDING",
    "Remark",
    "Segment",
    "UnreadableError",
    "Volume",
    "VolumeReader",
    "count_values",
    "dicom_files",
    "is_dicom",
    "is_picture",
    "open_volume",
    "split_suffix",
    "subject_name",
    "voxels",
]
