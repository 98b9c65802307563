"""The one reader as MONAI's transforms call it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.data.image_reader import ImageReader
from monai.utils.enums import MetaKeys, SpaceKeys

from mixseg.files.reading.opening import open_volume
from mixseg.files.reading.suffixes import is_picture
from mixseg.files.reading.volume import UnreadableError, Volume, voxels

__all__ = ["VolumeReader"]

_Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class VolumeReader(ImageReader):
    """:func:`open_volume` for MONAI's ``LoadImage``; several files are the channels of one image.

    The metadata are ``affine`` and ``original_affine`` (4×4, right–anterior–superior),
    ``spatial_shape``, ``original_channel_dim`` and, of NIfTI files, what a mask keeps of their
    header, see :class:`Volume`.
    """

    def verify_suffix(self, filename: _Paths) -> bool:
        """Every file is this reader's."""
        return True

    def read(self, data: _Paths, **kwargs: Any) -> list[tuple[str, Volume]]:
        """Open the files, with their voxels.

        Raises:
            UnreadableError: naming the file.
        """
        paths = [data] if isinstance(data, (str, os.PathLike)) else list(data)
        found = []
        for path in paths:
            try:
                found.append((os.fspath(path), open_volume(path)))
            except UnreadableError as error:
                raise UnreadableError(f"{path}: {error}", error.mend) from error
        return found

    def get_data(self, img: list[tuple[str, Volume]]) -> tuple[np.ndarray, dict[str, Any]]:
        """The voxels, channels last where there are several, and the metadata.

        Raises:
            UnreadableError: files of one image differ in their grid.
        """
        first_path, first = img[0]
        arrays = []
        for path, volume in img:
            if volume.shape != first.shape or not np.allclose(
                volume.affine, first.affine, atol=1e-3
            ):
                raise UnreadableError(
                    f"{path}: its grid is not that of {first_path}, which holds another channel",
                    "resample the channels to one grid",
                )
            data = voxels(volume)
            arrays.append(data if volume.channels > 1 else data[..., None])
        many = len(arrays) > 1 or first.channels > 1
        data = np.concatenate(arrays, axis=-1) if len(arrays) > 1 else voxels(first)
        if not data.dtype.isnative:
            data = data.astype(data.dtype.newbyteorder("="))
        meta = {
            **first.header,
            MetaKeys.SPATIAL_SHAPE: np.asarray(first.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: -1 if many else float("nan"),
        }
        if not is_picture(first_path):  # which has no geometry, and must not seem to have
            meta[MetaKeys.AFFINE] = first.affine.copy()
            meta[MetaKeys.ORIGINAL_AFFINE] = first.affine.copy()
        return data, {key: value for key, value in meta.items() if value is not None}
