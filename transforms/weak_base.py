"""Base of simulated weak labels: containers, slices, objects, and the items that they change."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from monai.config.type_definitions import KeysCollection, NdarrayOrTensor
from monai.transforms.transform import Transform
from monai.utils.enums import TransformBackends
from scipy import ndimage

from mixseg.transforms.arrays import OfEachKey, channel_first_classes, check_num_classes, like
from mixseg.transforms.labels import label_kind

Region = tuple[int, tuple[slice | int, ...], np.ndarray]
"""Class, index of the region's bounding box in the label, boolean mask inside that box."""


def plane_axis(ndim: int, slice_axis: int | None) -> int | None:
    """The axis, 0…2, along which a label of ``ndim`` axes is cut; None if it is taken whole."""
    if ndim not in (2, 3):
        raise ValueError(f"a label has 2 or 3 spatial axes, got {ndim}")
    if slice_axis is None or ndim == 2:
        return None
    if not -ndim <= slice_axis < ndim:
        raise ValueError(f"slice_axis must be None or -{ndim} to {ndim - 1}, got {slice_axis}")
    return slice_axis % ndim


def _units(shape: tuple[int, ...], axis: int | None) -> list[tuple[slice | int, ...]]:
    whole: list[slice | int] = [slice(None)] * len(shape)
    if axis is None:
        return [tuple(whole)]
    return [(*whole[:axis], z, *whole[axis + 1 :]) for z in range(shape[axis])]


def regions(
    label: np.ndarray,
    num_classes: int,
    *,
    slice_axis: int | None,
    per_object: bool,
    include_background: bool = False,
) -> Iterator[Region]:
    """Each slice's regions (or the volume's), by class, then by object.

    Args:
        label: uint8 (H, W) or (H, W, D), 0…C−1 and C for unlabeled.
        num_classes: C, background included.
        slice_axis: the axis across which 2D slices are taken; None: the volume is one unit.
        per_object: one region per connected component (8- or 26-neighbors) of a class instead
            of one per class.
        include_background: regions of class 0 as well.

    Yields:
        :data:`Region`; the index has an integer at the slice axis, so the mask is 2D there.
    """
    for unit in _units(label.shape, plane_axis(label.ndim, slice_axis)):
        plane = label[unit]
        for value in range(0 if include_background else 1, num_classes):
            mask = plane == value
            if not mask.any():
                continue
            parts = mask.view(np.uint8)
            if per_object:
                parts = ndimage.label(
                    mask, ndimage.generate_binary_structure(mask.ndim, mask.ndim)
                )[0]
            for number, box in enumerate(ndimage.find_objects(parts), start=1):
                axes = iter(box)
                index = tuple(i if isinstance(i, int) else next(axes) for i in unit)
                yield value, index, parts[box] == number


def check_radius(radius: float) -> float:
    """Return ``radius`` as a float."""
    if radius < 0:
        raise ValueError(f"radius is in voxels and must not be negative, got {radius}")
    return float(radius)


def ball(mask: np.ndarray, centers: np.ndarray, radius: float) -> np.ndarray:
    """The voxels of ``mask`` whose Euclidean distance to a center is at most ``radius``.

    Args:
        mask: boolean, d axes.
        centers: (N, d) voxel indices, each one inside the mask.
        radius: in voxels; 0 for the centers alone.

    Returns:
        Boolean array of the mask's shape.
    """
    marked = np.zeros_like(mask)
    marked[tuple(centers.T)] = True
    if radius > 0:
        coords = np.argwhere(mask)
        for center in centers:
            near = coords[((coords - center) ** 2).sum(axis=1) <= radius**2]
            marked[tuple(near.T)] = True
    return marked


