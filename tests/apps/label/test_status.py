"""What a training says of itself to a MONAI Label server."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from ignite.engine import Engine, Events

from mixseg.apps.label.status import TrainingStatus


class Trainer(Engine):
    """Three iterations an epoch; the loss is the iteration's number."""

    def __init__(self) -> None:
        super().__init__(lambda engine, _: [{"loss": torch.tensor(float(engine.state.iteration))}])
        self.owners: dict[str, Any] = {}

    def register_state(self, name: str, owner: Any) -> None:
        self.owners[name] = owner


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_the_file_follows_the_training_in_the_words_of_slicer(tmp_path: Path) -> None:
    path, trainer = tmp_path / "status.json", Trainer()
    evaluator = SimpleNamespace(state=SimpleNamespace(epoch=0, metrics={}))
    now = [1000.0]
    seen = []

    def validate(engine: Engine) -> None:
        # The second of three epochs is the best one.
        evaluator.state.epoch = engine.state.epoch
        evaluator.state.metrics = {"dice": [0.5, 0.75, 0.25][engine.state.epoch - 1]}

    trainer.add_event_handler(Events.EPOCH_COMPLETED, validate)
    status = TrainingStatus(path, evaluator, "dice", interval=10, clock=lambda: now[0])
    status.attach(trainer)
    trainer.add_event_handler(Events.STARTED, lambda _: seen.append(read(path)))

    def after_iteration(_: Engine) -> None:
        now[0] += 20
        seen.append(read(path))

    trainer.add_event_handler(Events.ITERATION_COMPLETED, after_iteration)
    trainer.run([0, 1, 2], max_epochs=3)

    # The clock goes 20 s an iteration; the first one of an epoch follows a writing at once.
    assert [s["iteration"] for s in seen] == [0, 0, 2, 3, 3, 5, 6, 6, 8, 9]
    # Epochs that are over, not the one that runs.
    assert [s["epoch"] for s in seen] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert {s["status"] for s in seen} == {"running"}
    assert all("total_time" not in s for s in seen)
    last = read(path)
    assert last == {
        "status": "done",
        "pid": os.getpid(),
        "epoch": 3,
        "total_epochs": 3,
        "iteration": 9,
        "total_iterations": 9,
        "start_ts": 1000,
        "total_time": "0:03:00",
        "best_metric": 0.75,
        "train": {"metrics": {"loss": 9.0}},
        "eval": {"key_metric_name": "dice", "best_metric": 0.75, "best_metric_epoch": 2},
    }
    # The best score survives a resume.
    assert trainer.owners == {"status": status}
    other = TrainingStatus(path)
    other.load_state_dict(status.state_dict())
    assert other.state_dict() == {"best": 0.75, "best_epoch": 2}


def test_within_an_epoch_it_is_written_at_most_once_an_interval(tmp_path: Path) -> None:
    path, trainer = tmp_path / "status.json", Trainer()
    TrainingStatus(path, interval=1e9, clock=lambda: 5.0).attach(trainer)
    seen = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda _: seen.append(read(path)["iteration"])
    )
    trainer.run([0, 1, 2], max_epochs=2)
    assert seen == [0, 0, 0, 3, 3, 3]
    assert read(path)["best_metric"] == 0.0
