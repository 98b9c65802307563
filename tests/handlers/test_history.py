"""History: means of the losses, validation scores, files, and no gap after a resume."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
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
        lambda e: outputs.append({name: v.item() for name, v in e.state.output[0].items()}),
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


def test_rate_is_the_highest_of_an_epoch_whose_steps_differ(
    make_trainer: Factory, tmp_path: Path
) -> None:
    trainer = make_trainer([History(tmp_path, tensorboard=False)])
    rates = iter([0.2, 0.4, 0.3, 0.1, 0.1, 0.05])  # after each of two steps in three epochs
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda e: e.optimizer.param_groups[0].update(lr=next(rates)),
    )
    trainer.run()
    # 0.1 and 0.2; 0.4 and 0.3; 0.1 and 0.1.
    assert [float(row["lr"]) for row in read(tmp_path / "history.csv")] == [0.2, 0.4, 0.1]


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


def test_pictures_are_drawn_at_intervals_and_at_the_end(
    make_trainer: Factory, fake_evaluator: type, tmp_path: Path, drawn: list[list[int]]
) -> None:
    """Validated at 0, 50, 100, 150, 200 s: drawn at 0, at 100 (a minute has passed) and at 200."""
    evaluator = fake_evaluator([0.25] * 5)
    seconds = [0.0]
    history = History(
        tmp_path, evaluator, tensorboard=False, picture_seconds=60.0, clock=lambda: seconds[0]
    )
    rows_on_disk = []

    def next_epoch(engine: Any) -> None:
        rows_on_disk.append(len(read(tmp_path / "history.csv")))
        seconds[0] += 50.0

    trainer = make_trainer([Validation(evaluator), history], max_epochs=5)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, next_epoch)
    trainer.run()
    assert drawn == [[1], [1, 2, 3], [1, 2, 3, 4, 5]]
    assert rows_on_disk == [1, 2, 3, 4, 5]
    assert not (tmp_path / "tensorboard").exists()


def test_no_interval_draws_after_each_validation(
    make_trainer: Factory, fake_evaluator: type, tmp_path: Path, drawn: list[list[int]]
) -> None:
    evaluator = fake_evaluator([0.25, 0.5])
    history = History(
        tmp_path, evaluator, tensorboard=False, picture_seconds=0.0, clock=lambda: 7.0
    )
    make_trainer([Validation(evaluator, 2), history]).run()
    assert drawn == [[1, 2], [1, 2, 3]]


def stop_early(engine: Any) -> None:
    engine.terminate()


def interrupt(engine: Any) -> None:
    raise KeyboardInterrupt


def fail(engine: Any) -> None:
    raise RuntimeError("out of memory")


@pytest.mark.parametrize(
    ("end", "error"), [(stop_early, None), (interrupt, KeyboardInterrupt), (fail, RuntimeError)]
)
def test_every_end_draws_the_last_validation(
    make_trainer: Factory,
    fake_evaluator: type,
    tmp_path: Path,
    drawn: list[list[int]],
    end: Callable[[Any], None],
    error: type[BaseException] | None,
) -> None:
    """The clock stands still, so after the first validation only the end draws."""
    evaluator = fake_evaluator([0.25] * 5)
    history = History(tmp_path, evaluator, tensorboard=False, clock=lambda: 0.0)
    trainer = make_trainer([Validation(evaluator), history], max_epochs=5)
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=3), end)
    if error is None:
        trainer.run()
    else:
        with pytest.raises(error):
            trainer.run()
    assert drawn == [[1], [1, 2, 3]]


def test_an_error_between_validations_keeps_the_cases_of_the_last(
    make_trainer: Factory,
    fake_evaluator: type,
    tmp_path: Path,
    drawn: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The third validation fails half-way, when the scorer's own list is incomplete."""
    cases: list[list[str]] = []
    monkeypatch.setattr(
        history_module, "plot_cases", lambda panels, path, names: cases.append(list(panels))
    )
    scorer = SimpleNamespace(panels=[], class_names=["background", "LV"])

    class Evaluator(fake_evaluator):  # type: ignore[misc]
        def run(self, epoch: int) -> None:
            scorer.panels = [f"case a, epoch {epoch}"]
            if epoch == 3:
                raise RuntimeError("out of memory")
            scorer.panels.append(f"case b, epoch {epoch}")
            super().run(epoch)

    evaluator = Evaluator([0.25] * 3)
    history = History(tmp_path, evaluator, scorer, tensorboard=False, clock=lambda: 0.0)
    trainer = make_trainer([Validation(evaluator), history])
    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        trainer.run()
    assert cases == [
        ["case a, epoch 1", "case b, epoch 1"],
        ["case a, epoch 2", "case b, epoch 2"],
    ]
    assert drawn == [[1], [1, 2]]


