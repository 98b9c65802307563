"""Adaptive sharpening against float64 NumPy, and against tables worked out by hand."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from mixseg.losses import SharpeningLoss, adaptive_temperature, sharpened_consistency

Array = NDArray[np.float64]
SHAPES = [(3, 2, 5, 4), (2, 4, 3, 5, 4)]


def sample(shape: tuple[int, ...], seed: int = 0, scale: float = 2.0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.normal(scale=scale, size=shape), rng.normal(-2, 1, size=shape)


def temperatures(mean: Array, log_variance: Array, minimum: float) -> Array:
    """Eqs. 6 and 7 voxel by voxel."""
    p = softmax(mean, axis=1)
    result = np.empty((len(p), *p.shape[2:]))
    for b in range(len(p)):
        for voxel in np.ndindex(*p.shape[2:]):
            classes = p[(b, slice(None), *voxel)]
            best = int(np.argmax(classes))
            result[(b, *voxel)] = classes[best] + math.exp(log_variance[(b, best, *voxel)])
        low, high = result[b].min(), result[b].max()
        result[b] = np.maximum((result[b] - low) / (high - low), minimum)
    return result


def sharpened(p: Array, t: Array | float) -> Array:
    """Eq. 5 as it is printed."""
    powers = p ** (1 / (t[:, None] if isinstance(t, np.ndarray) else t))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("minimum", [0.01, 0.2])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_formulas(shape: tuple[int, ...], minimum: float) -> None:
    mean, log_variance = sample(shape)
    t = temperatures(mean, log_variance, minimum)
    assert {t.min(), t.max()} == {minimum, 1.0}
    found = adaptive_temperature(*map(torch.from_numpy, (mean, log_variance)), minimum=minimum)
    np.testing.assert_allclose(found.numpy(), t, rtol=1e-11)
    p = softmax(mean, axis=1)
    expected = ((p - sharpened(p, t)) ** 2).mean()
    tensors = torch.from_numpy(mean), torch.from_numpy(log_variance)
    assert sharpened_consistency(tensors[0], found).item() == pytest.approx(expected, rel=1e-9)
    module = SharpeningLoss(minimum=minimum)
    assert module(*tensors).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("temperature", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_fixed_temperature_equals_the_formula(shape: tuple[int, ...], temperature: float) -> None:
    mean, log_variance = sample(shape)
    p = softmax(mean, axis=1)
    expected = ((p - sharpened(p, temperature)) ** 2).mean()
    tensors = torch.from_numpy(mean), torch.from_numpy(log_variance)
    found = SharpeningLoss(temperature)(*tensors)
    assert found.item() == pytest.approx(expected, rel=1e-11, abs=1e-30)
    as_map = torch.full((len(mean), 1, *shape[2:]), temperature, dtype=torch.float64)
    assert sharpened_consistency(tensors[0], as_map).item() == pytest.approx(found.item())


def test_by_hand() -> None:
    # Confidences ½, ¾, ¾; the third is noisy, σ² = ¼: c = ½, ¾, 1, hence T = 0, ½, 1.
    p = torch.tensor([[[0.5, 0.25, 0.25], [0.5, 0.75, 0.75]]], dtype=torch.float64)
    log_variance = torch.full_like(p, -100.0)
    log_variance[0, 1, 2] = math.log(0.25)
    found = adaptive_temperature(p.log(), log_variance)
    assert found.flatten().tolist() == pytest.approx([0.01, 0.5, 1.0])
    # Targets: (½, ½) sharpened is itself; (1/16, 9/16)/(10/16) = (0.1, 0.9); itself.
    assert sharpened_consistency(p.log(), found).item() == pytest.approx(0.15**2 / 3)
    # Another class's variance does not matter.
    other = log_variance.clone()
    other[0, 0, 1:] = 3.0
    assert torch.equal(adaptive_temperature(p.log(), other), found)


def test_an_image_of_equal_pixels_is_not_sharpened() -> None:
    logits = torch.tensor([0.3, -0.2]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
    t = adaptive_temperature(logits, torch.zeros(1, 2, 4, 4))
    assert torch.equal(t, torch.ones(1, 4, 4))
    assert sharpened_consistency(logits, t).item() == pytest.approx(0, abs=1e-15)


def test_temperatures_are_of_each_image_and_the_loss_is_their_mean() -> None:
    logits, log_variance = map(torch.from_numpy, sample((4, 3, 5, 5)))
    logits[1] *= 10  # far more confident than its neighbors
    whole = adaptive_temperature(logits, log_variance)
    single = [adaptive_temperature(logits[[i]], log_variance[[i]]) for i in range(4)]
    assert torch.equal(whole, torch.cat(single))
    module = SharpeningLoss()
    values = [module(logits[[i]], log_variance[[i]]).item() for i in range(4)]
    assert module(logits, log_variance).item() == pytest.approx(np.mean(values), rel=1e-12)


@pytest.mark.parametrize("temperature", [None, 0.4])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_is_that_of_a_fixed_target(
    shape: tuple[int, ...], temperature: float | None
) -> None:
    """2 (p - q) times the softmax's Jacobian, over N: nothing through the target or T."""
    mean, log_variance = sample(shape)
    leaves = [torch.from_numpy(x).requires_grad_() for x in (mean, log_variance)]
    SharpeningLoss(temperature)(*leaves).backward()
    p = softmax(mean, axis=1)
    t = temperatures(mean, log_variance, 0.01) if temperature is None else temperature
    g = 2 * (p - sharpened(p, t)) / p.size
    expected = p * (g - (p * g).sum(axis=1, keepdims=True))
    assert leaves[0].grad is not None
    np.testing.assert_allclose(leaves[0].grad.numpy(), expected, rtol=1e-8, atol=1e-16)
    assert leaves[1].grad is None


