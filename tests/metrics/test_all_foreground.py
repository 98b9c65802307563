"""What a branch that predicts foreground everywhere scores on real ACDC left ventricles.

METHODS §1.1 gives 3.1 Dice points and HD95 136 (0.9 to 5.6 per volume, 50 volumes): the figure by
which a collapsed branch is recognized. It is reproduced by end-diastolic frames whose slices are
resized to 256², the papers' preparation. End-systolic ventricles are smaller and native slices are
mostly smaller than 256², so all 30 test volumes at native size give less of both.
"""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist

from mixseg.metrics import CaseScore, score_case

LV = 3
Volumes = list[tuple[str, NDArray[np.uint8]]]


def _test_volumes(acdc_dir: Path) -> Volumes:
    """LV masks of the 15 test patients, end-diastole before end-systole."""
    patients = json.loads((acdc_dir / "split.json").read_text(encoding="utf-8"))["test"]
    volumes = []
    for patient in patients:
        for path in sorted((acdc_dir / "label").glob(f"{patient}_frame*.nii.gz")):
            label = np.asarray(nib.load(path).dataobj)
            volumes.append((path.name, (label == LV).astype(np.uint8)))
    assert len(volumes) == 30
    return volumes


def _resize_256(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows, columns = (((np.arange(256) + 0.5) * size / 256).astype(int) for size in mask.shape[:2])
    return mask[rows][:, columns]


def _all_foreground(name: str, mask: NDArray[np.uint8]) -> CaseScore:
    (row,) = score_case(
        np.ones_like(mask),
        mask,
        case_id=name,
        branch="student",
        class_names=["background", "LV"],
        num_classes=2,
    )
    return row


@pytest.mark.realdata
def test_end_diastole_at_256_gives_the_reference_figure(acdc_dir: Path) -> None:
    volumes = _test_volumes(acdc_dir)[::2]
    rows = [_all_foreground(name, _resize_256(mask)) for name, mask in volumes]
    dice = [100 * row.dice for row in rows]
    assert np.mean(dice) == pytest.approx(3.1, abs=0.5)
    assert np.mean([row.hd95_vox for row in rows]) == pytest.approx(136, abs=2)
    assert min(dice) > 0.9
    assert max(dice) == pytest.approx(5.6, abs=0.05)


@pytest.mark.realdata
def test_native_volumes_follow_from_the_definitions(acdc_dir: Path) -> None:
    rows = []
    for name, mask in _test_volumes(acdc_dir):
        row = _all_foreground(name, mask)
        rows.append(row)
        # Every voxel is predicted, so Dice = 2|R| / (|R| + voxels).
        assert row.dice == pytest.approx(2 * mask.sum() / (mask.sum() + mask.size), rel=1e-14)
    assert 100 * np.mean([row.dice for row in rows]) < 2.6
    assert np.mean([row.hd95_vox for row in rows]) == pytest.approx(130, abs=2)


@pytest.mark.realdata
def test_thinned_volumes_equal_brute_force(acdc_dir: Path) -> None:
    for name, mask in _test_volumes(acdc_dir)[:4]:
        thin = mask[::3, ::3]  # keeps the table of all pairs small
        first, second = (
            np.argwhere((item != 0) & ~binary_erosion(item)) for item in (np.ones_like(thin), thin)
        )
        table = cdist(first, second)
        expected = np.percentile(np.concatenate([table.min(axis=1), table.min(axis=0)]), 95)
        assert _all_foreground(name, thin).hd95_vox == pytest.approx(expected, rel=1e-13)
