"""Training, evaluation and inference of the bundle on tiny data, from files to files."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from mixseg.networks import DualBranchUNet

NETWORK = {"features": [4, 8, 16], "slice_size": [32, 32], "device": "cpu", "progress": False}


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def images_of(data: Path) -> list[Path]:
    return sorted(p for p in data.rglob("*.nii.gz") if not p.name.endswith("_gt.nii.gz"))


@pytest.fixture(scope="module")
def evaluated(
    trained: Any, tools: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder: Path = tmp_path_factory.mktemp("evaluated")
    places = {"dataset_dir": trained.data, "output_dir": folder, "ckpt_dir": trained.models}
    tools.run_bundle("evaluating", "train.yaml", "evaluate.yaml", **tools.tiny, **places)
    return folder


@pytest.fixture(scope="module")
def masks(trained: Any, tools: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inference of every image of the training folder."""
    folder: Path = tmp_path_factory.mktemp("masks")
    weights = trained.models / "model.pt"
    places = {"dataset_dir": trained.data, "output_dir": folder, "checkpoint": weights}
    tools.run_bundle("inference", "inference.yaml", **NETWORK, **places)
    return folder


def test_training_leaves_weights_that_load_strictly(trained: Any) -> None:
    network = DualBranchUNet(features=[4, 8, 16])
    state = torch.load(trained.models / "model.pt", weights_only=True)
    network.load_state_dict(state, strict=True)
    assert all(torch.isfinite(v).all() for v in state.values())
    # Adam with a rate of 1e-4 moves a trained parameter by at most about 1e-4 a step, 4 steps.
    full = torch.load(trained.output / "checkpoint.pt", weights_only=True)
    assert full["epoch"] == 2
    assert full["iteration"] == 4


def test_training_leaves_its_history(trained: Any) -> None:
    rows = read_csv(trained.output / "history.csv")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row in rows:
        # The joint objective, eq. 5, with the default weights.
        terms = {name: float(row[name]) for name in ("ce_full", "ce_weak", "kd", "entropy")}
        joint = terms["ce_full"] + 0.001 * terms["ce_weak"] + 50 * terms["kd"] + terms["entropy"]
        assert float(row["loss"]) == pytest.approx(joint, rel=1e-5)
    assert rows[0]["val_dice_student"] == ""  # val_interval is 2
    assert 0 <= float(rows[1]["val_dice_student"]) <= 1
    for name in ("curves.png", "cases.png"):
        assert (trained.output / name).read_bytes().startswith(b"\x89PNG")
    assert list((trained.output / "tensorboard").iterdir())


def test_scores_are_those_of_the_masks_that_inference_writes(
    trained: Any, evaluated: Path, masks: Path
) -> None:
    rows = read_csv(evaluated / "metrics.csv")
    # 10 patients: 7 for training, 1 for validation, 2 for test, of 2 frames each.
    assert len(rows) == 4 * 3
    assert {row["branch"] for row in rows} == {"teacher", "student", "ensemble"}
    for row in rows:
        if row["branch"] != "student":
            continue
        case = row["case_id"]
        mask = np.asarray(nib.load(masks / f"{case}_LV.nii.gz").dataobj) == 1
        label = nib.load(trained.data / case[:10] / f"{case}_gt.nii.gz")
        reference = np.asarray(label.dataobj) == 3
        dice = 2 * (mask & reference).sum() / (mask.sum() + reference.sum())
        assert float(row["dice"]) == pytest.approx(dice, abs=1e-6)
        assert int(row["reference_voxels"]) == reference.sum()
        assert int(row["prediction_voxels"]) == mask.sum()
        assert row["hd95_mm"] != ""  # these headers know their spacing


