"""Images and masks written as NIfTI, NRRD or MHA, in the geometry that they have."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
from monai.data.image_writer import ImageWriter, ITKWriter, NibabelWriter
from monai.data.utils import to_affine_nd
from monai.utils.type_conversion import convert_data_type

from mixseg.files.atomic import write_atomically
from mixseg.files.geometry import AFFINE_TOLERANCE, mm_of_unit
from mixseg.files.reading import Volume, voxels

_MILLIMETERS = 2  # NIfTI-1 code; formats without a units field mean millimeters
_SCANNER = 1  # NIfTI-1 code


class _OwnAxes(ImageWriter):
    """Keeps the axes of the image: a single slice stays one, and a flat image is flat."""

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
            self.channel_dim = None

    def set_metadata(
        self, meta_dict: Mapping | None = None, resample: bool = True, **options: Any
    ) -> None:
        """Take the affine as MONAI does."""
        super().set_metadata(meta_dict, resample=resample, **options)
        self._meta = dict(meta_dict or {})
        shape = self._meta.get("spatial_shape")
        array = cast(Any, self).data_obj
        if shape is not None and len(shape) == 2 and array.ndim == 3 and array.shape[2] == 1:
            # The network saw one slice; the image is flat, and so is its mask.
            self.data_obj = array[..., 0]


class NativeItkWriter(_OwnAxes, ITKWriter):
    """NRRD and MHA, compressed, in the grid of the image."""

    def write(self, filename: Any, verbose: bool = False, **kwargs: Any) -> None:
        """Write the mask; ``kwargs`` as for MONAI's writer."""
        super().write(filename, verbose=verbose, **{"compression": True, **kwargs})


class NativeNiftiWriter(_OwnAxes, NibabelWriter):
    """NIfTI writer that keeps what the image's header says of space: units, codes, both affines.

    MONAI's writer keeps shape and affine, but leaves the units of space and time unset, declares
    sform and qform as scanner coordinates, and writes the one affine into both.
    """

    def write(self, filename: Any, verbose: bool = False, **obj_kwargs: Any) -> None:
        """Write the mask; ``obj_kwargs`` as for MONAI's writer."""
        ImageWriter.write(self, filename, verbose=verbose)
        array = self.create_backend_obj(cast(Any, self).data_obj, dtype=self.output_dtype).dataobj
        affine = to_affine_nd(3, convert_data_type(self.affine, np.ndarray)[0])
        header = nib.Nifti1Header()
        header["xyzt_units"] = _units(self._meta)
        header.set_data_dtype(array.dtype)
        header.set_data_shape(array.shape)
        _set_affines(header, affine, self._meta)
        # Without an affine: nibabel would replace codes whose affine it rounds otherwise.
        self.data_obj = nib.Nifti1Image(array, None, header)
        nib.save(self.data_obj, filename)


def _set_affines(header: Any, affine: np.ndarray, meta: Mapping[str, Any]) -> None:
    """Give a header an affine under the codes of the image that it belongs to.

    Where the image's sform and qform differ, a mask in the image's grid has both of them, so that
    it lies on the image whichever a program follows.
    """
    # The reader brings affines to mm; another one may leave them in the file's units.
    factor = mm_of_unit(meta.get("xyzt_units", _MILLIMETERS)) / mm_of_unit(_units(meta))
    unit = np.diag([factor, factor, factor, 1.0])
    sform = int(meta.get("sform_code", _SCANNER))
    qform = int(meta.get("qform_code", _SCANNER))
    original = meta.get("original_affine")
    own = original is not None and np.allclose(to_affine_nd(3, np.asarray(original)), affine)
    second = meta.get("qform") if own else None
    affine = unit @ affine
    if sform == qform == 0:
        # The image's affine follows from the voxel sizes alone; any other must be stated.
        header.set_qform(affine, 0)
        if np.allclose(header.get_base_affine(), affine, atol=AFFINE_TOLERANCE):
            return
        sform = _SCANNER
    header.set_qform(affine if second is None else unit @ np.asarray(second), qform)
    header.set_sform(affine if sform else None, sform)


def _units(meta: Mapping[str, Any]) -> int:
    """Units of space and time of the image's file, in which the mask's header is written."""
    return int(meta.get("file_units", meta.get("xyzt_units", _MILLIMETERS)))


def write_nifti(path: Path, volume: Volume, dtype: Any) -> str:
    """Write a volume atomically; the same voxels and affine give the same bytes.

    Returns:
        SHA-256 of voxels and shape, hexadecimal.
    """
    data = np.ascontiguousarray(voxels(volume).astype(dtype))
    image = nib.Nifti1Image(data, volume.affine)
    image.header["xyzt_units"] = _MILLIMETERS
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
