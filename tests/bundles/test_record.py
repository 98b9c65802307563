"""A run knows itself: its folder is a bundle, which is resumed as itself or not at all."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import yaml
from monai.bundle import ConfigParser
from typer.testing import CliRunner

from mixseg.cli.main import app
from mixseg.configuration import RunRefusedError, cause_of

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
CONFIGS = BUNDLES / "acdc_mixed" / "configs"
#: Away from the bundle's own settings, in what decides about masks above all.
SMALL: dict[str, Any] = {
    "slice_size": 40,
    "crop_size": [32, 32],
    "spatial_size": [16, 16],
    "features": [4, 8, 8],
    "normalization": "zscore",
    "epoch_length": 2,
    "num_full": 2,
    "num_partial": 3,
    "batch_full": 2,
    "batch_partial": 2,
    "max_epochs": 1,
    "val_interval": 1,
    "checkpoint_interval": 1,
}


def run(run_id: str, *files: str | Path, **settings: Any) -> None:
    texts = {k: str(v) if isinstance(v, Path) else v for k, v in settings.items()}
    monai.bundle.run(
        run_id=run_id,
        config_file=[str(CONFIGS / file) for file in files],
        logging_file=False,
        device="cpu",
        progress=False,
        **texts,
    )


def refusal(**settings: Any) -> str:
    """What a training that is refused says."""
    with pytest.raises(Exception, match="Failed to") as caught:
        run("training", "train.yaml", **settings)
    cause = cause_of(caught.value)
    assert isinstance(cause, RunRefusedError)
    return str(cause)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tools: SimpleNamespace) -> SimpleNamespace:
    """One epoch of the small network, and its masks by the settings given again."""
    folder = tmp_path_factory.mktemp("record")
    tools.write_datalist(folder / "data", scribbles=True)
    places = {"dataset_dir": folder / "data", "output_dir": folder / "run"}
    run("training", "train.yaml", **SMALL, **places, **{"optimizer#weight_decay": 0.01})
    network = {k: v for k, v in SMALL.items() if k in load(CONFIGS / "inference.yaml")}
    run("inference", "inference.yaml", **network, dataset_dir=folder / "data" / "image",
        output_dir=folder / "masks", checkpoint=folder / "run" / "models" / "model.pt")  # fmt: skip
    run("evaluating", "train.yaml", "evaluate.yaml", **SMALL, dataset_dir=folder / "data",
        output_dir=folder / "scores", ckpt_dir=folder / "run" / "models")  # fmt: skip
    return SimpleNamespace(folder=folder, run=folder / "run", data=folder / "data")


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def same_masks(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.glob("*.nii.gz"))
    assert len(names) == 8
    return all(np.array_equal(voxels(one / name), voxels(other / name)) for name in names)


def test_the_record_is_the_bundle_with_the_runs_values(trained: Any) -> None:
    configs = trained.run / "configs"
    names = {"train.yaml", "inference.yaml", "evaluate.yaml", "multi_gpu_train.yaml"}
    assert {p.name for p in configs.iterdir()} == names | {"metadata.json", "logging.conf"}
    for name in ("LICENSE", "docs/README.md", "docs/data_license.txt", "models/model.pt"):
        assert (trained.run / name).is_file()
    before, now = load(CONFIGS / "train.yaml"), load(configs / "train.yaml")
    assert {k: now[k] for k in SMALL} == SMALL
    assert now["optimizer"] == {**before["optimizer"], "weight_decay": 0.01}
    assert now["dataset_dir"] == str(trained.data)
    own = {*SMALL, "imports", "bundle_root", "dataset_dir", "output_dir", "optimizer", "progress"}
    kept = [k for k in before if k not in own]
    assert {k: now[k] for k in kept} == {k: before[k] for k in kept}
    shared = {k: v for k, v in SMALL.items() if k in load(configs / "inference.yaml")}
    assert {"features", "normalization", "spatial_size"} <= shared.keys()
    assert {k: load(configs / "inference.yaml")[k] for k in shared} == shared


def test_comments_survive(trained: Any) -> None:
    before = (CONFIGS / "train.yaml").read_text().splitlines()
    now = (trained.run / "configs" / "train.yaml").read_text().splitlines()
    comments = [line.partition("#")[2] for line in before if "  #" in line or line[:1] == "#"]
    assert comments == [line.partition("#")[2] for line in now if "  #" in line or line[:1] == "#"]


def test_no_path_of_the_machine_but_the_datas(trained: Any) -> None:
    texts = [p.read_text() for p in (trained.run / "configs").iterdir()]
    texts.append((trained.run / "record.json").read_text())
    for text in texts:
        without_data = text.replace(str(trained.data), "")
        assert str(trained.folder) not in without_data
        assert str(BUNDLES.parent) not in without_data


def test_a_moved_run_predicts_the_same_masks_from_anywhere(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By ``monai.bundle`` and by ``mixseg predict``, without a setting."""
    moved = tmp_path / "elsewhere"
    shutil.copytree(trained.run, moved)
    monkeypatch.chdir(tmp_path)
    images = trained.data / "image"
    run("inference", moved / "configs" / "inference.yaml", dataset_dir=images,
        output_dir=tmp_path / "masks")  # fmt: skip
    assert same_masks(trained.folder / "masks", tmp_path / "masks")
    words = ["predict", moved, "-i", images, "-o", tmp_path / "out", "--no-preview", "--quiet"]
    result = CliRunner().invoke(app, [str(word) for word in (*words, "--device", "cpu")])
    assert result.exit_code == 0, result.output
    assert same_masks(trained.folder / "masks", tmp_path / "out")


@pytest.mark.parametrize("files", [("evaluate.yaml",), ("train.yaml", "evaluate.yaml")])
def test_an_evaluation_without_settings_equals_one_with_them(
    trained: Any, tmp_path: Path, files: tuple[str, ...]
) -> None:
    run("evaluating", *(trained.run / "configs" / name for name in files), output_dir=tmp_path)
    metrics = [(folder / "metrics.csv").read_text() for folder in (tmp_path, trained.folder / "scores")]
    assert metrics[0] == metrics[1]
    found, given = (
        json.loads((folder / "summary.json").read_text())["configuration"]
        for folder in (tmp_path, trained.folder / "scores")
    )
    assert found == given
    assert {k: found[k] for k in SMALL} == SMALL
