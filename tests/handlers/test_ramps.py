"""Weights that grow while training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from ignite.engine import Events

from mixseg.handlers import Ramp, WeightRamps, ramp_factor
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
        o = {name: value.item() for name, value in engine.state.output[0].items()}
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


def test_ramp_with_a_start_and_a_delay() -> None:
    """SSCO's γ from 0.2 to 8, here over 4 iterations after the second."""
    ramp = Ramp(length=4, begin=2, start=0.2)
    values = [ramp.value(8.0, t, "linear") for t in range(1, 8)]
    assert values == pytest.approx([0.2, 0.2, 2.15, 4.1, 6.05, 8.0, 8.0], rel=1e-12)


def test_ramp_in_steps_is_that_of_uamt() -> None:
    """0.1 · exp(-5 (1 - ⌊t/150⌋/40)²) of Yu et al.'s code."""
    ramp = Ramp(length=6000, step=150, shape="gaussian")
    for t in (1, 149, 150, 299, 3000, 5999, 6000, 9000):
        phase = 1 - min(t // 150, 40) / 40
        assert ramp.value(0.1, t, "linear") == pytest.approx(0.1 * math.exp(-5 * phase**2))


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
            "ConfKD has no weight 'lambda_entropy' to ramp; it has lambda_w, lambda_kd, "
            "lambda_ent, alpha",
        ),
        (
            {"smooth": 5},
            "linear",
            "ConfKD has no weight 'smooth' to ramp; it has lambda_w, lambda_kd, lambda_ent, alpha",
        ),
        ({"lambda_w": -1}, "linear", "the ramp of lambda_w cannot last -1 iterations"),
        (
            {"lambda_w": {"begin": 3, "lenght": 5}},
            "linear",
            "the ramp of lambda_w needs length and may have begin, start, step, shape, got begin, "
            "lenght",
        ),
        (
            {"lambda_w": {"length": 5, "step": 0}},
            "linear",
            "the ramp of lambda_w needs begin of at least 0 and step of at least 1, got 0 and 0",
        ),
        (
            {},
            "sigmoid",
            "ramp shape must be one of linear, gaussian, cosine, got 'sigmoid'",
        ),
    ],
)
def test_errors(ramps: dict[str, Any], shape: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        WeightRamps(ConfKD(), ramps, shape)
    assert str(caught.value) == message