def test_pictures_that_fail_do_not_hide_the_error(
    make_trainer: Factory,
    fake_evaluator: type,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = []

    def draw(rows: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) > 1:
            raise OSError("disk full")

    monkeypatch.setattr(history_module, "plot_curves", draw)
    evaluator = fake_evaluator([0.25] * 3)
    history = History(tmp_path, evaluator, tensorboard=False, clock=lambda: 0.0)
    trainer = make_trainer([Validation(evaluator), history])
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), fail)
    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        trainer.run()
    assert "curves.png and cases.png are out of date: disk full" in caplog.text


def test_negative_interval_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^picture_seconds must not be negative, got -1.0$"):
        History(tmp_path, picture_seconds=-1.0)


def test_curves_are_a_picture(make_trainer: Factory, fake_evaluator: type, tmp_path: Path) -> None:
    evaluator = fake_evaluator([0.25])
    make_trainer([Validation(evaluator, 3), History(tmp_path, evaluator, tensorboard=False)]).run()
    assert (tmp_path / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_pictures_that_a_kill_left_out_are_drawn_on_resume(
    make_trainer: Factory,
    fake_evaluator: type,
    tmp_path: Path,
    drawn: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last epoch is validated once more for them, and only where they are not up to date."""
    cases: list[str] = []
    monkeypatch.setattr(
        history_module, "plot_cases", lambda panels, path, names: cases.append(panels[0])
    )
    scorer = SimpleNamespace(panels=[], class_names=["background", "LV"])

    class Evaluator(fake_evaluator):  # type: ignore[misc]
        def run(self, epoch: int) -> None:
            super().run(epoch)
            scorer.panels = [f"epoch {epoch}, {self.network.student.item():.6f}"]

    def build(resume: bool) -> Any:
        evaluator = Evaluator([0.25] * 4)
        handlers = [
            Validation(evaluator, 3),
            History(tmp_path, evaluator, scorer, tensorboard=False),
            FullCheckpoint(tmp_path, tmp_path, evaluator=evaluator, resume=resume),
        ]
        return make_trainer(handlers), evaluator

    trainer, _ = build(False)
    trainer.run()
    expected = f"epoch 3, {trainer.network.student.item():.6f}"
    assert (cases, drawn) == ([expected], [[1, 2, 3]])
    # The drawings are stand-ins, so neither file is there: as after a kill before them.
    trainer, evaluator = build(True)
    trainer.run()
    assert (cases, drawn) == ([expected] * 2, [[1, 2, 3]] * 2)
    assert evaluator.epochs == [3]
    for name in ("curves.png", "cases.png"):
        (tmp_path / name).touch()
    trainer, evaluator = build(True)
    trainer.run()
    assert (len(cases), evaluator.epochs) == (2, [])


def test_how_long_each_process_trained_and_how_it_ended(
    make_trainer: Factory, tmp_path: Path
) -> None:
    seconds = [100.0]

    def build(resume: bool) -> Any:
        history = History(tmp_path, tensorboard=False, clock=lambda: seconds[0])
        checkpoint = FullCheckpoint(tmp_path, tmp_path, resume=resume)
        trainer = make_trainer([history, checkpoint], max_epochs=2)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, tick)
        return trainer

    def tick(engine: Any) -> None:
        seconds[0] += 5.0
        if seconds[0] == 115.0:  # in the first iteration of the second epoch
            raise ValueError("the loss is not finite\nat all")

    with pytest.raises(ValueError, match="not finite"):
        build(False).run()
    build(True).run()
    sessions = json.loads((tmp_path / "training.json").read_text())["sessions"]
    assert [(s["seconds"], s["ended"]) for s in sessions] == [
        (15.0, "ended by ValueError: the loss is not finite"),
        (10.0, "completed"),
    ]
    assert {s["device"] for s in sessions} == {"cpu"}
    page = (tmp_path / "report.html").read_text()
    assert "25 s, resumed 1 ×" in page
    # As a kill leaves it between the last checkpoint and the end: under way, and without a page.
    sessions[-1]["ended"] = "under way"
    (tmp_path / "training.json").write_text(json.dumps({"sessions": sessions}))
    (tmp_path / "report.html").unlink()
    build(True).run()
    ended = [s["ended"] for s in json.loads((tmp_path / "training.json").read_text())["sessions"]]
    assert ended == ["ended by ValueError: the loss is not finite", "completed"]
    assert (tmp_path / "report.html").read_text() == page


def test_a_page_that_cannot_be_made_costs_no_training(
    make_trainer: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no page")

    monkeypatch.setattr("mixseg.report.page.write_page", broken)
    make_trainer([History(tmp_path, tensorboard=False)]).run()
    assert len(read(tmp_path / "history.csv")) == 3
    assert not (tmp_path / "report.html").exists()
