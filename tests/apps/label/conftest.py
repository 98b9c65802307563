from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

Store = Callable[[dict[str, dict[str, Any] | None]], Path]
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Makes a folder of studies as a MONAI Label server leaves it."""

    def make(scans: dict[str, dict[str, Any] | None]) -> Path:
        """Id → the label's ``values`` (8 voxels) and what was declared, or None without label."""
        folder = tmp_path / "studies"
        (folder / "labels" / "final").mkdir(parents=True, exist_ok=True)
        objects = {}
        for case_id, label in scans.items():
            image = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
            nib.save(nib.Nifti1Image(image, AFFINE), folder / f"{case_id}.nii.gz")
            labels = {}
            if label is not None:
                values = np.array(label["values"], dtype=np.uint8).reshape(2, 2, 2)
                path = folder / "labels" / "final" / f"{case_id}.nii.gz"
                nib.save(nib.Nifti1Image(values, AFFINE), path)
                info = {key: value for key, value in label.items() if key != "values"}
                labels = {"final": {"ext": ".nii.gz", "info": info}}
            objects[case_id] = {"image": {"ext": ".nii.gz", "info": {}}, "labels": labels}
        content = {"name": "", "description": "", "images_dir": ".", "labels_dir": "labels"}
        (folder / "datastore_v2.json").write_text(json.dumps({**content, "objects": objects}))
        return folder

    return make
