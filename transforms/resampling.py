"""Bring an image and its label maps to another grid; the image's way back is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms import Resize
from monai.transforms.inverse import InvertibleTransform
from monai.transforms.transform import MapTransform, Transform
from torch import Tensor

#: By how much of itself the share of a class changes where it ties with another.
_TIE = 1e-4


class ResizeLabel(Transform):
    """Resize an integer label map so that thin strokes survive.

    A new voxel takes the class that covers most of its labeled part, and is unlabeled only if
    nothing in its area is labeled. On a full mask this is a vote of the voxels below, each with the
    part of it that lies inside; on a scribble one pixel wide, a stroke stays connected, where
    nearest neighbor would cut it into dots.

    Args:
        num_classes: C, background included; C marks unlabeled voxels.

    Examples:
        >>> label = torch.tensor([[[2, 2, 2, 1], [2, 2, 2, 2]]])  # one labeled pixel, C = 2
        >>> ResizeLabel(num_classes=2)(label, (1, 2)).tolist()
        [[[2, 1]]]
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def __call__(self, label: Any, spatial_size: Sequence[int]) -> Tensor:
        """Resize one label map.

        Args:
            label: (1, *spatial), values 0…C.
            spatial_size: sides of the result.

        Returns:
            (1, *spatial_size), uint8; a MetaTensor keeps its metadata, the affine included, which
            is that of the old grid.
        """
        plain = torch.as_tensor(label).as_subclass(Tensor)
        if tuple(plain.shape[1:]) == tuple(spatial_size):
            out = plain.to(torch.uint8)
        else:
            classes = torch.arange(self.num_classes, device=plain.device)
            classes = classes.view(-1, *[1] * (plain.ndim - 1))
            shares = (plain == classes).to(torch.float32)
            for axis, size in enumerate(spatial_size, start=1):
                shares = _average(shares, axis, size)
            # Where classes cover equal parts, the lowest and the highest of them win in turn: a
            # fixed order would shrink every object, or grow it, by half a voxel.
            places = torch.meshgrid(*map(torch.arange, spatial_size), indexing="ij")
            turn = torch.stack(places).sum(dim=0) % 2
            shares *= 1 + _TIE / self.num_classes * (2 * turn - 1).to(shares) * classes
            best, index = shares.max(dim=0, keepdim=True)
            out = torch.where(best > 0, index, self.num_classes).to(torch.uint8)
        return MetaTensor(out, meta=label.meta) if isinstance(label, MetaTensor) else out


def _average(maps: Tensor, axis: int, size: int) -> Tensor:
    """Mean along an axis over the part of it that each of ``size`` new voxels covers."""
    shape = list(maps.shape)
    side, shape[axis] = shape[axis], size
    if side % size == 0:
        return maps.unflatten(axis, (size, -1)).mean(axis + 1)
    old = torch.arange(side, dtype=torch.float64)
    new = torch.arange(size, dtype=torch.float64)[:, None] * side / size
    covered = torch.minimum(new + side / size, old + 1) - torch.maximum(new, old)
    # Edges that coincide must not overlap by a rounding error, which would count as labeled.
    weights = covered.where(covered > 1e-6, 0.0).to(maps) * (size / side)
    return (weights @ maps.reshape(math.prod(shape[:axis]), side, -1)).reshape(shape)


def _resize_nearest(label: Any, spatial_size: Sequence[int]) -> Any:
    """A label map (1, *spatial) by nearest neighbor."""
    return Resize(spatial_size, mode="nearest-exact")(label)


class _ResizeImage(MapTransform, InvertibleTransform):
    """Resize the image to a size that depends on it, and its label maps with it.

    A subclass says the size. The image is interpolated linearly, and smoothed before where it
    shrinks. MONAI's ``Invertd`` takes predictions back to the grid before.
    """

    def __init__(
        self,
        keys: KeysCollection,
        label_keys: Sequence[str],
        num_classes: int,
        resampling: str = "area",
    ) -> None:
        super().__init__(keys)
        self.label_keys = tuple(label_keys)
        self.resize_label: Callable[[Any, Sequence[int]], Any] = (
            _resize_nearest if resampling == "nearest" else ResizeLabel(num_classes)
        )
        # The inverse reads sizes and mode from the image's trace, not from this object.
        self._resize = Resize(spatial_size=-1)

    def spatial_size(self, image: Tensor) -> tuple[int, ...]:
        """The size to resize this image (channels, *spatial) to."""
        raise NotImplementedError

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A copy of the item with image and label maps on the new grid."""
        item = dict(data)
        for key in self.key_iterator(item):
            image = item[key]
            size = self.spatial_size(image)
            # Not by area, which would bring predictions back in steps: the inverse has one mode.
            item[key] = Resize(size, mode="trilinear", anti_aliasing=True)(image)
            for label_key in self.label_keys:
                if label_key in item:
                    item[label_key] = self.resize_label(item[label_key], size)
        return item

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Undo the resizing of the image's key."""
        item = dict(data)
        for key in self.key_iterator(item):
            # Not checked by MONAI: another object, of the image's own size, was applied.
            applied = self._resize.pop_transform(item[key], check=False)
            item[key] = self._resize.inverse_transform(item[key], applied)
        return item


class ResizeToSized(_ResizeImage):
    """Resize the slices of a volume; the number of slices stays.

    Args:
        keys: the image's key.
        size: (height, width) of every slice, or one number: the longer side of a slice, with the
            aspect ratio kept.
        label_keys: integer label maps on the image's grid that are resized along.
        num_classes: of the label maps, see :class:`ResizeLabel`.
        resampling: of the label maps: ``"area"``, see :class:`ResizeLabel`, or ``"nearest"``
            neighbor.
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: int | Sequence[int],
        label_keys: Sequence[str] = (),
        num_classes: int = 2,
        resampling: str = "area",
    ) -> None:
        super().__init__(keys, label_keys, num_classes, resampling)
        self.size = size

    def spatial_size(self, image: Tensor) -> tuple[int, ...]:
        """Of this image."""
        height, width, depth = image.shape[1:]
        if not isinstance(self.size, int):
            return (*self.size, depth)
        factor = self.size / max(height, width)
        return (max(1, round(height * factor)), max(1, round(width * factor)), depth)


class ResizeToSpacingd(_ResizeImage):
    """Resize a volume so that its voxels have a given size, as near as whole voxels allow.

    Args:
        keys: the image's key.
        spacing: voxel size along each axis, in the units of the image's affine (mm).
        label_keys: integer label maps on the image's grid that are resized along.
        num_classes: of the label maps, see :class:`ResizeLabel`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spacing: Sequence[float],
        label_keys: Sequence[str] = (),
        num_classes: int = 2,
    ) -> None:
        super().__init__(keys, label_keys, num_classes)
        self.spacing = tuple(float(side) for side in spacing)

    def spatial_size(self, image: Tensor) -> tuple[int, ...]:
        """Of this image."""
        present = image.pixdim if isinstance(image, MetaTensor) else torch.ones(image.ndim - 1)
        return tuple(
            max(1, round(side * float(now) / wanted))
            for side, now, wanted in zip(image.shape[1:], present, self.spacing, strict=True)
        )
