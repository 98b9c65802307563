"""Cases whose voxels hold their own places, so that a crop tells where it was cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mixseg.data import VolumeDataset

CROP = (4, 4, 3)
UNLABELED = 2


def coordinates(shape: tuple[int, int, int]) -> np.ndarray:
    """(1, H, W, D): every voxel holds its own place, exact in float16 (below 2048)."""
    assert np.prod(shape) < 2048
    return np.arange(np.prod(shape), dtype=np.float32).reshape(1, *shape)


def case(case_id: str, shape: tuple[int, int, int] = (9, 8, 7), **options: Any) -> dict[str, Any]:
    image = coordinates(shape)
    item: dict[str, Any] = {"image": image, "case_id": case_id, "supervision": "full"}
    if options.pop("labeled", True):
        # A label that is a function of the place too.
        item["label"] = (image % 7 < 3).astype(np.uint8)
    return item | options


def make(cases: list[dict[str, Any]], **options: Any) -> VolumeDataset:
    given = {"num_classes": 2, "crop_size": CROP, "progress": False, "num_workers": 1} | options
    return VolumeDataset(cases, given.pop("transform", None), **given)


def same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(v, b[k]) if isinstance(v, torch.Tensor) else v == b[k] for k, v in a.items()
    )
