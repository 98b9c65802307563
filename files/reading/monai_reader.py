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

    def read(self, data: _Paths, **kwargs: Any) -> tuple[str, Volume]:
        """Open an image, with its voxels.

        Returns:
            Its path, the first of several, and the image.

        Raises:
            UnreadableError: naming the file.
        """
        single = isinstance(data, (str, os.PathLike))
        paths = [os.fspath(data)] if single else [os.fspath(path) for path in data]  # type: ignore
        try:
            return paths[0], open_volume(paths[0] if len(paths) == 1 else paths)
        except UnreadableError as error:
            raise UnreadableError(f"{paths[0]}: {error}", error.fix) from error

    def get_data(self, img: tuple[str, Volume]) -> tuple[np.ndarray, dict[str, Any]]:
        """The voxels, channels last where there are several, and the metadata."""
        path, volume = img
        data = voxels(volume)
        if not data.dtype.isnative:
            data = data.astype(data.dtype.newbyteorder("="))
        meta = {
            **volume.header,
            MetaKeys.SPATIAL_SHAPE: np.asarray(volume.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: -1 if volume.channels > 1 else float("nan"),
        }
        if not is_picture(path):  # which has no geometry, and must not seem to have
            meta[MetaKeys.AFFINE] = volume.affine.copy()
            meta[MetaKeys.ORIGINAL_AFFINE] = volume.affine.copy()
        return data, {key: value for key, value in meta.items() if value is not None}
