"""Bringing label maps to the project's convention: 0…C−1 are classes, C is unlabeled."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config.type_definitions import KeysCollection, NdarrayOrTensor
from monai.transforms.transform import MapTransform, Transform
from monai.utils.enums import TransformBackends

from mixseg.transforms.arrays import (
    OfEachKey,
    check_num_classes,
    class_array,
    describe,
    integral_array,
    like,
)


def class_numbers(entries: Sequence[int | Sequence[int]]) -> set[int]:
    """The numbers of classes, where an entry may be a list of classes that become one."""
    return {int(value) for entry in entries for value in np.ravel(entry)}


def label_kind(label: NdarrayOrTensor, num_classes: int) -> str:
    """The supervision that a label's values show.

    Args:
        label: integers (or whole floats) of any shape, 0…C−1 and C for unlabeled.
        num_classes: C, background included.

    Returns:
        ``"full"`` if no voxel is unlabeled, else ``"partial"``.

    Raises:
        ValueError: a value is fractional or outside 0…C.

    Examples:
        >>> label_kind(np.array([[0, 1], [1, 0]]), num_classes=2)
        'full'
        >>> label_kind(np.array([[2, 1], [2, 0]]), num_classes=2)
        'partial'
    """
    num_classes = check_num_classes(num_classes)
    array = class_array(label, num_classes, describe(label))
    return "partial" if (array == num_classes).any() else "full"


class ConvertUnlabeled(Transform):
    """Replace a file's own value for unlabeled voxels by C, the number of classes.

    Args:
        num_classes: C, background included.
        unlabeled_value: the file's value for unlabeled voxels, such as 255 or −1; ``None`` if it
            is C already. A value inside 0…C−1 is allowed and makes that class unlabeled: 0 suits
            maps that were drawn on the foreground only.

    Raises:
        ValueError: ``num_classes`` is not 2 to 255.

    Examples:
        >>> print(ConvertUnlabeled(num_classes=2, unlabeled_value=255)(np.array([[0, 1, 255]])))
        [[0 1 2]]
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012 (declared so by MONAI)

    def __init__(self, num_classes: int, unlabeled_value: int | None = None) -> None:
        self.num_classes = check_num_classes(num_classes)
        self.unlabeled_value = self.num_classes if unlabeled_value is None else int(unlabeled_value)

    def __call__(self, label: NdarrayOrTensor) -> NdarrayOrTensor:
        """Convert one label.

        Args:
            label: any shape; integers, or floats that are whole numbers.

        Returns:
            The same container, shape and metadata; uint8, values 0…C.

        Raises:
            ValueError: a value is neither a class nor ``unlabeled_value``, or is fractional. The
                message names the file if the metadata do, and lists up to ten values.
        """
        source = describe(label)
        array = integral_array(label, source)
        unlabeled = array == self.unlabeled_value
        wrong = ~unlabeled & ((array < 0) | (array >= self.num_classes))
        if wrong.any():
            raise ValueError(
                f"{source} holds {np.unique(array[wrong])[:10].tolist()}: neither a class "
                f"(0 to {self.num_classes - 1}) nor the value for unlabeled "
                f"({self.unlabeled_value}). Set unlabeled_value to the value that the file uses "
                "for unlabeled voxels, or correct num_classes or the file"
            )
        return like(np.where(unlabeled, self.num_classes, array).astype(np.uint8), label)


