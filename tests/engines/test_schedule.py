"""The learning rate of one cycle against its formula."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from torch import nn

from mixseg.engines import OneCycleLR
from mixseg.engines.schedule import load_schedule


def make(total: int, warmup: float = 0.05, lr: float = 2e-3) -> tuple[Any, OneCycleLR]:
    optimizer = torch.optim.AdamW(nn.Linear(1, 1).parameters(), lr=lr)
    return optimizer, OneCycleLR(optimizer, total, warmup)


def rates(optimizer: Any, schedule: OneCycleLR, steps: int) -> list[float]:
    """The rate of each step."""
    used = []
    for _ in range(steps):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return used


def one_cycle(step: int, total: int, warmup: int, lr: float) -> float:
    """Smith, 2018: linearly up in ``warmup`` steps, then half a cosine down to lr / 10,000."""
    if step < warmup:
        return lr * (step + 1) / (warmup + 1)
    angle = math.pi * min(step - warmup, total - warmup) / (total - warmup)
    return lr * 1e-4 + (lr - lr * 1e-4) * (1 + math.cos(angle)) / 2


@pytest.mark.parametrize(("total", "warmup"), [(100, 0.05), (60, 0.25), (8, 0.0)])
def test_the_rate_of_every_step(total: int, warmup: float) -> None:
    found = rates(*make(total, warmup), total + 5)
    expected = [one_cycle(k, total, round(warmup * total), 2e-3) for k in range(total + 5)]
    assert found == pytest.approx(expected, rel=1e-9)
    assert max(found) == found[round(warmup * total)] == 2e-3
    assert found[-1] == pytest.approx(2e-7)


@pytest.mark.parametrize("power", [0.9, 2.0, 0.0])
def test_a_polynomial_fall(power: float) -> None:
    optimizer = torch.optim.AdamW(nn.Linear(1, 1).parameters(), lr=2e-3)
    found = rates(optimizer, OneCycleLR(optimizer, 40, 0.1, power), 42)
    assert found[:5] == pytest.approx([2e-3 * (k + 1) / 5 for k in range(5)])
    # 36 steps of fall after 4 of rise; nothing is left at its end, unless the power is 0.
    expected = [2e-3 * (1 - min(k, 36) / 36) ** power for k in range(38)]
    assert found[4:] == pytest.approx(expected)


@pytest.mark.parametrize("total", [1, 2, 19])
def test_a_rise_of_less_than_a_step_is_none(total: int) -> None:
    found = rates(*make(total), total)
    assert found == pytest.approx([one_cycle(k, total, 0, 2e-3) for k in range(total)])
    assert found[0] == 2e-3


def test_a_longer_training_resumes_on_its_own_cycle() -> None:
    """The state holds the steps done and not the length."""
    optimizer, schedule = make(40)
    rates(optimizer, schedule, 30)
    buffer = io.BytesIO()
    torch.save([optimizer.state_dict(), schedule.state_dict()], buffer)
    buffer.seek(0)
    states = torch.load(buffer, weights_only=True)

    resumed, longer = make(80)
    resumed.load_state_dict(states[0])
    longer.load_state_dict(states[1])
    whole = rates(*make(80), 80)
    # The rate of the first step is still that of the shorter cycle's end.
    assert rates(resumed, longer, 50)[1:] == pytest.approx(whole[31:])


@pytest.mark.parametrize(
    ("total", "warmup", "message"),
    [
        (0, 0.05, "total_steps must be at least 1, got 0"),
        (10, 1.0, r"warmup must lie in \[0, 1\), got 1.0"),
        (10, -0.1, r"warmup must lie in \[0, 1\), got -0.1"),
    ],
)
def test_refused(total: int, warmup: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(total, warmup)


def test_a_negative_power_is_refused() -> None:
    optimizer = torch.optim.AdamW(nn.Linear(1, 1).parameters(), lr=2e-3)
    with pytest.raises(ValueError, match=r"power must not be negative, got -0\.9"):
        OneCycleLR(optimizer, 10, power=-0.9)


def polynomial(epochs: int) -> tuple[Any, Any]:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    return optimizer, torch.optim.lr_scheduler.PolynomialLR(optimizer, epochs, power=0.9)


def resumed(before: int, done: int, now: int) -> tuple[Any, Any]:
    """A schedule of ``now`` epochs with the state that one of ``before`` has after ``done``."""
    optimizer, schedule = polynomial(before)
    rates(optimizer, schedule, done)
    other, loaded = polynomial(now)
    other.load_state_dict(optimizer.state_dict())
    load_schedule(loaded, schedule.state_dict())
    return other, loaded


def test_a_torch_schedule_keeps_the_length_it_was_made_with() -> None:
    """Two epochs end at the rate 0; with four in all, the third and fourth learn."""
    found = rates(*resumed(2, 2, 4), 2)
    assert found == pytest.approx([0.1 * (1 - 2 / 4) ** 0.9, 0.1 * (1 - 3 / 4) ** 0.9])


def test_an_interrupted_schedule_resumes_to_the_bit() -> None:
    whole = rates(*polynomial(5), 5)
    assert rates(*resumed(5, 2, 5), 3) == whole[2:]
