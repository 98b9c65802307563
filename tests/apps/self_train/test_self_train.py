"""``mixseg self-train``: rounds that resume where they ended, with the same weights."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.utils import set_determinism
from typer.testing import CliRunner, Result

from mixseg.apps.bundle import run as launcher
from mixseg.apps.self_train.table import HEADER, round_lines, write_rounds
from mixseg.cli.main import app
from mixseg.configuration.settings import literal
from mixseg.configuration.yaml_text import without_keys
from mixseg.networks import DualBranchUNet

BUNDLE = Path(__file__).resolve().parents[3] / "bundles" / "acdc_lv_confkd"
#: Network and data of teacher and student, a lower bound's method, and six epochs of two batches.
SETTINGS: dict[str, Any] = {
    "features": [2, 4, 8],
    "slice_size": [32, 32],
    "num_full": 1,
    "num_partial": 2,
    "lambda_w": 0,
    "lambda_kd": 0,
    "lambda_ent": 0,
    "batch_full": 2,
    "epoch_length": 2,
    "max_epochs": 6,
    "val_interval": 2,
    "checkpoint_interval": 1,
    "lr": 0.001,
}


def words(data: Path, output: Path, teacher: Path, rounds: int, *more: object) -> list[str]:
    """The command line after ``mixseg``."""
    line: list[object] = ["self-train", teacher, "--student", BUNDLE, "--data", data]
    line += ["-o", output, "--rounds", rounds, "--device", "cpu", "--quiet"]
    for name, value in SETTINGS.items():
        if not name.startswith("num_"):
            line += [f"--{name}", json.dumps(value)]
    return [str(word) for word in (*line, *more)]


def run(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "600"}).invoke(app, list(map(str, arguments)))


def options(command: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Configuration files and settings of a ``monai.bundle`` command line."""
    files = literal(command[6])
    names = [word[2:] for word in command[7::2]]
    return files, dict(zip(names, map(literal, command[8::2]), strict=True))


