"""The progress bar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator

import mixseg.handlers.progress as progress
from mixseg.handlers import ProgressBar, Validation


class Bar:
    """Stands in for tqdm and remembers what it is told."""

    made: list[Bar]

    def __init__(self, **options: Any) -> None:
        self.options, self.n, self.closed = options, options["initial"], 0
        self.descriptions: list[str] = []
        self.postfixes: list[dict[str, str]] = []
        Bar.made.append(self)

    def update(self) -> None:
        self.n += 1

    def set_description(self, text: str) -> None:
        self.descriptions.append(text)

    def set_postfix(self, values: dict[str, str], refresh: bool) -> None:
        self.postfixes.append(values)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(autouse=True)
def fake_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    Bar.made = []
    monkeypatch.setattr(progress, "tqdm", Bar)


def test_bar_counts_all_iterations(make_trainer: Callable[..., Any], fake_evaluator: type) -> None:
    evaluator = fake_evaluator([0.25, 0.5, 0.75])
    bar = ProgressBar(every=2, key="val_dice_student", evaluator=evaluator)
    outputs: list[dict[str, str]] = []
    trainer = make_trainer([bar, Validation(evaluator)])
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED(every=2),
        lambda engine: outputs.append(
            {name: f"{float(value):.3g}" for name, value in engine.state.output[0].items()}
        ),
    )
    trainer.run()
    (made,) = Bar.made
    assert (made.options["total"], made.options["initial"]) == (6, 0)
    assert (made.n, made.closed) == (6, 1)
    assert made.descriptions == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    # Iterations 2, 4 and 6 end an epoch each; its validation comes after them.
    shown = [{}, {"val dice": "0.250"}, {"val dice": "0.500"}]
    assert made.postfixes == [o | s for o, s in zip(outputs, shown, strict=True)]


def test_bar_starts_at_the_resumed_iteration(make_trainer: Callable[..., Any]) -> None:
    short = make_trainer(max_epochs=1)
    short.run()
    trainer = make_trainer([ProgressBar()])
    trainer.load_full_state(short.full_state())
    trainer.run()
    (made,) = Bar.made
    assert (made.options["total"], made.options["initial"], made.n) == (6, 2, 6)


def test_errors_pass_through_and_close_the_bar(make_trainer: Callable[..., Any]) -> None:
    def fail(engine: Any) -> None:
        if engine.state.iteration == 3:
            raise ZeroDivisionError("in a handler")

    trainer = make_trainer([ProgressBar()])
    trainer.add_event_handler(Events.ITERATION_STARTED, fail)
    with pytest.raises(ZeroDivisionError, match=r"^in a handler$"):
        trainer.run()
    assert Bar.made[0].n == 2
    assert Bar.made[0].closed


def test_evaluator_without_losses() -> None:
    """Images in a list, as MONAI's evaluators leave them, are counted and not shown."""
    evaluator = SupervisedEvaluator(
        "cpu", [{"image": torch.zeros(1, 1, 2, 2)}] * 3, torch.nn.Identity()
    )
    ProgressBar(every=1).attach(evaluator)
    evaluator.run()
    assert Bar.made[0].n == 3
    assert Bar.made[0].postfixes == [{}, {}, {}]


def test_silent(make_trainer: Callable[..., Any]) -> None:
    make_trainer([ProgressBar(enabled=False)]).run()
    assert Bar.made == []


def test_handlers_attached_later_hear_of_an_error(make_trainer: Callable[..., Any]) -> None:
    """History draws its last pictures then; Ignite tells nobody after one that raises."""
    heard = []
    trainer = make_trainer([ProgressBar()])
    trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda _, error: heard.append(str(error)))

    @trainer.on(Events.ITERATION_COMPLETED)
    def fail(_: Any) -> None:
        raise RuntimeError("in the way")

    with pytest.raises(RuntimeError, match="in the way"):
        trainer.run()
    # Ignite tells of it once inside the epoch and once around it.
    assert set(heard) == {"in the way"}
    assert all(bar.closed for bar in Bar.made)
