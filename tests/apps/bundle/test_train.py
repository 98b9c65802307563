"""``mixseg train`` and ``mixseg evaluate`` from a data set to its scores."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixseg.data.phantom.dataset import write_phantom

BUNDLE = Path(__file__).resolve().parents[3] / "bundles" / "acdc_lv_mixed"
SHORT = [
    "--num-full", "1", "--num_partial", "1", "--weak-label", "erosion", "--max-epochs", "1",
    "--epoch-length", "2", "--batch-full", "2", "--batch-partial", "2", "--lr", "1e-3",
    "--features", "[4, 8, 8]", "--spatial-size", "[32, 32]", "--mirror-axes", "[]",
    "--free-negatives", "null", "--amp", "false", "--device", "cpu",
]  # fmt: skip


def mixseg(*words: object) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).with_name("mixseg")
    return subprocess.run([command, *map(str, words)], capture_output=True, text=True)


@pytest.mark.slow
def test_a_run_is_trained_resumed_and_scored_without_a_setting_again(tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    write_phantom(data, num_patients=4, progress=False)
    first = mixseg("train", BUNDLE, "--data", data, "-o", run, *SHORT)
    assert first.returncode == 0, first.stderr
    # Of a training's hundred lines, those that concern a user.
    assert "weights of epoch 1" in first.stdout
    assert "ignite" not in first.stdout + first.stderr
    assert "_target_" not in first.stderr
    log = (run / "train.log").read_text()
    assert "ignite.engine" in log
    refused = mixseg("train", BUNDLE, "--data", data, "-o", run, *SHORT)
    assert refused.returncode == 1
    assert "holds a training: continue it with --resume" in refused.stderr
    longer = ["--max-epochs", "2", "--resume"]
    again = mixseg("train", BUNDLE, "--data", data, "-o", run, *SHORT, *longer)
    assert again.returncode == 0, again.stderr
    with (run / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["iteration"] for row in rows] == ["2", "4"]
    scored = mixseg("evaluate", run, "--device", "cpu")
    assert scored.returncode == 0, scored.stderr
    summary = json.loads((run / "test" / "summary.json").read_text())
    assert summary["configuration"]["features"] == [4, 8, 8]
    assert (run / "test" / "metrics.csv").is_file()
    failed = mixseg("train", BUNDLE, "--data", data, "-o", tmp_path / "x", *SHORT, "--norm", "left")
    assert failed.returncode == 1
    assert "error: " in failed.stderr
    assert "Traceback" not in failed.stderr
    assert "norm must be" in failed.stderr.splitlines()[-2]


@pytest.mark.nightly
def test_two_processes_of_torchrun_train_one_run(tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    write_phantom(data, num_patients=4, progress=False)
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "mixseg"]
    words += ["train", BUNDLE, "--data", data, "-o", run, *SHORT]
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # The first process alone speaks.
    assert done.stdout.count("weights: ") == 1, done.stdout
    assert (run / "train_1.log").is_file()
    with (run / "history.csv").open(newline="") as file:
        assert [row["iteration"] for row in csv.DictReader(file)] == ["2"]
    # The run is a bundle that knows nothing of the other process.
    scored = mixseg("evaluate", run, "--device", "cpu", "--split", "validation")
    assert scored.returncode == 0, scored.stderr
    refused = subprocess.run(
        [sys.executable, "-m", "mixseg", "train", BUNDLE, "--data", data, "-o", tmp_path / "x",
         "--folds", "2"],
        capture_output=True,
        text=True,
        env={**os.environ, "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"},
    )  # fmt: skip
    assert refused.returncode == 1
    assert "leave out torchrun" in refused.stderr
