"""Images and masks written as NIfTI, in the geometry that they have."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
from monai.data import NibabelWriter

from mixseg.files.atomic import write_atomically
from mixseg.files.reading import Volume, voxels

__all__ = ["NativeNiftiWriter", "stored_dtype", "write_nifti"]

_MILLIMETRES = 2  # NIfTI-1 code; formats without a units field mean millimetres
_SCANNER = 1  # NIfTI-1 code


class NativeNiftiWriter(NibabelWriter):
    """NIfTI writer that keeps the units of the image's header.

    MONAI's writer keeps shape and affine but leaves the units of space and time unset.
    """

    def set_data_array(
        self,
        data_array: Any,
        channel_dim: int | None = 0,
        squeeze_end_dims: bool = True,
        **kwargs: Any,
    ) -> None:
        """Drop the channel axis alone: MONAI would drop the slice axis of a single slice too."""
        super().set_data_array(data_array, channel_dim, squeeze_end_dims=False, **kwargs)
        array = cast(Any, self).data_obj
        if squeeze_end_dims and channel_dim is not None and array.shape[-1] == 1:
            self.data_obj = array[..., 0]

    def set_metadata(
        self, meta_dict: Mapping | None = None, resample: bool = True, **options: Any
    ) -> None:
        """Take the affine as MONAI does, and the header's units where it has them."""
        super().set_metadata(meta_dict, resample=resample, **options)
        self._header = nib.Nifti1Header()
        self._header["xyzt_units"] = int((meta_dict or {}).get("xyzt_units", _MILLIMETRES))
        # A header's own type, float32 unless set, would win over that of the array.
        self._header.set_data_dtype(self.output_dtype)

    def write(self, filename: Any, verbose: bool = False, **obj_kwargs: Any) -> None:
        """Write the mask; ``obj_kwargs`` as for MONAI's writer."""
        super().write(filename, verbose=verbose, header=self._header, **obj_kwargs)


def write_nifti(path: Path, volume: Volume, dtype: Any) -> str:
    """Write a volume atomically; the same voxels and affine give the same bytes.

    Returns:
        SHA-256 of voxels and shape, hexadecimal.
    """
    data = np.ascontiguousarray(voxels(volume).astype(dtype))
    image = nib.Nifti1Image(data, volume.affine)
    image.header["xyzt_units"] = _MILLIMETRES
    image.set_sform(volume.affine, _SCANNER)
    image.set_qform(volume.affine, _SCANNER)

    def write(file: BinaryIO) -> None:
        # As nibabel does it: no time in the head, the fastest level.
        with gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as stream:
            image.to_stream(stream)

    write_atomically(path, write)
    return hashlib.sha256(str(data.shape).encode() + data.tobytes()).hexdigest()


def stored_dtype(data: np.ndarray) -> type[np.generic]:
    """int16 where it holds every value of a scan, else float32."""
    limits = np.iinfo(np.int16)
    fits = data.min() >= limits.min and data.max() <= limits.max
    whole = np.issubdtype(data.dtype, np.integer) or bool((data == np.rint(data)).all())
    return np.int16 if fits and whole else np.float32
