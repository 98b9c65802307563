"""Learned weights of instances: Adam by hand, the clip, and their state."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mixseg.objectives import InstanceWeights

LEARNED = [False, True, True, False, True]


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def adam(gradients: list[np.ndarray], start: float, lr: float) -> np.ndarray:
    """Kingma and Ba, Algorithm 1, with a clip to [0, 1] after each step."""
    value = np.full(gradients[0].shape, start)
    first, second = np.zeros_like(value), np.zeros_like(value)
    for t, gradient in enumerate(gradients, start=1):
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        step = (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
        value = np.clip(value - lr * step, 0, 1)
    return value


def agreements(count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, generator=generator) * 1e-3 for _ in range(count)]


def test_first_step_is_the_rate_by_the_sign() -> None:
    """Up where the gradients agree, as ∂L_S/∂γ_k = -g_S · g_k; 0 stays."""
    weights = InstanceWeights(LEARNED)
    assert weights.gamma.tolist() == [1.0, 0.5, 0.5, 1.0, 0.5]
    weights.step(torch.tensor([2e-3, -5.0, 0.0]))
    np.testing.assert_allclose(weights.gamma, [1, 0.6, 0.4, 1, 0.5], rtol=1e-4)


def test_steps_equal_adam_by_hand() -> None:
    weights = InstanceWeights(LEARNED, lr=0.07, init=0.4)
    steps = agreements(7)
    for agreement in steps:
        weights.step(agreement)
    expected = adam([-a.double().numpy() for a in steps], 0.4, 0.07)
    assert 0 < expected.min() < expected.max() < 1
    np.testing.assert_allclose(weights.gamma[weights.learned], expected, rtol=1e-4)
    assert weights.gamma[~weights.learned].tolist() == [1.0, 1.0]


def test_weights_are_clipped_and_come_back() -> None:
    weights = InstanceWeights(LEARNED)
    up, down = torch.tensor([1.0, 1.0, -1.0]), torch.tensor([-9.0, -9.0, 9.0])
    for _ in range(8):  # 0.5 + 5 · 0.1 is 1
        weights.step(up)
    np.testing.assert_allclose(weights.gamma, [1, 1, 1, 1, 0], atol=1e-6)
    for _ in range(8):
        weights.step(down)
    expected = adam([-up.double().numpy()] * 8 + [-down.double().numpy()] * 8, 0.5, 0.1)
    np.testing.assert_allclose(weights.gamma[weights.learned], expected, atol=1e-5)
    assert expected[0] < 0.9


def test_weights_of_a_batch() -> None:
    weights = InstanceWeights(LEARNED, init=0.25)
    assert weights(torch.tensor([4, 0, 4])).tolist() == [0.25, 1.0, 0.25]


@pytest.mark.parametrize("done", [0, 1, 4])
def test_state_resumes_to_the_bit(done: int) -> None:
    steps = agreements(6)
    whole = InstanceWeights(LEARNED)
    kept = None
    for i, agreement in enumerate(steps):
        if i == done:
            kept = through_a_file(whole.state_dict())
        whole.step(agreement)
    assert kept is not None
    resumed = InstanceWeights(LEARNED, init=0.9)
    resumed.step(torch.ones(3))  # moments of another run, which the state replaces
    for _ in range(2):  # a state can be loaded again: steps do not change it
        resumed.load_state_dict(kept)
        for agreement in steps[done:]:
            resumed.step(agreement)
        assert torch.equal(resumed.gamma, whole.gamma)
        for name in ("step", "exp_avg", "exp_avg_sq"):
            found = [w.get_extra_state()["moments"][0][name] for w in (resumed, whole)]
            assert torch.equal(*found)


def test_state_of_another_data_set_is_refused() -> None:
    with pytest.raises(RuntimeError, match="size mismatch for gamma"):
        InstanceWeights(LEARNED).load_state_dict(InstanceWeights([False, True]).state_dict())


def test_weights_move_between_dtypes_and_devices() -> None:
    """A moved buffer is another tensor; the steps continue with it."""
    moved, stayed = InstanceWeights(LEARNED), InstanceWeights(LEARNED)
    for i, agreement in enumerate(agreements(4)):
        if i == 2:
            moved = moved.double()
        moved.step(agreement)
        stayed.step(agreement)
    assert moved.gamma.dtype == torch.float64
    np.testing.assert_allclose(moved.gamma, stayed.gamma, rtol=1e-5)
    assert not torch.equal(stayed.gamma, InstanceWeights(LEARNED).gamma)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learned": []}, "there is no instance to weigh"),
        ({"lr": 0}, "indicator_lr must be positive, got 0"),
        ({"init": 1.5}, r"indicator_init must lie in \[0, 1\], got 1.5"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        InstanceWeights(**({"learned": LEARNED} | options))


@pytest.mark.parametrize(
    ("agreement", "message"),
    [
        (torch.ones(5), r"one number for each of 3 learned weights, got shape \(5,\)"),
        (torch.tensor([1.0, torch.nan, 0.0]), "is not finite: the network has diverged"),
    ],
)
def test_agreements_that_are_refused(agreement: Tensor, message: str) -> None:
    weights = InstanceWeights(LEARNED)
    with pytest.raises(ValueError, match=message):
        weights.step(agreement)
    assert weights.gamma.tolist() == [1.0, 0.5, 0.5, 1.0, 0.5]