class WeakLabel(Transform):
    """Base of the array transforms that turn a full label into a simulated weak one.

    Args:
        num_classes: C, background included.
        slice_axis: the spatial axis (channel not counted) across which 2D slices are taken, each
            annotated by itself; None annotates the volume in 3D. 2D labels are taken whole.

    Raises:
        ValueError: ``num_classes`` is not 2 to 255.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012 (declared so by MONAI)

    def __init__(self, num_classes: int, slice_axis: int | None = -1) -> None:
        self.num_classes = check_num_classes(num_classes)
        self.slice_axis = slice_axis

    def __call__(self, label: NdarrayOrTensor) -> NdarrayOrTensor:
        """Annotate one label.

        Args:
            label: (1, H, W) or (1, H, W, D); 0…C−1 and C for unlabeled, which stays unlabeled.

        Returns:
            The same container, shape and metadata; uint8, values 0…C.

        Raises:
            ValueError: another shape, a value that is fractional or outside 0…C, or a 3D label
                without the axis ``slice_axis``.
        """
        array = channel_first_classes(label, self.num_classes)
        return like(self.annotate(array)[None], label)

    @abstractmethod
    def annotate(self, label: np.ndarray) -> np.ndarray:
        """The weak label of ``label``, both uint8 and (H, W) or (H, W, D)."""


class CoreLabel(WeakLabel):
    """Base of weak labels that mark a part of each region and leave the rest unlabeled."""

    include_background = False

    def __init__(
        self, num_classes: int, slice_axis: int | None = -1, per_object: bool = False
    ) -> None:
        super().__init__(num_classes, slice_axis)
        self.per_object = per_object

    def paint(self, label: np.ndarray, mark: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Class numbers where ``mark`` says so, C elsewhere.

        Args:
            label: uint8 (H, W) or (H, W, D).
            mark: from a region's mask, cropped to its bounding box, to the part to be labeled,
                a subset of it; boolean, 2D or 3D.
        """
        out = np.full_like(label, self.num_classes)
        for value, index, mask in regions(
            label,
            self.num_classes,
            slice_axis=self.slice_axis,
            per_object=self.per_object,
            include_background=self.include_background,
        ):
            out[index][mark(mask)] = value
        return out


class WeakLabeld(OfEachKey):
    """Base of the dictionary forms: weakens the labels of the items that are to be weak.

    An item is changed only if its supervision is in ``when`` and its label has no unlabeled
    voxel: hand-drawn scribbles and partly labeled maps are passed on as they are, and so are the
    items of every other supervision, whose label need not exist. Nor is an item changed that is
    partly labeled and has ``erode`` False (:func:`mixseg.data.select_cases`): its label is what
    the network shall learn from, even if it is whole, as a proposed mask is.

    Args:
        keys: the labels' keys.
        supervision_key: the item's key for its supervision; where it is absent or None, the
            label's values decide (:func:`~mixseg.transforms.labels.label_kind`).
        when: the kinds of supervision whose labels are weakened; None for the class's own.
        allow_missing_keys: pass on weak items that lack a key.
        **arguments: of the array transform.
    """

    backend = WeakLabel.backend
    #: Kinds of supervision whose labels are weakened unless others are given.
    weak: ClassVar[tuple[str, ...]] = ("partial",)

    def __init__(
        self,
        keys: KeysCollection = "label",
        *,
        supervision_key: str = "supervision",
        when: Sequence[str] | None = None,
        allow_missing_keys: bool = False,
        **arguments: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys=allow_missing_keys, **arguments)
        self.supervision_key = supervision_key
        when = self.weak if when is None else when
        self.when = (when,) if isinstance(when, str) else tuple(when)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Weaken the label of each key; see :meth:`WeakLabel.__call__`."""
        d = dict(data)
        supervision = d.get(self.supervision_key)
        if supervision is not None and supervision not in self.when:
            return d
        if supervision == "partial" and d.get("erode") is False:
            return d
        for key in self.key_iterator(d):
            kind = label_kind(d[key], self.transform.num_classes)
            if kind == "full" and (supervision or kind) in self.when:
                d[key] = self.transform(d[key])
        return d
