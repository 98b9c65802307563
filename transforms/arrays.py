"""Label arrays in and out of transforms: checks, class ranges, containers."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import numpy as np
from monai.config.type_definitions import KeysCollection, NdarrayOrTensor
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform, Transform
from monai.utils.misc import ImageMetaKey
from monai.utils.type_conversion import convert_to_dst_type, convert_to_numpy

from mixseg.files.reading import ROUNDING

MAX_CLASSES = 255
"""uint8 labels hold the classes 0…254 and, as 255, the unlabeled value."""


def check_num_classes(num_classes: int) -> int:
    """Return ``num_classes`` (background included) if uint8 can hold it and the unlabeled value."""
    if not 2 <= num_classes <= MAX_CLASSES:
        raise ValueError(
            f"num_classes counts the background and must be 2 to {MAX_CLASSES}, got {num_classes}"
        )
    return int(num_classes)


def describe(label: Any) -> str:
    """``label '<file>'`` where the metadata of a ``MetaTensor`` names the file, else ``label``."""
    name = label.meta.get(ImageMetaKey.FILENAME_OR_OBJ) if isinstance(label, MetaTensor) else None
    return f"label {str(name)!r}" if name else "label"


def integral_array(label: Any, source: str) -> np.ndarray:
    """The label as a NumPy integer or boolean array; floats if they are whole but for rounding.

    Args:
        label: array or tensor of any shape.
        source: how error messages call the label, see :func:`describe`.

    Raises:
        ValueError: a value is fractional or not finite; up to ten such values are listed.
    """
    array = np.asarray(convert_to_numpy(label))
    if array.dtype.kind in "iub":
        return array
    if array.dtype.kind != "f":
        raise ValueError(f"{source} has dtype {array.dtype}; class numbers are integers")
    with np.errstate(invalid="ignore"):
        whole = np.abs(array - np.rint(array)) <= ROUNDING
    if not whole.all():
        wrong = np.unique(array[~whole])[:10].tolist()
        raise ValueError(
            f"{source} holds values that are not whole numbers: {wrong}; labels must be resampled "
            "with nearest-neighbor interpolation and must not be probabilities"
        )
    return np.rint(array).astype(np.int64)


def class_array(label: Any, num_classes: int, source: str) -> np.ndarray:
    """The label as a uint8 array of 0…C−1 and C (unlabeled), in the label's own shape.

    Args:
        label: array or tensor of any shape.
        num_classes: C, background included.
        source: how error messages call the label, see :func:`describe`.

    Raises:
        ValueError: a value is fractional or outside 0…C; up to ten such values are listed.
    """
    array = integral_array(label, source)
    if array.size and (array.min() < 0 or array.max() > num_classes):
        wrong = np.unique(array[(array < 0) | (array > num_classes)])[:10].tolist()
        raise ValueError(
            f"{source} holds {wrong}, but {num_classes} classes allow 0 to {num_classes - 1} and "
            f"{num_classes} for unlabeled; convert the file with ConvertUnlabeled first, or "
            "correct num_classes"
        )
    return array.astype(np.uint8)


def channel_first_classes(label: Any, num_classes: int) -> np.ndarray:
    """:func:`class_array` of a channel-first label, without its channel.

    Args:
        label: (1, H, W) or (1, H, W, D).
        num_classes: C, background included.

    Returns:
        uint8 array (H, W) or (H, W, D).

    Raises:
        ValueError: another shape, or a value that :func:`class_array` refuses.
    """
    source = describe(label)
    if label.ndim not in (3, 4) or label.shape[0] != 1:
        raise ValueError(
            f"{source} must have the shape (1, H, W) or (1, H, W, D), got {tuple(label.shape)}"
        )
    return class_array(label, num_classes, source)[0]


def like(array: np.ndarray, label: NdarrayOrTensor) -> NdarrayOrTensor:
    """``array`` in the container of ``label`` (NumPy, tensor or MetaTensor; device, metadata)."""
    return convert_to_dst_type(np.ascontiguousarray(array), label, dtype=array.dtype)[0]


class OfEachKey(MapTransform):
    """Base of the dictionary forms: the array transform :attr:`array` on each key."""

    array: ClassVar[type[Transform]]

    def __init__(
        self, keys: KeysCollection, *, allow_missing_keys: bool = False, **arguments: Any
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform: Any = self.array(**arguments)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Transform a copy of the item."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.transform(d[key])
        return d
