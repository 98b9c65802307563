"""Two processes on the CPU train the 3D network as one with the doubled batch does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

# Runs the bundle, alone or as one of several processes, and notes what this one saw.
WORKER = """
import json, os, signal, sys
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow

given, files, folder, killed = json.loads(sys.argv[1])
rank = int(os.environ.get("RANK", 0))
workflow = ConfigWorkflow(config_file=files, logging_file=False, **given)
workflow.initialize()
trainer = workflow.parser.get_parsed_content("train#trainer")
evaluator = workflow.parser.get_parsed_content("validate#evaluator")
seen, scored, weights = [], [], []

@trainer.on(Events.ITERATION_COMPLETED)
def note(engine):
    seen.append(list(engine.state.batch["case_id"]))
    weights.append({name: value.clone() for name, value in engine.network.state_dict().items()})
    if rank == killed:
        os.kill(os.getpid(), signal.SIGKILL)

@evaluator.on(Events.ITERATION_COMPLETED)
def note_cases(engine):
    scored.extend(batch["case_id"] for batch in engine.state.batch)

workflow.run()
torch.save({"weights": weights, "seen": seen, "scored": scored}, f"{folder}/rank{rank}.pt")
workflow.finalize()
"""


def launch(
    folder: Path, tools: SimpleNamespace, processes: int, killed: int = -1, **given: Any
) -> subprocess.CompletedProcess[str]:
    """Train on 4 + 4 scans of the size of a crop; nothing is drawn but the order of the scans."""
    content = tools.write_datalist(folder / "data", training=9)
    content["validation"].append(content["training"].pop())
    for i, entry in enumerate(e for s in ("training", "validation") for e in content[s]):
        for kind, values in zip(("image", "label"), tools.atrium((32, 32, 16), i), strict=True):
            tools.save(folder / "data" / entry[kind], values)
    tools.save_datalist(folder / "data", content)
    settings = {
        **tools.tiny,
        "dataset_dir": str(folder / "data"),
        "output_dir": str(folder / "out"),
    }
    settings |= {"ckpt_dir": str(folder / "models"), "num_full": 4, "num_partial": 4}
    # Neither batch statistics nor random masks, which are each process's own.
    settings |= {"norm": "instance", "dropout": 0.0, "flip_axes": [], "rotate": False}
    settings |= {"lambda_w": 1.0, "val_interval": 1, **given}
    names = ["train.yaml"]
    command = [sys.executable]
    if processes > 1:
        names.append("multi_gpu_train.yaml")
        del settings["device"], settings["progress"]  # the overlay sets them
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    files = [str(tools.configs / name) for name in names]
    (folder / "worker.py").write_text(WORKER)
    command += [str(folder / "worker.py"), json.dumps([settings, files, str(folder), killed])]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one_with_the_doubled_batch(
    tmp_path: Path, la_tools: SimpleNamespace
) -> None:
    runs = {}
    for processes, share in ((1, 2), (2, 1)):
        folder = tmp_path / str(processes)
        folder.mkdir()
        done = launch(
            folder, la_tools, processes, batch_full=share, batch_partial=share, max_epochs=1
        )
        assert done.returncode == 0, done.stderr[-3000:]
        runs[processes] = [
            torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(processes)
        ]
    (alone,), (one, two) = runs[1], runs[2]
    # The same scans in each step, shared out without an overlap.
    for whole, left, right in zip(alone["seen"], one["seen"], two["seen"], strict=True):
        assert sorted(whole) == sorted(left + right)
        assert set(left).isdisjoint(right)
    assert set(one["scored"]).isdisjoint(two["scored"])
    assert sorted(one["scored"] + two["scored"]) == sorted(alone["scored"])
    # The second step starts from the rounding of the first, and instance normalization over the few
    # voxels of the lowest level amplifies it. A step moves the weights by about 1e-2.
    for step, tolerance in enumerate((5e-6, 2e-4)):
        for name, value in alone["weights"][step].items():
            assert torch.equal(one["weights"][step][name], two["weights"][step][name]), name
            np.testing.assert_allclose(
                one["weights"][step][name], value, rtol=0, atol=tolerance, err_msg=name
            )


@pytest.mark.slow
def test_a_killed_process_ends_the_job(tmp_path: Path, la_tools: SimpleNamespace) -> None:
    done = launch(tmp_path, la_tools, 2, killed=1)
    assert done.returncode != 0
    assert "SIGKILL" in done.stderr
    assert not list(tmp_path.glob("rank*.pt"))