def test_gradcheck_towards_a_constant_target() -> None:
    logits = torch.from_numpy(sample((2, 3, 2, 3))[0])
    target = (logits / 0.5).softmax(dim=1)

    def frozen(z: Tensor) -> Tensor:
        return (z.softmax(dim=1) - target).square().mean()

    leaf = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(frozen, leaf)
    expected = torch.autograd.grad(frozen(leaf), leaf)
    found = torch.autograd.grad(sharpened_consistency(leaf, 0.5), leaf)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_huge_logits_and_small_temperatures_stay_finite(dtype: torch.dtype) -> None:
    logits, log_variance = (torch.from_numpy(x) for x in sample((2, 4, 6, 6), scale=1e4))
    leaf = logits.to(dtype).requires_grad_()
    for minimum in (1e-4, 0.01):
        value = SharpeningLoss(minimum=minimum)(leaf, log_variance.to(dtype))
        (grad,) = torch.autograd.grad(value, leaf)
        assert value.isfinite()
        assert grad.isfinite().all()
    assert sharpened_consistency(leaf, 1e-6).isfinite()


def test_the_least_certain_pixel_becomes_one_hot() -> None:
    logits = torch.tensor([[[0.45, 0.1], [0.55, 0.9]]], dtype=torch.float64).log()
    t = adaptive_temperature(logits, torch.full((1, 2, 2), -50.0, dtype=torch.float64))
    assert t.flatten().tolist() == pytest.approx([0.01, 1.0])
    # (0.45/0.55)^100 = 2e-9: target (0, 1), squared differences 2 · 0.45² over 2 classes, 2 pixels
    found = sharpened_consistency(logits, t).item()
    assert found == pytest.approx(2 * 0.45**2 / 4, rel=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    logits, log_variance = (torch.from_numpy(x).to(dtype) for x in sample((2, 3, 4, 4)))
    with torch.autocast("cpu", dtype=dtype):
        value = SharpeningLoss()(logits, log_variance)
    assert value.dtype == torch.float32
    reference = SharpeningLoss()(logits.double(), log_variance.double())
    assert value.item() == pytest.approx(reference.item(), rel=1e-4)


def test_shifts_voxel_order_metatensor_and_host() -> None:
    logits, log_variance = map(torch.from_numpy, sample((2, 3, 4, 6)))
    module = SharpeningLoss()
    expected = module(logits, log_variance)
    shift = torch.randn(2, 1, 4, 6, dtype=torch.float64)
    order = torch.tensor([2, 0, 1])
    for pair in (
        (logits + shift, log_variance),
        (logits.flip(-1), log_variance.flip(-1)),
        (logits[:, order], log_variance[:, order]),
        (logits.reshape(2, 3, 2, 2, 6), log_variance.reshape(2, 3, 2, 2, 6)),
        (MetaTensor(logits), MetaTensor(log_variance)),
    ):
        found = module(*pair)
        assert type(found) is Tensor
        torch.testing.assert_close(found, expected)
    assert module(logits.to("meta"), log_variance.to("meta")).shape == ()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: sharpened_consistency(z, 0.0), "temperature must be positive, got 0.0"),
        (
            lambda z: sharpened_consistency(z, torch.ones(2, 3, 4, 4)),
            "temperature must have shape (2, 1, 4, 4) or (2, 4, 4)",
        ),
        (
            lambda z: adaptive_temperature(z, z[..., :3]),
            "logits and log_variance must have the same shape, got (2, 3, 4, 4) and (2, 3, 4, 3)",
        ),
        (
            lambda z: adaptive_temperature(z, z, minimum=0.0),
            "the smallest temperature must lie in (0, 1], got 0.0",
        ),
        (lambda z: SharpeningLoss(-1.0), "temperature must be positive, got -1.0"),
        (
            lambda z: SharpeningLoss(minimum=2.0),
            "the smallest temperature must lie in (0, 1], got 2.0",
        ),
    ],
)
def test_errors(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call(torch.zeros(2, 3, 4, 4))


def test_repr() -> None:
    assert repr(SharpeningLoss(0.5)) == "SharpeningLoss(temperature=0.5, minimum=0.01)"
