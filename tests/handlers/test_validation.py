"""When the validator runs, and on which network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mixseg.handlers import Validation


@pytest.mark.parametrize(
    ("interval", "max_epochs", "expected"),
    [(1, 3, [1, 2, 3]), (2, 5, [2, 4, 5]), (2, 4, [2, 4]), (10, 3, [3])],
)
def test_interval_and_last_epoch(
    make_trainer: Callable[..., Any],
    fake_evaluator: type,
    interval: int,
    max_epochs: int,
    expected: list[int],
) -> None:
    evaluator = fake_evaluator([0.5] * max_epochs)
    trainer = make_trainer([Validation(evaluator, interval)], max_epochs=max_epochs)
    trainer.run()
    assert evaluator.epochs == expected
    assert evaluator.network is trainer.network


def test_moving_average_is_validated(
    make_trainer: Callable[..., Any], fake_evaluator: type
) -> None:
    evaluator = fake_evaluator([0.5])
    trainer = make_trainer([Validation(evaluator, 3)], ema_decay=0.9)
    trainer.run()
    assert evaluator.network is trainer.ema.module


def test_error() -> None:
    with pytest.raises(ValueError, match=r"^val_interval must be at least 1, got 0$"):
        Validation(object(), 0)
