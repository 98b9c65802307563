"""Small images and masks of people's folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

SHAPE = (6, 5, 3)  # 90 voxels


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def image(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, shape).astype(np.int16)


def mask(*values: int, dtype: Any = np.uint8) -> np.ndarray:
    label = np.zeros(SHAPE, dtype)
    for place, value in enumerate(values):
        label[place + 1] = value
    return label
