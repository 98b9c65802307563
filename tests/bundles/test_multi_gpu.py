"""Two processes on the CPU train one network."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mixseg.data import MixedBatchSampler


@pytest.mark.slow
def test_two_processes_train_and_leave_one_set_of_files(
    tmp_path: Path, tools: SimpleNamespace
) -> None:
    content = tools.write_datalist(tmp_path / "data", training=7)
    content["validation"].append(content["training"].pop())  # a case for each process
    tools.save_datalist(tmp_path / "data", content)
    files = [str(tools.configs / name) for name in ("train.yaml", "multi_gpu_train.yaml")]
    knobs = {**tools.tiny, "dataset_dir": tmp_path / "data", "val_interval": 1}
    knobs |= {"output_dir": tmp_path / "out", "ckpt_dir": tmp_path / "models"}
    del knobs["device"], knobs["progress"]  # the overlay sets them
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node=2", "-m", "monai.bundle", "run", "training"]
    command += ["--config_file", str(files)]
    for name, value in knobs.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with (tmp_path / "out" / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    # Two epochs of two iterations; the validation cases of both processes are scored together.
    assert [row["iteration"] for row in rows] == ["2", "4"]
    assert all(0 <= float(row["val_dice_student"]) <= 1 for row in rows)
    weights = torch.load(tmp_path / "out" / "model_last.pt", weights_only=True)
    assert all(torch.isfinite(value.double()).all() for value in weights.values())
    assert not any(name.startswith(("module.", "network.")) for name in weights)
    assert len(list((tmp_path / "out").glob("checkpoint.pt"))) == 1


def test_ranks_draw_disjoint_items_within_a_pass() -> None:
    kinds = ["full"] * 12 + ["partial"] * 24
    drawn = []
    for rank in range(2):
        sampler = MixedBatchSampler(
            kinds, {"full": 3, "partial": 6}, seed=4, rank=rank, world_size=2
        )
        drawn.append([item for batch in sampler for item in batch])
    assert set(drawn[0]).isdisjoint(drawn[1])
    assert sorted(drawn[0] + drawn[1]) == list(range(36))
