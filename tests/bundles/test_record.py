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
import torch
import yaml
from monai.bundle import ConfigParser
from typer.testing import CliRunner

from mixseg.apps.bundle.weights import bundle_weights
from mixseg.apps.label.model import make_model_folder
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
    metrics = [
        (folder / "metrics.csv").read_text() for folder in (tmp_path, trained.folder / "scores")
    ]
    assert metrics[0] == metrics[1]
    found, given = (
        json.loads((folder / "summary.json").read_text())["configuration"]
        for folder in (tmp_path, trained.folder / "scores")
    )
    assert found == given
    assert {k: found[k] for k in SMALL} == SMALL


def test_the_folder_is_enough_to_export_and_to_label(trained: Any, tmp_path: Path) -> None:
    words = ["export", trained.run, "--format", "ts", "-o", tmp_path / "model.ts"]
    result = CliRunner(env={"COLUMNS": "600"}).invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    assert "the class in 0 of" in result.output
    model = tmp_path / "model"
    weights = bundle_weights(trained.run)
    assert make_model_folder(trained.run, model, weights)
    assert sorted(path.name for path in model.iterdir()) == ["LICENSE", "configs", "docs", "models"]
    train, inference = (load(model / "configs" / f"{name}.yaml") for name in ("train", "inference"))
    network = {k: v for k, v in SMALL.items() if k in inference}
    assert {k: train[k] for k in network} == {k: inference[k] for k in network} == network
    own, its = (
        torch.load(path, weights_only=True) for path in (model / "models" / "model.pt", weights)
    )
    assert own.keys() == its.keys()
    assert all(torch.equal(own[name], its[name]) for name in own)


