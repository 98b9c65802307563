"""SIGKILL in the middle of a run, twice; benchmarks/resume_after_kill.py does it to the bundle."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mixseg.handlers import FullCheckpoint

EPOCHS = 8


def train(make_setup: Callable[..., Any], folder: Path, resume: bool) -> None:
    """A run in a process of its own, with dropout, moving average and schedule."""
    torch.set_num_threads(1)
    handler = FullCheckpoint(folder, folder / "models", resume=resume)
    setup = make_setup(
        max_epochs=EPOCHS, epoch_length=3, ema_decay=0.9, scheduler=True, handlers=[handler]
    )
    torch.manual_seed(21)
    setup.trainer.run()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are forked")
def test_killed_run_ends_with_the_same_weights(
    make_setup: Callable[..., Any], tmp_path: Path
) -> None:
    fork = multiprocessing.get_context("fork")

    def start(folder: Path, resume: bool) -> Any:
        process = fork.Process(target=train, args=(make_setup, folder, resume))
        process.start()
        return process

    def finish(folder: Path, resume: bool) -> dict[str, torch.Tensor]:
        process = start(folder, resume)
        process.join(120)
        assert process.exitcode == 0
        return torch.load(folder / "model_last.pt", weights_only=True)

    expected = finish(tmp_path / "whole", False)
    rng = random.Random(0)
    folder = tmp_path / "killed"

    def written() -> int | None:
        # A kill between two checkpoints leaves the previous one alone, from which a run resumes.
        try:
            return (folder / "checkpoint.pt").stat().st_mtime_ns
        except FileNotFoundError:
            return None

    for kill in range(2):
        before = written()
        assert before or not kill or (folder / "checkpoint_previous.pt").is_file()
        process = start(folder, resume=kill > 0)
        # Until this process has written a checkpoint of its own, and a random moment more.
        deadline = time.monotonic() + 120
        while written() in (None, before):
            assert process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (folder / "model_last.pt").exists()
    found = finish(folder, True)
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []
