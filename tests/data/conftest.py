"""Small NIfTI cases in a temporary folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

SHAPE = (6, 5, 3)


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


@pytest.fixture
def make_case(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Write one case (a ramp image, a label with a block of class 1) and return its entry."""

    def make(
        case_id: str,
        image: np.ndarray | None = None,
        label: np.ndarray | None = None,
        affine: np.ndarray | None = None,
        **keys: Any,
    ) -> dict[str, Any]:
        if image is None:
            image = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
        if label is None:
            label = np.zeros(SHAPE, dtype=np.uint8)
            label[2:4, 2:4] = 1
        write_nifti(tmp_path / f"{case_id}.nii.gz", image)
        write_nifti(tmp_path / f"{case_id}_gt.nii.gz", label, affine)
        entry = {
            "image": f"{case_id}.nii.gz",
            "label": f"{case_id}_gt.nii.gz",
            "supervision": "full",
            "case_id": case_id,
        }
        return entry | keys

    return make


@pytest.fixture(params=["memory", "disk"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    return {"cache_dir": None if request.param == "memory" else tmp_path / "cache"}