@dataclass
class Here:
    """Stands for the processes of the bundles: the same runs, in this process.

    Attributes:
        interrupt: told the number of each run; where it is true, Ctrl-C comes instead of the run.
        runs: what was run: its id, files and settings.
    """

    interrupt: Callable[[int], bool] = lambda number: False
    runs: list[tuple[str, list[str], dict[str, Any]]] = field(default_factory=list)

    def __call__(
        self, command: Sequence[str], log: Path, verbose: bool = False, quiet: bool = False
    ) -> int:
        files, settings = options(command)
        if self.interrupt(len(self.runs)):
            raise KeyboardInterrupt
        self.runs.append((command[4], files, settings))
        try:
            monai.bundle.run(run_id=command[4], config_file=files, logging_file=False, **settings)
        finally:
            set_determinism(None)
        return 0


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    replacement = Here()
    monkeypatch.setattr(launcher, "run_logged", replacement)
    return replacement


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three training patients and one each to validate and test; the masks of two are not masks."""
    folder = tmp_path_factory.mktemp("data")
    content: dict[str, Any] = {"classes": ["background", "RV", "myocardium", "LV"]}
    for i, split in enumerate(["training"] * 3 + ["validation", "test"]):
        label = np.zeros((24, 26, 2), np.uint8)
        label[6:18, 6:18], label[8 + i : 14 + i, 9:15] = 2, 3
        values = 50 * label + np.random.default_rng(i).normal(0, 5, label.shape)
        for kind, array in (("image", values.astype(np.float32)), ("label", label)):
            image = nib.Nifti1Image(array, np.diag([1.5, 1.5, 8.0, 1.0]))
            nib.save(image, folder / f"{kind}{i}.nii.gz")
        if i in (1, 2):
            (folder / f"label{i}.nii.gz").write_text("nobody may read this")
        entry = {"case_id": f"c{i}", "supervision": "full"}
        entry |= {kind: f"{kind}{i}.nii.gz" for kind in ("image", "label")}
        content.setdefault(split, []).append(entry)
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.manual_seed(3)
    torch.save(DualBranchUNet(features=SETTINGS["features"]).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def teacher(
    as_run: Callable[..., Path], weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return as_run(BUNDLE, tmp_path_factory.mktemp("teacher") / "run", weights, **SETTINGS)


@dataclass(frozen=True)
class Finished:
    """Two rounds without an interruption."""

    output: Path
    screen: str
    runs: list[tuple[str, list[str], dict[str, Any]]]


@pytest.fixture(scope="module")
def finished(data: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    output = tmp_path_factory.mktemp("finished") / "rounds"
    replacement = Here()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "run_logged", replacement)
        result = run(*words(data, output, teacher, 2, "--split", "test"))
    assert result.exit_code == 0, result.output
    return Finished(output, result.output, replacement.runs)


def model(output: Path, number: int) -> dict[str, torch.Tensor]:
    path = output / f"round_{number:02d}" / "models" / "model.pt"
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)
    return state


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_each_round_trains_a_fresh_network_on_the_proposals_of_the_one_before(
    finished: Finished, data: Path
) -> None:
    assert [kind for kind, *_ in finished.runs] == [
        *("training", "evaluating", "training", "evaluating", "evaluating")
    ]
    first, second = (settings for kind, _, settings in finished.runs if kind == "training")
    assert (first["seed"], second["seed"]) == (1, 2)
    for number, settings in ((1, first), (2, second)):
        folder = finished.output / f"round_{number:02d}"
        assert settings["datalist"] == str(folder / "data" / "datalist.json")
        # Every mask in one stream, in batches of the size that was asked for.
        assert (settings["noisy_as"], settings["num_full"], settings["num_partial"]) == (
            "full",
            1,
            0,
        )
        assert (settings["batch_full"], settings["batch_partial"]) == (2, 0)
        training = json.loads((folder / "data" / "datalist.json").read_text())["training"]
        assert [e["supervision"] for e in training] == ["full", "noisy", "noisy"]
        assert training[0]["label"] == str(data / "label0.nii.gz")
        assert not list(folder.glob("checkpoint*"))
    splits = [settings["split"] for kind, _, settings in finished.runs if kind == "evaluating"]
    assert splits == ["validation", "validation", "test"]
    # Other seeds, other weights from the start: the second is not a continuation of the first.
    one, two = model(finished.output, 1), model(finished.output, 2)
    name = next(name for name, tensor in one.items() if tensor.ndim == 4)
    assert (one[name] - two[name]).abs().mean() > 0.1
    report = json.loads((finished.output / "round_02" / "data" / "report.json").read_text())
    assert report["weights"] == str(finished.output / "round_01" / "models" / "model.pt")
    # What a lower bound trains, and so proposes with, is its teacher branch.
    record = finished.output / "round_01" / "configs" / "inference.yaml"
    assert yaml.safe_load(record.read_text())["branch"] == "teacher"


def test_the_table_holds_the_scores_of_the_rounds(finished: Finished) -> None:
    rounds = json.loads((finished.output / "rounds.json").read_text())["rounds"]
    lines = round_lines(rounds)
    assert [line[:7] for line in lines] == [
        ["1", "1", "2", str(rounds[0]["empty"]), "validation", "LV", "1"],
        ["2", "2", "2", str(rounds[1]["empty"]), "validation", "LV", "1"],
        ["2", "2", "2", str(rounds[1]["empty"]), "test", "LV", "1"],
    ]
    summary = json.loads((finished.output / "round_02" / "test" / "summary.json").read_text())
    assert list(summary["scores"]) == ["teacher"]
    dice = summary["scores"]["teacher"]["LV"]["dice"]["mean"]
    assert lines[2][7] == f"{100 * dice:.1f}"
    text = (finished.output / "rounds.md").read_text().splitlines()
    assert text[0] == "| " + " | ".join(HEADER) + " |"
    assert text[4] == "| " + " | ".join(lines[2]) + " |"


def test_the_means_are_a_table_for_programs(tmp_path: Path) -> None:
    def summary(**means: float | None) -> dict[str, Any]:
        n = {name: 2 if mean is not None else 0 for name, mean in means.items()}
        return {"n": 2} | {k: {"mean": v, "sd": 0.1, "n": n[k]} for k, v in means.items()}

    classes = {
        "LV": summary(dice=0.6, hd95_vox=3.25, hd95_mm=4.5),
        "RV": summary(dice=0.5, hd95_vox=3.25, hd95_mm=None),
    }
    entry = {"round": 1, "seed": 8, "proposals": 15, "empty": 3}
    write_rounds(tmp_path, [{**entry, "scores": {"validation": classes}}], {})
    assert (tmp_path / "rounds.csv").read_text() == (
        "round,seed,proposals,empty,split,class,cases,dice,hd95_vox,hd95_mm\n"
        "1,8,15,3,validation,LV,2,0.6,3.25,4.5\n"
        "1,8,15,3,validation,RV,2,0.5,3.25,\n"
    )


def test_the_table_gives_mean_and_standard_deviation() -> None:
    two = {"mean": 0.6, "sd": 0.02**0.5, "n": 2}
    scores = {"n": 2, "dice": two, "hd95_vox": {**two, "mean": 3.25, "sd": 0.5}}
    scores["hd95_mm"] = {"mean": None, "sd": None, "n": 0}
    entry = {"round": 1, "seed": 8, "proposals": 15, "empty": 3}
    assert round_lines([{**entry, "scores": {"validation": {"LV": scores}}}]) == [
        ["1", "8", "15", "3", "validation", "LV", "2", "60.0 ± 14.1", "3.2 ± 0.5", "–"]
    ]


def test_an_interrupted_self_training_resumes_to_the_same_weights(
    finished: Finished,
    data: Path,
    teacher: Path,
    tmp_path: Path,
    here: Here,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "rounds"
    command = words(data, output, teacher, 2)
    monkeypatch.setattr(sys, "argv", ["mixseg", "self-train", "as", "typed"])
    here.interrupt = lambda number: number == 2  # the second round's training
    ended = run(*command)
    assert ended.exit_code == 130
    assert "interrupted; to resume: mixseg self-train as typed\n" in ended.output
    assert (output / "round_02" / "data" / "datalist.json").is_file()
    assert not (output / "round_02" / "trained.json").exists()
    first = model(output, 1)

    here.interrupt = lambda number: False
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert "round 1: trained already" in result.output
    assert [kind for kind, *_ in here.runs[2:]] == ["training", "evaluating"]
    assert_same(first, model(output, 1))
    for number in (1, 2):
        assert_same(model(output, number), model(finished.output, number))

    # Done is done; further rounds and the test split can be asked for later.
    again = run(*command)
    assert (again.exit_code, len(here.runs)) == (0, 4)
    assert run(*command, "--split", "test").exit_code == 0
    assert [(kind, settings["split"]) for kind, _, settings in here.runs[4:]] == [
        ("evaluating", "test")
    ]
    other = run(*command, "--lr", 0.1)
    assert other.exit_code == 1
    assert f"'{output}' holds a self-training with another student's settings" in other.output


def test_proposals_can_be_the_labels_of_the_weak_branch(
    data: Path, teacher: Path, tmp_path: Path, here: Here
) -> None:
    """Luo and Yang's proxy masks: the strong branch selects the weights and proposes further."""
    command = ["self-train", teacher, "--student", BUNDLE, "--config", "rows/decoupled.yaml"]
    command += ["--data", data, "-o", tmp_path, "--rounds", 2, "--device", "cpu", "--quiet"]
    of_the_teacher = {"lambda_kd", "lambda_ent", "num_full", "num_partial"}
    for name, value in SETTINGS.items():
        if name not in of_the_teacher:
            command += [f"--{name}", json.dumps(value)]
    command += ["--noisy-as", "partial", "--inference-branch", "teacher", "--lambda-w", 1]
    result = run(*command, "--batch_partial", 3)
    assert result.exit_code == 0, result.output
    for settings in [settings for kind, _, settings in here.runs if kind == "training"]:
        assert (settings["noisy_as"], settings["num_full"], settings["num_partial"]) == (
            "partial",
            1,
            0,
        )
        assert (settings["batch_full"], settings["batch_partial"]) == (2, 3)
    inference = yaml.safe_load((tmp_path / "round_01" / "configs" / "inference.yaml").read_text())
    assert inference["branch"] == "teacher"
    history = (tmp_path / "round_02" / "history.csv").read_text().splitlines()
    column = history[0].split(",").index("ce_weak")
    assert all(float(line.split(",")[column]) > 0 for line in history[1:])
    scores = json.loads((tmp_path / "round_02" / "validation" / "summary.json").read_text())
    line = round_lines(json.loads((tmp_path / "rounds.json").read_text())["rounds"])[1]
    assert line[7] == f"{100 * scores['scores']['teacher']['LV']['dice']['mean']:.1f}"


