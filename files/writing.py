"""Images to predict, and masks written in an image's own geometry."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import nibabel as nib
from monai.data import NibabelWriter

from mixseg.files.reading import PICTURE_SUFFIXES

__all__ = ["IMAGE_SUFFIXES", "NativeNiftiWriter", "list_images", "split_suffix"]

IMAGE_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")

_MILLIMETRES = 2  # NIfTI-1 code; formats without a units field mean millimetres


def split_suffix(name: str) -> tuple[str, str] | None:
    """The stem and the suffix of an image's file name; None for a name without a known suffix."""
    known = (*IMAGE_SUFFIXES, *PICTURE_SUFFIXES)
    suffix = next((s for s in known if name.lower().endswith(s)), None)
    return None if suffix is None else (name[: -len(suffix)], suffix)


def list_images(path: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The image at ``path``, or every image below the folder ``path``, sorted.

    Pictures (PNG, BMP, JPEG) count where a folder holds no volume: beside volumes they are
    previews. Files that the official ACDC folders hold beside the images (``*_gt`` masks, ``*_4d``
    cine series) are left out.

    Returns:
        One dictionary an image: ``image``, its path, and ``case_id``, its name without suffix.

    Raises:
        FileNotFoundError: when there is no such path, or no image below it.
    """
    root = Path(path)
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist: set --dataset_dir to a folder of images")
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
    items: list[dict[str, str]] = []
    pictures: list[dict[str, str]] = []
    for file in files:
        parts = split_suffix(file.name)
        if parts is None:
            continue
        stem, suffix = parts
        if root.is_dir() and stem.endswith(("_gt", "_4d")):
            continue
        item = {"image": str(file), "case_id": stem}
        (items if suffix in IMAGE_SUFFIXES else pictures).append(item)
    items = items or pictures
    if not items:
        formats = ", ".join((*IMAGE_SUFFIXES, *PICTURE_SUFFIXES))
        raise FileNotFoundError(f"{root} holds no image ({formats}): set --dataset_dir")
    return items


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
