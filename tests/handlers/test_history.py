"""History: means of the losses, validation scores, files, and no gap after a resume."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ignite.engine import Events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mixseg.handlers.history as history_module
from mixseg.handlers import FullCheckpoint, History, Validation, WeightRamps
from mixseg.objectives import ConfKD

Factory = Callable[..., Any]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Epochs of the rows that each drawing of the curves is given, in place of the drawing."""
    calls: list[list[int]] = []
    monkeypatch.setattr(
        history_module, "plot_curves", lambda rows, path: calls.append([r["epoch"] for r in rows])
    )
    return calls


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("drawn")
def test_rows_are_means_of_the_epoch(
    make_trainer: Factory, fake_evaluator: type, tmp_path: Path
) -> None:
    evaluator = fake_evaluator([0.25, 0.75])
    objective = ConfKD(0.1, 5.0, 1.0)
    history = History(tmp_path, evaluator, tensorboard=False)
    trainer = make_trainer(
        [WeightRamps(objective, {"lambda_ent": 4}), Validation(evaluator, 2), history],
        objective=objective,
    )
    outputs: list[dict[str, float]] = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda e: outputs.append({name: v.item() for name, v in e.state.output.items()}),
    )
    trainer.run()
    rows = read(tmp_path / "history.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["iteration"] for row in rows] == ["2", "4", "6"]
    assert [float(row["lr"]) for row in rows] == [0.1, 0.1, 0.1]
    for i, row in enumerate(rows):
        for name in ("loss", "ce_full", "ce_weak", "kd", "entropy"):
            mean = (outputs[2 * i][name] + outputs[2 * i + 1][name]) / 2
            assert float(row[name]) == pytest.approx(mean, rel=1e-6)
    # Weights as they stand at the end of each epoch: 2/4, 4/4, full.
    assert [float(row["weight_entropy"]) for row in rows] == [0.5, 1.0, 1.0]
    assert [float(row["weight_kd"]) for row in rows] == [5.0, 5.0, 5.0]
    # Validated every second epoch and after the last.
    assert [row["val_dice_student"] for row in rows] == ["", "0.25", "0.75"]


def test_rate_is_the_one_that_the_epoch_trained_with(make_trainer: Factory, tmp_path: Path) -> None:
    trainer = make_trainer([History(tmp_path, tensorboard=False)])
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED,
        lambda e: e.optimizer.param_groups[0].update(lr=0.1 / 2**e.state.epoch),
    )
    trainer.run()
    assert [float(row["lr"]) for row in read(tmp_path / "history.csv")] == [0.1, 0.05, 0.025]


@pytest.mark.usefixtures("drawn")
def test_no_gap_after_a_resume(make_trainer: Factory, fake_evaluator: type, tmp_path: Path) -> None:
    def build(folder: Path, scores: list[float], resume: bool) -> Any:
        evaluator = fake_evaluator(scores)
        return make_trainer(
            [
                Validation(evaluator),
                History(folder, evaluator, tensorboard=False),
                FullCheckpoint(folder, folder, evaluator=evaluator, resume=resume),
            ],
            max_epochs=4,
        )

    scores = [0.1, 0.4, 0.3, 0.2]
    build(tmp_path / "whole", scores, False).run()
    cut = build(tmp_path / "cut", scores, False)

    def interrupt(engine: Any) -> None:
        if engine.state.iteration == 6:  # the last iteration of epoch 3
            raise KeyboardInterrupt

    cut.add_event_handler(Events.ITERATION_COMPLETED, interrupt)
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    assert [row["epoch"] for row in read(tmp_path / "cut" / "history.csv")] == ["1", "2"]
    build(tmp_path / "cut", scores[2:], True).run()
    texts = [(tmp_path / name / "history.csv").read_text() for name in ("whole", "cut")]
    assert texts[0] == texts[1]


@pytest.mark.usefixtures("drawn")
def test_tensorboard_events_hold_the_rows(
    make_trainer: Factory, fake_evaluator: type, tmp_path: Path
) -> None:
    evaluator = fake_evaluator([0.25, 0.5, 0.75])
    history = History(tmp_path, evaluator)
    make_trainer([Validation(evaluator), history]).run()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    scores = events.Scalars("validation/val_dice_student")
    assert [(e.step, e.value) for e in scores] == [(2, 0.25), (4, 0.5), (6, 0.75)]
    losses = events.Scalars("training/loss")
    assert [e.step for e in losses] == [2, 4, 6]
    assert [e.value for e in losses] == pytest.approx([r["loss"] for r in history.rows], rel=1e-6)


def test_curves_are_drawn_after_each_validation(
    make_trainer: Factory, fake_evaluator: type, tmp_path: Path, drawn: list[list[int]]
) -> None:
    evaluator = fake_evaluator([0.25, 0.5])
    make_trainer([Validation(evaluator, 2), History(tmp_path, evaluator, tensorboard=False)]).run()
    assert drawn == [[1, 2], [1, 2, 3]]
    assert not (tmp_path / "tensorboard").exists()


def test_curves_are_a_picture(make_trainer: Factory, fake_evaluator: type, tmp_path: Path) -> None:
    evaluator = fake_evaluator([0.25])
    make_trainer([Validation(evaluator, 3), History(tmp_path, evaluator, tensorboard=False)]).run()
    assert (tmp_path / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
