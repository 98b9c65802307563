from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from mixseg.apps.label import training
from mixseg.configuration.loading import load

ROOT = Path(__file__).resolve().parents[3]
BUNDLES = ("acdc_lv_confkd", "la_confkd", "acdc_lv_mixed", "la_mixed")


def train_yaml(bundle: str) -> dict[str, Any]:
    return load(ROOT / "bundles" / bundle / "configs" / "train.yaml")


def names(components: list[dict[str, Any]]) -> list[str]:
    return [component["_target_"].rpartition(".")[2] for component in components]


def overrides(bundle: str, tmp_path: Path, **options: Any) -> dict[str, Any]:
    settings = training.TrainSettings(max_epochs=3, settings={"lr": 0.5})
    options = {"validates": True, "resuming": False, **options}
    train = train_yaml(bundle)
    result = training.training_overrides(
        train, tmp_path / "m", tmp_path / "m/training/0001", settings, **options
    )
    assert train == train_yaml(bundle)  # what is changed is a copy
    return result


def test_what_slicer_sends_is_understood() -> None:
    train = train_yaml("acdc_lv_confkd")
    # As 3D Slicer posts it: an empty run_id, options of other trainers, and its own table.
    request = {"model": "acdc_lv_confkd", "run_id": "", "multi_gpu": True, "gpus": "all",
               "tracking": "None", "model_filename": "model.pt", "local_rank": 0,
               "max_epochs": 4, "val_split": 0.5, "pretrained": False, "epoch_length": 7,
               "output_dir": "/elsewhere"}  # fmt: skip
    settings = training.settings_of(request, train, "cpu")
    assert settings.max_epochs == 4
    assert settings.val_split == 0.5
    assert settings.pretrained is False
    assert settings.resume is True
    assert settings.settings == {"epoch_length": 7}
    assert training.settings_of({"pretrained": "false"}, train, "cpu").pretrained is False
    assert training.settings_of({}, train, "cpu").max_epochs == 50  # the bundle's own is 500
    assert training.settings_of({}, {**train, "max_epochs": 30}, "cpu").max_epochs == 30
    with pytest.raises(ValueError, match="max_epochs is '4'; it is a whole number from 1 on"):
        training.settings_of({"max_epochs": "4"}, train, "cpu")


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        # Each of them ran, or could have been run, as an expression of the configuration.
        ({"lr": "$__import__('os').system('touch owned')"}, "lr is .*; it is a number"),
        ({"lr": "@max_epochs"}, "lr is '@max_epochs'; it is a number"),
        ({"lr": {"_target_": "os.system", "command": "touch owned"}}, "lr is .*; it is a number"),
        ({"lambda_w": ["$1"]}, r"lambda_w is \['\$1'\]; it is a number"),
        ({"epoch_length": 2.5}, "epoch_length is 2.5; it is a whole number"),
        ({"epoch_length": True}, "epoch_length is True; it is a whole number"),
        ({"lr": float("nan")}, "lr is nan; it is a number"),
        # Networks that would not load into the server's.
        ({"features": [4, 8], "pretrained": False}, "features cannot be set by a request, only "),
        ({"network": "$print('owned')"}, "network cannot be set by a request"),
        ({"imports": ["$import os"]}, "imports cannot be set by a request"),
        ({"val_split": "$1"}, r"val_split is '\$1'; it is a number"),
        ({"max_epochs": "$9"}, r"max_epochs is '\$9'; it is a whole number from 1 on"),
    ],
)
def test_nothing_of_a_request_reaches_the_configuration_but_numbers(
    request_: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        training.settings_of(request_, train_yaml("acdc_lv_confkd"), "cpu")


def test_a_device_is_no_expression() -> None:
    with pytest.raises(ValueError, match=r"device '\$print\(1\)' is unknown: give cpu, cuda or"):
        training.settings_of({}, train_yaml("acdc_lv_confkd"), "$print(1)")


@pytest.mark.parametrize("bundle", BUNDLES)
def test_weights_of_now_are_loaded_first_and_strictly(bundle: str, tmp_path: Path) -> None:
    handlers = overrides(bundle, tmp_path)["train#handlers"]
    assert handlers[0] == {
        "_target_": "monai.handlers.CheckpointLoader",
        "load_path": str(tmp_path / "m" / "models" / "model.pt"),
        "load_dict": {"model": "@network"},
        "strict": True,
    }
    # A resumed training has its own weights, which must not be replaced.
    assert "CheckpointLoader" not in names(
        overrides(bundle, tmp_path, resuming=True)["train#handlers"]
    )


@pytest.mark.parametrize("bundle", BUNDLES)
def test_the_handlers_of_a_training(bundle: str, tmp_path: Path) -> None:
    """The status goes into the standard handlers, and knows whether there is a validation."""
    for validates, evaluator in ((True, "@validate#evaluator"), (False, None)):
        handlers = overrides(bundle, tmp_path, validates=validates)["train#handlers"]
        assert names(handlers) == ["CheckpointLoader", "standard_handlers", "PublishWeights"]
        (status,) = handlers[1]["extra"]
        assert names([status]) == ["TrainingStatus"]
        assert status["evaluator"] == evaluator
    # The step that watches the process of PARENT_VARIABLE, which the app sets.
    assert names(train_yaml(bundle)["initialize"]) == ["start_training"]


def test_a_bundle_without_the_standard_handlers_is_refused(tmp_path: Path) -> None:
    train = {"train": {"handlers": [{"_target_": "StatsHandler"}]}}
    settings = training.TrainSettings(max_epochs=3)
    with pytest.raises(ValueError, match="has no standard_handlers in train#handlers"):
        training.training_overrides(
            train, tmp_path, tmp_path, settings, validates=True, resuming=False
        )


def test_folders_and_settings(tmp_path: Path) -> None:
    result = overrides("la_confkd", tmp_path, resuming=True)
    assert result["lr"] == 0.5
    assert result["max_epochs"] == 3
    assert result["resume"] is True
    assert result["device"] == torch.device("cpu")
    # Not where the server's weights are: those are replaced once the new ones are known to load.
    assert result["ckpt_dir"] == str(tmp_path / "m/training/0001/models")
    assert result["output_dir"] == str(tmp_path / "m/training/0001")
    # Every key is one of train.yaml, so that nothing is accepted and ignored.
    assert {key.partition("#")[0] for key in result} <= set(train_yaml("la_confkd"))


def make_run(folder: Path, status: str, labels: str = "L", **settings: Any) -> Path:
    """A training as a server leaves it."""
    from dataclasses import asdict

    run = folder / "training" / "0001"
    run.mkdir(parents=True, exist_ok=True)
    (run / "status.json").write_text(json.dumps({"status": status, "epoch": 2}))
    content = asdict(training.TrainSettings(max_epochs=9, **settings))
    (run / "request.json").write_text(json.dumps({"labels": labels, "settings": content}))
    (run / "checkpoint.pt").touch()
    return run


def test_only_an_interrupted_training_of_the_same_labels_is_gone_on_with(tmp_path: Path) -> None:
    settings = training.TrainSettings(max_epochs=5)
    trainings = tmp_path / "training"
    run = make_run(tmp_path, "running")
    assert training._unfinished(trainings, "L", settings) == run
    assert training._unfinished(trainings, "other labels", settings) is None
    other = training.TrainSettings(max_epochs=5, settings={"lr": 1.0})
    assert training._unfinished(trainings, "L", other) is None
    for status in ("done", "failed"):
        make_run(tmp_path, status)
        assert training._unfinished(trainings, "L", settings) is None
    make_run(tmp_path, "running")
    (run / "checkpoint.pt").unlink()  # killed before the first epoch was over
    assert training._unfinished(trainings, "L", settings) is None


def test_a_new_training_gets_the_next_number_and_old_checkpoints_go(tmp_path: Path) -> None:
    run = make_run(tmp_path, "done")
    (run / "history.csv").touch()
    assert training._new_run(tmp_path / "training").name == "0002"
    assert sorted(p.name for p in run.iterdir()) == ["history.csv", "request.json", "status.json"]


def test_the_status_tells_running_from_interrupted(tmp_path: Path) -> None:
    assert training.read_status(tmp_path) == {}
    make_run(tmp_path, "running")
    assert training.read_status(tmp_path) == {"status": "interrupted", "epoch": 2}
    # Held by another process, as it is while a training runs.
    path = tmp_path / "training" / ".lock"
    code = f"import filelock, sys; l = filelock.FileLock({str(path)!r}); l.acquire(); "
    code += "print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert training.read_status(tmp_path)["status"] == "running"
        holder.kill()
    assert training.read_status(tmp_path)["status"] == "interrupted"


def test_a_second_training_waits_and_then_says_who_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "training").mkdir()
    monkeypatch.setattr(training, "_PATIENCE", 0.1)
    settings = training.TrainSettings(max_epochs=1)
    with (
        FileLock(tmp_path / "training" / ".lock"),
        pytest.raises(
            ValueError, match=r"training' is in use: .*give the server \(--work\) another"
        ),
    ):
        training.train_model(tmp_path, tmp_path, settings, "")
    assert os.listdir(tmp_path / "training") == [".lock"]