def test_summary_says_what_was_run(evaluated: Path) -> None:
    summary = json.loads((evaluated / "summary.json").read_text())
    rows = read_csv(evaluated / "metrics.csv")
    student = [float(row["dice"]) for row in rows if row["branch"] == "student"]
    scores = summary["scores"]["student"]["LV"]
    assert scores["n"] == 4
    assert scores["dice"]["mean"] == pytest.approx(np.mean(student))
    assert scores["dice"]["sd"] == pytest.approx(np.std(student, ddof=1))
    assert scores["worst"]["dice"] == pytest.approx(min(student))
    assert summary["seed"] == 0
    assert len(summary["data_hash"]) == 64
    configuration = summary["configuration"]
    assert configuration["split"] == "test"
    assert (configuration["num_full"], configuration["num_partial"]) == (2, 3)
    assert configuration["features"] == [4, 8, 16]
    assert (evaluated / "cases.png").read_bytes().startswith(b"\x89PNG")


def test_every_mask_has_its_images_own_geometry(trained: Any, masks: Path) -> None:
    images = images_of(trained.data)
    assert len(list(masks.rglob("*.nii.gz"))) == len(images) == 20
    for path in images:
        image, mask = nib.load(path), nib.load(masks / path.name.replace(".nii", "_LV.nii"))
        assert mask.shape == image.shape
        np.testing.assert_allclose(mask.affine, image.affine, atol=1e-5)
        assert mask.header.get_xyzt_units() == image.header.get_xyzt_units() == ("mm", "sec")
        assert mask.get_data_dtype() == np.uint8
        assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1}


def command(run_id: str, *files: Path, **settings: Any) -> list[str]:
    words = [sys.executable, "-m", "monai.bundle", "run", run_id]
    words += ["--config_file", str([str(file) for file in files])]
    for name, value in settings.items():
        words += [f"--{name}", str(value)]
    return words


def run_outside(words: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
def test_one_unseen_image_from_another_working_directory(
    trained: Any, tools: SimpleNamespace, tmp_path: Path
) -> None:
    """Oblique, in micrometers, one slice, integers, plain .nii: nothing like the training data."""
    angle = np.deg2rad(25)
    affine = np.diag([900.0, 1100.0, 7000.0, 1.0])
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine = rotation @ affine
    affine[:3, 3] = (12.0, -7.0, 3.0)
    values = tools.heart((37, 22, 1), 5)[0].astype(np.int16)
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("micron", "msec")
    nib.save(image, tmp_path / "scan.nii")

    words = command(
        "inference",
        tools.configs / "inference.yaml",
        **{**NETWORK, "features": "[4,8,16]", "slice_size": "[32,32]"},
        dataset_dir="scan.nii",
        output_dir="out",
        checkpoint=trained.models / "model.pt",
    )
    done = run_outside(words, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["scan_LV.nii.gz"]
    mask = nib.load(tmp_path / "out" / "scan_LV.nii.gz")
    assert mask.shape == (37, 22, 1)
    np.testing.assert_allclose(mask.affine, affine, rtol=1e-5, atol=1e-3)
    assert mask.header.get_xyzt_units() == ("micron", "msec")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "value", "last_line"),
    [
        (
            "num_full",
            "99",
            "error: num_full is 99, but the training split has 7 fully labeled patients "
            "(7 labeled in all)",
        ),
        (
            "lamda_ent",
            "0",
            "error: no such option: --lamda_ent (did you mean --lambda_ent?). The settings are at "
            "the top of the configuration files",
        ),
    ],
)
def test_a_mistake_ends_with_its_cause_and_a_failing_exit_status(
    trained: Any, tools: SimpleNamespace, tmp_path: Path, setting: str, value: str, last_line: str
) -> None:
    words = command(
        "training",
        tools.configs / "train.yaml",
        dataset_dir=trained.data,
        output_dir=tmp_path / "out",
        ckpt_dir=tmp_path / "models",
        **{setting: value},
    )
    done = run_outside(words, tmp_path)
    assert done.returncode == 1
    assert done.stderr.rstrip().splitlines()[-1] == last_line
    assert not list(tmp_path.rglob("*.pt"))