@pytest.mark.slow
def test_a_killed_self_training_resumes_to_the_same_weights(
    finished: Finished, data: Path, teacher: Path, tmp_path: Path
) -> None:
    output = tmp_path / "rounds"
    command = [sys.executable, "-m", "mixseg.cli.main", *words(data, output, teacher, 2)]
    checkpoint = output / "round_02" / "checkpoint.pt"
    with (tmp_path / "screen.txt").open("wb") as screen:
        process = subprocess.Popen(command, stdout=screen, stderr=screen)
        deadline = time.monotonic() + 500
        while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        assert not (output / "round_02" / "trained.json").exists()
        done = subprocess.run(command, stdout=screen, stderr=screen, env=os.environ)
    text = (tmp_path / "screen.txt").read_text()
    assert done.returncode == 0, text[-3000:]
    assert text.count("round 1: trained already") == 1
    log = (output / "round_02" / "train.log").read_text()
    # The training looks twice a second whether its parent lives, and may be done before.
    assert re.search(r"resuming .*checkpoint\.pt after epoch [1-6]$", log, re.MULTILINE)
    for number in (1, 2):
        assert_same(model(output, number), model(finished.output, number))


def test_messages(
    data: Path,
    teacher: Path,
    weights: Path,
    as_run: Callable[..., Path],
    tmp_path: Path,
    here: Here,
) -> None:
    (tmp_path / "file").write_text("")
    bare = tmp_path / "acdc_lv_bare"
    shutil.copytree(BUNDLE, bare, ignore=shutil.ignore_patterns("models", "large_files*"))
    train = bare / "configs" / "train.yaml"
    train.write_text(without_keys(train.read_text(), {"noisy_as"}))
    for more, message in {
        ("--rounds", 0): "--rounds is 0: train one network at least",
        ("--split", "training"): "--split is 'training': give validation or test",
        ("--student", "no_such"): "there is no bundle 'no_such'",
        ("--student", bare): "has no setting 'noisy_as', which it needs to train on proposals",
        ("-o", tmp_path / "file" / "out"): "choose another folder with -o",
        ("-o", data): f"'{data}' is the folder of the data set: choose another -o",
        ("--data", bare / "no"): f"there is no '{bare / 'no'}': give the folder of the data",
        ("--noisy_as", "noisy"): "--noisy_as is 'noisy': give full or partial",
        ("--no_such", 1): "'--no_such' is neither an option nor a setting of the student",
        ("--num_full", 1): "'--num_full' is set by the teacher here",
        ("--target_classes", "[1]"): "the teacher proposes (3,) of 4",
    }.items():
        result = run(*words(data, tmp_path / "out", teacher, 1, *more))
        assert result.exit_code == 1, more
        assert message in result.output, result.output
    wrong = as_run(BUNDLE, tmp_path / "wrong", weights, **SETTINGS | {"features": [2, 4, 6]})
    result = run(*words(data, tmp_path / "out", wrong, 1))
    assert "do not fit the network of inference.yaml" in result.output
    untrained = run("self-train", bare, "--data", data, "-o", "x", "--rounds", 1)
    assert f"'{bare}' has no weights:" in untrained.output
    unknown = as_run(bare, tmp_path / "own", weights, **SETTINGS)
    (unknown / "record.json").write_text('{"bundle": "own"}')
    assert (
        "takes the proposals of 'own': name one with --student"
        in run("self-train", unknown, "--data", data, "-o", "x", "--rounds", 1).output
    )
    assert here.runs == []


def test_the_student_has_the_teachers_classes(
    data: Path, weights: Path, as_run: Callable[..., Path], tmp_path: Path, here: Here
) -> None:
    """Unless it is told otherwise; nobody repeats them."""
    teacher = as_run(BUNDLE, tmp_path / "run", weights, **SETTINGS, target_classes=[2])
    here.interrupt = lambda number: False
    result = run(*words(data, tmp_path / "out", teacher, 1))
    assert result.exit_code == 0, result.output
    assert here.runs[0][2]["target_classes"] == [2]
