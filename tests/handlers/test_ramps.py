"""Weights that grow while training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from ignite.engine import Events

from mixseg.handlers import WeightRamps, ramp_factor
from mixseg.objectives import ConfKD


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("linear", [0.25, 0.5, 0.75]),
        # exp(-5 · 9/16), exp(-5 · 1/4), exp(-5 · 1/16)
        ("gaussian", [math.exp(-45 / 16), math.exp(-5 / 4), math.exp(-5 / 16)]),
        # (1 - cos πt)/2 = sin²(πt/2): sin²(π/8) = (2 - √2)/4, 1/2, (2 + √2)/4
        ("cosine", [(2 - math.sqrt(2)) / 4, 0.5, (2 + math.sqrt(2)) / 4]),
    ],
)
def test_factors(shape: str, expected: list[float]) -> None:
    assert [ramp_factor(i, 4, shape) for i in (1, 2, 3)] == pytest.approx(expected, rel=1e-12)
    assert [ramp_factor(i, 4, shape) for i in (4, 5, 1000)] == [1.0, 1.0, 1.0]
    assert ramp_factor(1, 0, shape) == 1.0


def test_weights_while_training(make_trainer: Callable[..., Any]) -> None:
    """Six iterations, λ_ent full after 4 and λ_kd after 2, λ_w as it was."""
    objective = ConfKD(0.1, 5.0, 2.0)
    ramps = WeightRamps(objective, {"lambda_ent": 4, "lambda_kd": 2})
    trainer = make_trainer([ramps], objective=objective)
    seen: list[tuple[float, float, float]] = []
    losses: list[tuple[float, float]] = []

    def look(engine: Any) -> None:
        seen.append((objective.lambda_ent, objective.lambda_kd, objective.lambda_w))
        o = {name: value.item() for name, value in engine.state.output.items()}
        summed = (
            o["ce_full"]
            + objective.lambda_w * o["ce_weak"]
            + objective.lambda_kd * o["kd"]
            + objective.lambda_ent * o["entropy"]
        )
        losses.append((o["loss"], summed))

    trainer.add_event_handler(Events.ITERATION_COMPLETED, look)
    trainer.run()
    assert seen == [
        (0.5, 2.5, 0.1),
        (1.0, 5.0, 0.1),
        (1.5, 5.0, 0.1),
        (2.0, 5.0, 0.1),
        (2.0, 5.0, 0.1),
        (2.0, 5.0, 0.1),
    ]
    for loss, summed in losses:
        assert loss == pytest.approx(summed, rel=1e-6)


def test_no_ramps_leave_the_weights_alone(make_trainer: Callable[..., Any]) -> None:
    objective = ConfKD()
    for ramps in (None, {}):
        make_trainer([WeightRamps(objective, ramps)], objective=objective).run()
    assert (objective.lambda_w, objective.lambda_kd, objective.lambda_ent) == (0.001, 50.0, 1.0)


@pytest.mark.parametrize(
    ("ramps", "shape", "message"),
    [
        (
            {"lambda_entropy": 5},
            "linear",
            "ConfKD has no weight 'lambda_entropy' to ramp; it has lambda_w, lambda_kd, lambda_ent",
        ),
        (
            {"smooth": 5},
            "linear",
            "ConfKD has no weight 'smooth' to ramp; it has lambda_w, lambda_kd, lambda_ent",
        ),
        ({"lambda_w": -1}, "linear", "the ramp of lambda_w cannot last -1 iterations"),
        (
            {},
            "sigmoid",
            "ramp shape must be one of linear, gaussian, cosine, got 'sigmoid'",
        ),
    ],
)
def test_errors(ramps: dict[str, int], shape: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        WeightRamps(ConfKD(), ramps, shape)
    assert str(caught.value) == message
