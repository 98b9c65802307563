"""Two processes on the CPU train one network."""

from __future__ import annotations

import csv
import json
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
    settings = {**tools.tiny, "dataset_dir": tmp_path / "data", "val_interval": 1}
    settings |= {"output_dir": tmp_path / "out", "ckpt_dir": tmp_path / "models"}
    del settings["device"], settings["progress"]  # the overlay sets them
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node=2", "-m", "monai.bundle", "run", "training"]
    command += ["--config_file", str(files)]
    for name, value in settings.items():
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


# Runs the bundle in one of several processes and notes what this one saw.
WORKER = """
import json, os, signal, sys
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow

settings, files, folder, killed = json.loads(sys.argv[1])
workflow = ConfigWorkflow(config_file=files, logging_file=False, **settings)
workflow.initialize()
rank = torch.distributed.get_rank()
trainer = workflow.parser.get_parsed_content("train#trainer")
evaluator = workflow.parser.get_parsed_content("validate#evaluator")
slices, scored = [], []

@trainer.on(Events.ITERATION_COMPLETED)
def note_slices(engine):
    batch = engine.state.batch
    pairs = zip(batch["case_id"], batch["slice_index"].tolist())
    slices.append([engine.state.epoch, [list(pair) for pair in pairs]])
    if rank == killed:
        os.kill(os.getpid(), signal.SIGKILL)

@evaluator.on(Events.ITERATION_COMPLETED)
def note_cases(engine):
    scored.extend(batch["case_id"] for batch in engine.state.batch)

workflow.run()
scorer = workflow.parser.get_parsed_content("validate#scorer")
torch.save(
    {
        "weights": trainer.network.state_dict(),
        "slices": slices,
        "scored": scored,
        "dice": sorted(scorer._dice["student"]),
        "metric": evaluator.state.metrics["val_dice_student"],
        "bar": settings.get("progress", workflow.parser.get_parsed_content("progress")),
    },
    f"{folder}/rank{rank}.pt",
)
workflow.finalize()
"""


def launch(
    folder: Path, tools: SimpleNamespace, killed: int = -1
) -> subprocess.CompletedProcess[str]:
    """Train on 3 + 3 patients and validate on 3, in two processes."""
    content = tools.write_datalist(folder / "data", training=8)
    content["validation"] += [content["training"].pop(), content["training"].pop()]
    tools.save_datalist(folder / "data", content)
    settings = {**tools.tiny, "dataset_dir": str(folder / "data"), "num_full": 3}
    settings |= {"output_dir": str(folder / "out"), "ckpt_dir": str(folder / "models")}
    # One pass over 3 to 6 slices of each kind, so that what two ranks draw can be disjoint.
    settings |= {"epoch_length": None, "batch_full": 1, "batch_partial": 1}
    del settings["device"], settings["progress"]  # the overlay sets them
    (folder / "worker.py").write_text(WORKER)
    files = [str(tools.configs / name) for name in ("train.yaml", "multi_gpu_train.yaml")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node=2", str(folder / "worker.py")]
    command.append(json.dumps([settings, files, str(folder), killed]))
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_two_processes_end_with_one_network_and_share_the_cases(
    tmp_path: Path, tools: SimpleNamespace
) -> None:
    done = launch(tmp_path, tools)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert (one["bar"], two["bar"]) == (True, False)
    # Weights and batch statistics, those of the file included.
    saved = torch.load(tmp_path / "out" / "model_last.pt", weights_only=True)
    for name, value in one["weights"].items():
        assert torch.equal(value, two["weights"][name]), name
        assert torch.equal(value, saved[name]), name
    # Steps and draws: no slice twice in an epoch's first pass, whichever process drew it. The
    # rarer kind is drawn again when used up, so each kind is held against its own number.
    kinds = {"full": ("c0", "c1", "c2"), "partial": ("c3", "c4", "c5")}
    for epoch in (1, 2):
        for cases in kinds.values():
            total = sum(2 + int(case[1]) % 2 for case in cases)
            drawn = [
                [tuple(item) for e, items in part["slices"] if e == epoch for item in items]
                for part in (one, two)
            ]
            steps = [item for pair in zip(*drawn, strict=True) for item in pair if item[0] in cases]
            assert len(set(steps)) == min(total, len(steps))
    # Every validation case once, in either process; both know the scores of all.
    assert sorted(one["scored"] + two["scored"]) == ["c6", "c7", "c8"]
    assert set(one["scored"]).isdisjoint(two["scored"])
    assert len(one["dice"]) == 3
    assert one["dice"] == two["dice"]
    assert one["metric"] == two["metric"] == pytest.approx(sum(one["dice"]) / 3)


@pytest.mark.slow
def test_a_killed_process_ends_the_job(tmp_path: Path, tools: SimpleNamespace) -> None:
    done = launch(tmp_path, tools, killed=1)
    assert done.returncode != 0
    assert "SIGKILL" in done.stderr
    assert not list(tmp_path.glob("rank*.pt"))


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