class SelectClasses(Transform):
    """Keep some classes, renumbered, and make the other ones background.

    ``classes=[3], num_classes=4`` reads the left ventricle's cavity out of ACDC: 3 → 1, the other
    classes → 0, unlabeled 4 → 2, for a network of two classes.

    Args:
        classes: the new classes 1…K in order; an entry is a class or a list of classes that
            become one.
        num_classes: C of the input, background included.

    Raises:
        ValueError: no class, a class twice, or one outside 1…C−1.

    Examples:
        >>> acdc = np.array([[0, 1, 2, 3, 4]])
        >>> print(SelectClasses([3], num_classes=4)(acdc))  # the left ventricle alone
        [[0 0 0 1 2]]
        >>> print(SelectClasses([1, [2, 3]], num_classes=4)(acdc))  # right, whole left
        [[0 1 2 2 3]]
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012 (declared so by MONAI)

    def __init__(self, classes: Sequence[int | Sequence[int]], num_classes: int) -> None:
        self.num_classes = check_num_classes(num_classes)
        groups = [
            [entry] if isinstance(entry, (int, np.integer)) else list(entry) for entry in classes
        ]
        flat = [value for group in groups for value in group]
        if not flat or not all(groups) or len(set(flat)) != len(flat):
            raise ValueError(f"classes must name each class once, got {list(classes)}")
        if min(flat) < 1 or max(flat) >= num_classes:
            raise ValueError(
                f"classes must be foreground classes, 1 to {num_classes - 1}, got {list(classes)}"
            )
        self.table = np.zeros(num_classes + 1, dtype=np.uint8)
        for new, group in enumerate(groups, start=1):
            self.table[group] = new
        self.table[num_classes] = len(groups) + 1

    def __call__(self, label: NdarrayOrTensor) -> NdarrayOrTensor:
        """Select and renumber.

        Args:
            label: any shape, values 0…C (C: unlabeled).

        Returns:
            The same container, shape and metadata; uint8, values 0…K and K+1 (unlabeled).

        Raises:
            ValueError: a value is fractional or outside 0…C.
        """
        return like(self.table[class_array(label, self.num_classes, describe(label))], label)


class MaskUnannotatedClasses(Transform):
    """Keep what an annotator of some classes can know; make the rest unlabeled.

    Where only some foreground classes were annotated, a 0 may hide one of the others, and a value
    of another class is none that was asked for: both become unlabeled. With every foreground
    class annotated, the label is returned as it is.

    Args:
        num_classes: C, background included.

    Examples:
        >>> label = np.array([[0, 1, 3]])
        >>> print(MaskUnannotatedClasses(num_classes=4)(label, annotated_classes=[3]))
        [[4 4 3]]
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012 (declared so by MONAI)

    def __init__(self, num_classes: int) -> None:
        self.num_classes = check_num_classes(num_classes)

    def __call__(self, label: NdarrayOrTensor, annotated_classes: Sequence[int]) -> NdarrayOrTensor:
        """Mask one label.

        Args:
            label: any shape, values 0…C (C: unlabeled).
            annotated_classes: the foreground classes (1…C−1) that were annotated.

        Returns:
            The same container, shape and metadata; uint8, values 1…C if a class was not annotated.

        Raises:
            ValueError: an entry is not a foreground class, or a label value is fractional or
                outside 0…C.
        """
        source = describe(label)
        annotated = sorted({int(value) for value in annotated_classes})
        if annotated and (annotated[0] < 1 or annotated[-1] >= self.num_classes):
            raise ValueError(
                f"annotated_classes of {source} must be foreground classes, 1 to "
                f"{self.num_classes - 1}, got {annotated}"
            )
        array = class_array(label, self.num_classes, source)
        if len(annotated) == self.num_classes - 1:
            return like(array, label)
        table = np.full(self.num_classes + 1, self.num_classes, dtype=np.uint8)
        table[annotated] = annotated
        return like(table[array], label)


class ConvertUnlabeledd(OfEachKey):
    """Dictionary form of :class:`ConvertUnlabeled`, with its arguments."""

    array = ConvertUnlabeled
    backend = ConvertUnlabeled.backend


class SelectClassesd(OfEachKey):
    """Dictionary form of :class:`SelectClasses`, with its arguments."""

    array = SelectClasses
    backend = SelectClasses.backend


class MaskUnannotatedClassesd(OfEachKey):
    """Dictionary form of :class:`MaskUnannotatedClasses`, with its arguments.

    An item without ``annotated_key``, or with None there, is passed on as it is. The class numbers
    are the file's, so this comes before :class:`SelectClassesd`.

    Args:
        keys: the labels' keys.
        annotated_key: the item's key for its list of annotated foreground classes.
        **arguments: further ones.
    """

    array = MaskUnannotatedClasses
    backend = MaskUnannotatedClasses.backend

    def __init__(
        self,
        keys: KeysCollection = "label",
        *,
        annotated_key: str = "annotated_classes",
        **arguments: Any,
    ) -> None:
        super().__init__(keys, **arguments)
        self.annotated_key = annotated_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Mask the label of each key; see :meth:`MaskUnannotatedClasses.__call__`."""
        d = dict(data)
        annotated = d.get(self.annotated_key)
        if annotated is None:
            return d
        for key in self.key_iterator(d):
            d[key] = self.transform(d[key], annotated)
        return d


class SupervisionFromLabeld(MapTransform):
    """Set ``supervision`` from the label's values where the item has none.

    ``"full"`` when every voxel is labeled, ``"partial"`` when some are not, ``"none"`` without
    a label. MONAI Label hands over bare ``{image, label}`` items.

    Args:
        keys: the label's key.
        num_classes: C of the label as it is now; C = unlabeled.
    """

    def __init__(self, keys: KeysCollection, num_classes: int) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.num_classes = num_classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """A copy of the item with its ``supervision``."""
        item = dict(data)
        if item.get("supervision") is None:
            present = list(self.key_iterator(item))
            item["supervision"] = (
                label_kind(item[present[0]], self.num_classes) if present else "none"
            )
        return item