def test_weights_of_a_run_with_other_settings_are_told_apart(
    trained: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By the bundle's own configuration: named where it fits, refused where it does not."""
    weights = trained.run / "models" / "model.pt"
    places = {"dataset_dir": trained.data / "image" / "c0.nii.gz", "checkpoint": weights}
    network = {"features": SMALL["features"], "crop_size": [32, 32], "spatial_size": [16, 16]}
    run("inference", "inference.yaml", **network, slice_size=40, output_dir=tmp_path, **places)
    assert "a run with other settings: normalization (zscore); its own configuration is in" in (
        caplog.text
    )
    with pytest.raises(Exception, match="Failed to") as caught:
        run("inference", "inference.yaml", output_dir=tmp_path, **places)
    message = str(cause_of(caught.value))
    assert message.endswith(f"Use the configuration in '{trained.run / 'configs'}'")


@pytest.fixture
def copied(trained: Any, tmp_path: Path) -> SimpleNamespace:
    """The run in a folder of its own, and what it was trained with."""
    folder = tmp_path / "run"
    shutil.copytree(trained.run, folder, ignore=shutil.ignore_patterns("tensorboard"))
    settings = {**SMALL, "dataset_dir": trained.data, "optimizer#weight_decay": 0.01}
    return SimpleNamespace(folder=folder, settings={**settings, "output_dir": folder})


def epochs(folder: Path) -> list[str]:
    with (folder / "history.csv").open(newline="") as file:
        return [row["epoch"] for row in csv.DictReader(file)]


def test_resume_names_what_differs_and_leaves_the_run_alone(copied: Any) -> None:
    before = {p: p.read_bytes() for p in copied.folder.rglob("*") if p.is_file()}
    changed = {"lr": 0.5, "features": [4, 8, 16], "max_epochs": 2, "resume": True}
    message = refusal(**copied.settings | changed)
    lines = [line.strip() for line in message.splitlines()]
    assert lines[1:-1] == [
        "features: recorded [4, 8, 8], now [4, 8, 16]",
        "lr: recorded 0.002, now 0.5",
    ]
    assert str(copied.folder / "configs" / "train.yaml") in lines[-1]
    assert {p: p.read_bytes() for p in copied.folder.rglob("*") if p.is_file()} == before


def test_resume_of_another_bundle_is_refused(copied: Any, trained: Any) -> None:
    with pytest.raises(Exception, match="Failed to") as caught:
        run("training", BUNDLES / "acdc_lv_mixed" / "configs" / "train.yaml",
            **copied.settings | {"resume": True})  # fmt: skip
    assert "bundle: recorded acdc_mixed, now acdc_lv_mixed" in str(cause_of(caught.value))


def test_a_longer_training_resumes_by_the_runs_own_file_alone(
    copied: Any, caplog: pytest.LogCaptureFixture
) -> None:
    train = copied.folder / "configs" / "train.yaml"
    run("training", train, resume=True, max_epochs=2)
    assert epochs(copied.folder) == ["1", "2"]
    assert "max_epochs was 1 and is 2 now" in caplog.text
    assert load(train)["max_epochs"] == 2
    assert load(copied.folder / "configs" / "evaluate.yaml")["max_epochs"] == 2
    assert load(train)["output_dir"] == "$@bundle_root"


def test_a_run_from_before_the_record_is_refused(copied: Any) -> None:
    (copied.folder / "record.json").unlink()
    message = refusal(**copied.settings, resume=True)
    assert message.startswith(f"'{copied.folder}' was trained before runs recorded their settings")


def test_a_folder_that_holds_a_run_is_kept_unless_it_is_to_be_overwritten(copied: Any) -> None:
    weights = (copied.folder / "models" / "model.pt").read_bytes()
    (copied.folder / "metrics.csv").write_text("scores of the weights that are there")
    assert refusal(**copied.settings, lr=0.1) == (
        f"'{copied.folder}' holds a run: resume it with --resume True, replace it with "
        "--overwrite True, or choose another --output_dir"
    )
    assert (copied.folder / "models" / "model.pt").read_bytes() == weights
    run("training", "train.yaml", **copied.settings, lr=0.1, overwrite=True)
    assert (copied.folder / "models" / "model.pt").read_bytes() != weights
    assert not (copied.folder / "metrics.csv").exists()
    train = load(copied.folder / "configs" / "train.yaml")
    assert train["lr"] == 0.1
    assert "overwrite" not in train


def test_one_training_writes_to_a_folder_at_a_time(copied: Any) -> None:
    hold = (
        "import sys; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]):\n    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(copied.folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        message = refusal(**copied.settings, resume=True)
        other.communicate()
    assert message.startswith(f"'{copied.folder}' is in use: another process is running")


def test_one_workflow_trains_twice(trained: Any, tmp_path: Path) -> None:
    """As a program does that changes nothing in between; the folder is free afterwards."""
    workflow = monai.bundle.create_workflow(
        config_file=str(CONFIGS / "train.yaml"), logging_file=False, workflow_type="train",
        **SMALL, dataset_dir=str(trained.data), output_dir=str(tmp_path), device="cpu",
        progress=False,
    )  # fmt: skip
    for _ in range(2):
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    assert epochs(tmp_path) == ["1"]
    # Where the files lie, and none of the program's own folders.
    assert load(tmp_path / "configs" / "train.yaml")["bundle_root"] == "$bundle_folder()"


def test_a_bundle_whose_training_has_no_start_run_is_recorded_all_the_same(
    trained: Any, tmp_path: Path
) -> None:
    """When the trainer runs; so is one of other configuration files, without comments."""
    config = ConfigParser.load_config_files(str(CONFIGS / "train.yaml"))
    config["initialize"] = []
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.json").write_text(json.dumps(config))
    places = {"dataset_dir": trained.data, "output_dir": tmp_path / "run"}
    run("training", tmp_path / "own" / "mine.json", **SMALL, **places)
    train = load(tmp_path / "run" / "configs" / "train.yaml")
    assert {k: train[k] for k in SMALL} == SMALL
    with pytest.raises(Exception, match="Failed to") as caught:
        run("training", tmp_path / "own" / "mine.json", **SMALL, **places)
    assert isinstance(cause_of(caught.value), RunRefusedError)


def test_the_command_line_says_the_refusal_alone(copied: Any) -> None:
    settings = copied.settings | {"lr": 0.5, "max_epochs": 2, "resume": True, "device": "cpu"}
    words = [f"--{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file"]
    done = subprocess.run(
        [*command, str(CONFIGS / "train.yaml"), *words, "--progress", "False"],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr + done.stdout
    assert f"error: '{copied.folder}' cannot be resumed" in done.stderr
