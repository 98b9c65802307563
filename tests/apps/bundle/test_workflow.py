"""What ``mixseg train`` and ``mixseg evaluate`` hand to ``monai.bundle run``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from typer.testing import CliRunner, Result

from mixseg.apps.bundle import folds, workflow
from mixseg.cli.main import app
from mixseg.metrics.scores import CaseScore

TRAIN = (
    "dataset_dir: data\noutput_dir: eval\nckpt_dir: models\nlr: 0.1\namp: true\nnoisy_as: null\n"
)


class Runs(list[dict[str, Any]]):
    """Arguments of the runs, none of which happens."""

    def __call__(self, run_id: str, files: list[Path], settings: Any, log: Path, **_: Any) -> None:
        names = [path.name for path in files]
        self.append({"id": run_id, "files": names, "settings": dict(settings), "log": log})


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    found = Runs()
    monkeypatch.setattr(workflow, "run_bundle", found)
    return found


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    configs = tmp_path / "bundles" / "b" / "configs"
    configs.mkdir(parents=True)
    (configs / "train.yaml").write_text(TRAIN)
    (configs / "row.yaml").write_text("lr: 0.2\n")
    (configs / "evaluate.yaml").write_text("split: test\ncheckpoint: null\n")
    (configs / "metadata.json").write_text(json.dumps({"version": "1"}))
    return configs.parent


def run(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "300"}).invoke(app, list(map(str, words)))


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_folder_in_use_is_left_alone(
    command: str, tmp_path: Path, bundle: Path, runs: Runs
) -> None:
    (tmp_path / "data").mkdir()
    (bundle / "models").mkdir()
    (bundle / "models" / "model.pt").touch()
    output = tmp_path / "run"
    output.mkdir()
    with FileLock(output / ".lock"):
        refused = run(command, bundle, "--data", tmp_path / "data", "-o", output)
    assert refused.exit_code == 1
    assert f"'{output}' is in use: another process is running" in refused.output
    assert (runs, list(output.iterdir())) == ([], [output / ".lock"])


def test_a_training_gets_its_places_and_settings(tmp_path: Path, bundle: Path, runs: Runs) -> None:
    (tmp_path / "data").mkdir()
    output = tmp_path / "run"
    words = [
        "--data",
        tmp_path / "data",
        "-o",
        output,
        "--config",
        "row.yaml",
        "--device",
        "cuda:1",
    ]
    done = run("train", bundle, *words, "--lr", "1e-3", "--amp", "false", "--noisy-as", "none")
    assert done.exit_code == 0, done.output
    (call,) = runs
    assert (call["id"], call["files"]) == ("training", ["train.yaml", "row.yaml"])
    assert call["log"] == output / "train.log"
    assert call["settings"] == {
        "lr": 0.001,
        "amp": False,
        "noisy_as": None,
        "bundle_root": bundle,
        "dataset_dir": str(tmp_path / "data"),
        "output_dir": output,
        "ckpt_dir": output / "models",
        "device": "$torch.device('cuda:1')",
    }


def test_a_training_is_neither_replaced_nor_mixed_by_accident(bundle: Path, runs: Runs) -> None:
    (bundle / "eval").mkdir()
    (bundle / "eval" / "checkpoint.pt").touch()
    refused = run("train", bundle)
    assert refused.exit_code == 1
    assert "holds a training: continue it with --resume, start again with --overwrite" in (
        refused.output
    )
    assert run("train", bundle, "--resume").exit_code == 0
    assert run("train", bundle, "--overwrite").exit_code == 0
    switches = [(c["settings"].get("resume"), c["settings"].get("overwrite")) for c in runs]
    assert switches == [(True, None), (None, True)]
    assert run("train", bundle, "--resume", "--overwrite").exit_code == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output_dir", "x"], "'--output_dir' is now --output"),
        (["--resume", "--ckpt-dir", "x"], "'--ckpt_dir' is set by --output here"),
        (
            ["--lrr", "1"],
            "'--lrr' is neither an option nor a setting of the bundle b (did you mean",
        ),
        (["--data", "absent"], "there is no 'absent': give the folder of the data with --data"),
        (["--device", "gpu"], "--device gpu is not a device: give cpu, cuda or cuda:1"),
        (["--config", "absent.yaml"], "--config: there is neither 'absent.yaml' nor"),
    ],
)
def test_what_cannot_be_trained_is_said(
    words: list[str], message: str, bundle: Path, runs: Runs
) -> None:
    done = run("train", bundle, *words)
    assert done.exit_code in (1, 2)
    assert message in done.output
    assert not runs


def test_an_installed_bundle_asks_for_the_output(
    tmp_path: Path, bundle: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("train", "b")
    assert done.exit_code == 1
    assert "give --output: 'b' is installed" in done.output
    assert run("train", "b", "-o", "run").exit_code == 0
    assert len(runs) == 1


def test_folds_take_the_same_options(
    tmp_path: Path, bundle: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def cross_validate(*given: Any, **arguments: Any) -> tuple[Path, list[CaseScore]]:
        calls.append((given, arguments))
        return bundle / "folds", []

    monkeypatch.setattr(folds, "cross_validate", cross_validate)
    words = ["--data", tmp_path, "--device", "cpu", "--lr", "1e-3"]
    done = run("train", bundle, "--folds", "3", *words)
    assert done.exit_code == 0, done.output
    ((given, arguments),) = calls
    assert given == (str(bundle), 3)
    assert (arguments["data"], arguments["device"]) == (tmp_path, "cpu")
    assert arguments["settings"] == {"lr": 0.001}
    for place in ("report.html", "metrics.csv", "fold_1", "fold_3"):
        assert str(bundle / "folds" / place) in done.output
    refused = run("train", bundle, "--folds", "3", "--resume")
    assert refused.exit_code == 1
    assert "the same command resumes" in refused.output
    assert not runs


def test_an_evaluation_scores_the_weights_of_the_run(bundle: Path, runs: Runs) -> None:
    assert "has no weights" in run("evaluate", bundle).output
    (bundle / "models").mkdir()
    (bundle / "models" / "model.pt").touch()
    done = run("evaluate", bundle, "--split", "validation", "--amp", "false")
    assert done.exit_code == 0, done.output
    # A run folder whose evaluate.yaml is complete needs no other file.
    (bundle / "configs" / "evaluate.yaml").write_text(TRAIN + "network_def: {}\ncheckpoint: null\n")
    assert run("evaluate", bundle, "--weights", bundle / "models" / "model.pt").exit_code == 0
    first, second = runs
    assert first["files"] == ["train.yaml", "evaluate.yaml"]
    assert first["settings"] == {
        "amp": False,
        "bundle_root": bundle,
        "output_dir": bundle / "validation",
        "checkpoint": bundle / "models" / "model.pt",
        "split": "validation",
    }
    assert (second["files"], second["log"]) == (["evaluate.yaml"], bundle / "test" / "evaluate.log")


def write_datalist(path: Path, image: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    case = {"image": image, "label": "l.png", "supervision": "full", "case_id": "a"}
    content = {"classes": ["background", "cell"], "unlabeled": 2, "training": [case]}
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("own", ["datalist: '{}'", "datalist: $@bundle_root + '/datalist.json'"])
def test_a_bundle_with_its_own_datalist_reads_the_data_that_it_is_given(
    runs: Runs, bundle: Path, tmp_path: Path, own: str
) -> None:
    datalist = write_datalist(bundle / "datalist.json", "a.png")
    with (bundle / "configs" / "train.yaml").open("a") as file:
        file.write(f"bundle_root: .\n{own.format(datalist)}\n")
    other = write_datalist(tmp_path / "other" / "datalist.json", "b.png").parent
    copy, empty = tmp_path / "copy", tmp_path / "empty"
    copy.mkdir()
    (copy / "a.png").touch()
    empty.mkdir()

    def given(data: Path, **settings: Any) -> dict[str, Any]:
        workflow.train_bundle(bundle, data=data, output=tmp_path / "run", settings=settings)
        return dict(runs.pop()["settings"])

    assert given(other)["datalist"] is None  # the folder's own
    assert "datalist" not in given(copy)
    assert given(empty, datalist="x.json")["datalist"] == "x.json"
    with pytest.raises(ValueError, match=r"empty' holds neither images of '.*datalist\.json'"):
        given(empty)
