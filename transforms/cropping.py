"""The part of a scan that is looked at: its content, and a central box of a size in mm."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms import BorderPad, CenterSpatialCrop
from monai.transforms.inverse import InvertibleTransform
from monai.transforms.transform import MapTransform


def above_minimum(image: torch.Tensor) -> torch.Tensor:
    """Where an image shows something: voxels above its smallest value, or all if it has one value.

    For ``monai.transforms.CropForeground``: the fill around a scan is that value, be it 0, -1024
    or another.

    Args:
        image: (channels, *spatial).

    Returns:
        bool, of the same shape.
    """
    above = image > image.amin(dim=tuple(range(1, image.ndim)), keepdim=True)
    return above if bool(above.any()) else torch.ones_like(above)


class CropToCenterd(MapTransform, InvertibleTransform):
    """Keep the central box of a given size; MONAI's ``Invertd`` pads predictions back with zeros.

    Args:
        keys: of images (channels, *spatial); a MetaTensor says its voxel size, else it is 1.
        size: of the box along each axis, in the units of the image's affine (mm); None keeps the
            whole axis, and so does a size beyond the image's own.

    Examples:
        >>> affine = torch.diag(torch.tensor([2.0, 1, 1, 1]))  # voxels of 2 mm by 1 mm
        >>> image = MetaTensor(torch.zeros(1, 10, 6), affine=affine)
        >>> tuple(CropToCenterd("image", (12, None))({"image": image})["image"].shape)
        (1, 6, 6)
    """

    def __init__(self, keys: KeysCollection, size: Sequence[float | None]) -> None:
        super().__init__(keys)
        self.size = tuple(size)
        # The inverse reads from the image's trace what was cut, not from this object.
        self._crop = CenterSpatialCrop(-1)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A copy of the item with the cropped images."""
        item = dict(data)
        for key in self.key_iterator(item):
            image = item[key]
            present = image.pixdim if isinstance(image, MetaTensor) else torch.ones(image.ndim - 1)
            sides = [
                -1 if wanted is None else min(side, max(1, round(wanted / float(voxel))))
                for side, voxel, wanted in zip(image.shape[1:], present, self.size, strict=False)
            ]
            item[key] = CenterSpatialCrop(sides)(image)
        return item

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Pad the images to what they were."""
        item = dict(data)
        for key in self.key_iterator(item):
            # Not checked by MONAI: another object, of the image's own size, was applied.
            applied = self._crop.pop_transform(item[key], check=False)
            pad = BorderPad(applied["extra_info"]["cropped"])
            with pad.trace_transform(False):
                item[key] = pad(item[key])
        return item
