"""Supervision kind of a case, where the datalist does not say it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from mixseg.transforms.labels import label_kind

__all__ = ["SupervisionFromLabeld"]


class SupervisionFromLabeld(MapTransform):
    """Set ``supervision`` from the label's values where the item has none.

    ``"full"`` when every voxel is labelled, ``"partial"`` when some are not, ``"none"`` without
    a label. MONAI Label hands over bare ``{image, label}`` items.

    Args:
        keys: the label's key.
        num_classes: C of the label as it is now; C = unlabelled.
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
