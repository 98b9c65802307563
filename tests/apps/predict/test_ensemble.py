"""Several runs averaged: one mask of their mean, and a map of where they differ."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from typer.testing import CliRunner, Result

from mixseg.apps.bundle.find import ROOT
from mixseg.apps.bundle.weights import build_network
from mixseg.apps.predict.pipeline import disagreement
from mixseg.cli.main import app
from mixseg.configuration.yaml_text import set_values

SMALL = {"features": [2, 4, 8], "slice_size": 32, "crop_size": [32, 32], "spatial_size": [32, 32]}
SMALL |= {"mirror_axes": [], "keep_component": None}


def make_run(folder: Path, seed: int, bundle: str = "acdc_mixed") -> Path:
    """A folder as a training leaves it, its network drawn."""
    shutil.copytree(ROOT / "bundles" / bundle / "configs", folder / "configs")
    inference = folder / "configs" / "inference.yaml"
    inference.write_text(set_values(inference.read_text(), SMALL))
    torch.manual_seed(seed)
    (folder / "models").mkdir()
    network = build_network(inference, {})
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder


def predict(*words: object) -> Result:
    more = ["--device", "cpu", "--no-preview", "--quiet"]
    return CliRunner(env={"COLUMNS": "600"}).invoke(app, ["predict", *map(str, words), *more])


def read(folder: Path, name: str) -> np.ndarray:
    return np.asarray(nib.load(folder / name).dataobj)


def test_the_mean_makes_the_mask_and_the_differences_a_map(images: Path, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"fold_{seed}", seed) for seed in (1, 2, 3)]
    alone = []
    for run in runs:
        output = tmp_path / f"{run.name}_masks"
        assert predict(run, "-i", images, "-o", output, "--probabilities").exit_code == 0
        assert not list(output.glob("*disagreement*"))
        alone.append(output)
    output = tmp_path / "masks"
    result = predict(*runs, "-i", images, "-o", output, "--probabilities")
    assert result.exit_code == 0, result.output
    assert result.output.count("averaged with ") == 2
    mask = sorted(p.name for p in output.glob("a_*") if "_probabilities" not in p.name)
    (name,) = (one for one in mask if "_disagreement" not in one)
    stem = name.removesuffix(".nii.gz")
    members = [read(one, f"{stem}_probabilities.nii.gz") for one in alone]
    mean = np.mean(members, axis=0)
    np.testing.assert_allclose(read(output, f"{stem}_probabilities.nii.gz"), mean, atol=1e-5)
    np.testing.assert_array_equal(read(output, name), mean.argmax(axis=-1))
    apart = read(output, f"{stem}_disagreement.nii.gz")
    assert apart.shape == mean.shape[:-1]
    assert apart.max() > 0.05
    report = json.loads((output / "report.json").read_text())
    case = next(case for case in report["cases"] if case["case_id"] == "a")
    assert case["mean_disagreement"] == pytest.approx(apart.mean(), abs=1e-5)
    assert case["outputs"]["disagreement"] == f"{stem}_disagreement.nii.gz"
    assert len(report["averaged_with"]) == 2
    # Finished cases are skipped, unless another run joins in.
    again = predict(*runs, "-i", images, "-o", output)
    assert "0 predicted, 3 were finished already" in again.output
    assert "3 predicted" in predict(*runs[:2], "-i", images, "-o", output).output


def test_one_run_thrice_is_that_run(images: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 1)
    predict(run, "-i", images, "-o", tmp_path / "one")
    predict(run, run, run, "-i", images, "-o", tmp_path / "three")
    for path in (tmp_path / "one").glob("*.nii.gz"):
        np.testing.assert_array_equal(
            read(tmp_path / "three", path.name), read(path.parent, path.name)
        )
    for path in (tmp_path / "three").glob("*_disagreement.nii.gz"):
        assert read(path.parent, path.name).max() < 1e-5


def test_the_disagreement_of_two_is_scipys_divergence() -> None:
    one, two = np.random.default_rng(0).dirichlet([0.5] * 3, size=(2, 4, 5)).transpose(0, 3, 1, 2)
    expected = jensenshannon(one, two, axis=0) ** 2 / math.log(3)
    found = disagreement([one.astype(np.float32), two.astype(np.float32)])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    sure = np.eye(2, dtype=np.float32)[:, :, None]  # (2 networks, 2 classes, 1 voxel)
    assert disagreement(list(sure)) == pytest.approx(1)
    unsure = np.full((2, 1), 0.5, np.float32)
    assert disagreement([unsure, unsure]) == 0


def test_what_cannot_be_averaged(images: Path, tmp_path: Path) -> None:
    run, other = make_run(tmp_path / "a", 1), make_run(tmp_path / "b", 1, "acdc_lv_mixed")
    result = predict(run, other, "-i", images, "-o", tmp_path / "o")
    assert result.exit_code == 1
    assert "cannot be averaged: their classes are" in result.output
    weights = run / "models" / "model.pt"
    result = predict(run, run, "-i", images, "-o", tmp_path / "o", "--weights", weights)
    assert "--weights and --exported need a single bundle" in result.output
