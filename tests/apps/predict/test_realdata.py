"""``mixseg predict`` on twenty real volumes, two of them broken, in a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytestmark = [pytest.mark.realdata, pytest.mark.slow]


def predict(predictor: Any, source: Path, output: Path) -> subprocess.CompletedProcess[str]:
    words: list[object] = [sys.executable, "-m", "mixseg.cli.main", "predict", predictor.bundle]
    words += ["-i", source, "-o", output, "--checkpoint", predictor.weights, "--quiet"]
    words += ["--device", "cpu", "--entropy", "--no-preview"]
    for name, value in predictor.settings.items():
        words += [f"--{name}", json.dumps(value)]
    return subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)


def test_twenty_volumes_of_which_two_are_broken(
    acdc_dir: Path, predictor: Any, tmp_path: Path
) -> None:
    predictor.settings = {
        "features": [2, 4, 8],
        "slice_size": [256, 256],
        "crop_size": [128, 128],
        "spatial_size": [64, 64],
    }
    # The largest first, so that five of them need what twenty do.
    images = sorted((acdc_dir / "image").iterdir(), key=lambda p: (-p.stat().st_size, p.name))[:20]
    many, few = tmp_path / "many", tmp_path / "few"
    for folder, count in ((many, 20), (few, 5)):
        folder.mkdir()
        for image in images[:count]:
            shutil.copy(image, folder)
    cut, series = many / images[18].name, many / images[19].name
    cut.write_bytes(cut.read_bytes()[:40_000])
    frame = nib.load(images[19])
    data = np.stack([np.asanyarray(frame.dataobj)] * 2, axis=-1)
    nib.save(nib.Nifti1Image(data, frame.affine, frame.header), series)

    done = predict(predictor, many, tmp_path / "masks")
    assert done.returncode == 1, done.stderr
    assert "18 predicted: masks and report.html are in" in done.stdout
    assert "error: 2 of 20 images could not be predicted:" in done.stderr
    assert f"{cut}: the image is not a readable NIfTI file (" in done.stderr
    sizes = "×".join(map(str, data.shape[:3]))
    assert f"{series}: the image has 2 channels ({sizes}), the bundle takes 1" in done.stderr
    masks = sorted((tmp_path / "masks").glob("*_LV.nii.gz"))
    assert len(masks) == 18
    predictor.by_monai(many / images[0].name, tmp_path / "monai")
    name = images[0].name.replace(".nii.gz", "_LV.nii.gz")
    for image in images[:18]:
        mask, scan = nib.load(tmp_path / "masks" / f"{image.name[:-7]}_LV.nii.gz"), nib.load(image)
        assert mask.shape == scan.shape
        np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-6)
        assert mask.header.get_xyzt_units() == scan.header.get_xyzt_units()
    one, other = (nib.load(tmp_path / folder / name) for folder in ("masks", "monai"))
    np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))

    assert predict(predictor, few, tmp_path / "few_masks").returncode == 0
    peaks = [
        json.loads((tmp_path / folder / "report.json").read_text())["peak_memory_mb"]
        for folder in ("few_masks", "masks")
    ]
    # What the probabilities of the further thirteen cases alone would take, if they were kept.
    kept = sum(np.prod(nib.load(image).shape) for image in images[5:18]) * 2 * 4 / 1e6
    assert peaks[1] - peaks[0] < kept / 2, (peaks, kept)
