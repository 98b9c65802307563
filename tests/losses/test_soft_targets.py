"""Refined labels and guidance against float64 NumPy transcriptions."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import entropy
from torch import Tensor

from mixseg.losses import certainty_weighted_kl, linear_refinement, soft_cross_entropy

SHAPES = [(2, 3, 5, 4), (2, 2, 3, 4, 2)]


def draw(shape: tuple[int, ...], seed: int, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 30.0])
def test_refinement_is_the_geometric_mean(shape: tuple[int, ...], alpha: float) -> None:
    logits, ancillary = draw(shape, 0), draw(shape, 1)
    p, p_anc = softmax(logits.numpy(), axis=1), softmax(ancillary.numpy(), axis=1)
    product = (p * p_anc**alpha) ** (1 / (1 + alpha))
    expected = product / product.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(linear_refinement(logits, ancillary, alpha), expected, rtol=1e-10)


def test_refinement_is_what_the_paper_minimizes() -> None:
    """KL(q‖p) + α KL(q‖p_anc) is larger wherever q is moved to."""
    logits, ancillary, alpha = draw((1, 3, 1), 2), draw((1, 3, 1), 3), 0.7
    q = linear_refinement(logits, ancillary, alpha)[0, :, 0].numpy()
    p, p_anc = (softmax(z[0, :, 0].numpy()) for z in (logits, ancillary))

    def cost(q: np.ndarray) -> float:
        return float(entropy(q, p) + alpha * entropy(q, p_anc))

    rng = np.random.default_rng(0)
    for _ in range(20):
        step = rng.normal(size=3) * 0.01
        assert cost(q) < cost(q + step - step.mean())


@pytest.mark.parametrize("shape", SHAPES)
def test_soft_cross_entropy(shape: tuple[int, ...]) -> None:
    logits, target = draw(shape, 0), draw(shape, 1).softmax(dim=1)
    expected = -(target.numpy() * log_softmax(logits.numpy(), axis=1)).sum(axis=1).mean()
    assert soft_cross_entropy(logits, target).item() == pytest.approx(expected, rel=1e-12)
    hard = torch.nn.functional.one_hot(target.argmax(1), shape[1]).movedim(-1, 1).double()
    other = torch.nn.functional.cross_entropy(logits, target.argmax(1))
    assert soft_cross_entropy(logits, hard).item() == pytest.approx(other.item(), rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_soft_cross_entropy_of_some_voxels(shape: tuple[int, ...]) -> None:
    """The mean over those selected; the others have neither a part in it nor a gradient."""
    logits, target = draw(shape, 0).requires_grad_(), draw(shape, 1).softmax(dim=1)
    mask = draw((shape[0], *shape[2:]), 2) > 0
    by_voxel = -(target.numpy() * log_softmax(logits.detach().numpy(), axis=1)).sum(axis=1)
    for given in (mask, mask[:, None]):
        value = soft_cross_entropy(logits, target, given)
        assert value.item() == pytest.approx(by_voxel[mask.numpy()].mean(), rel=1e-12)
    (gradient,) = torch.autograd.grad(value, logits)
    assert not gradient.movedim(1, -1)[~mask].any()
    assert gradient.movedim(1, -1)[mask].abs().sum(-1).all()
    nothing = soft_cross_entropy(logits, target, torch.zeros_like(mask))
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert nothing.item() == 0
    assert not gradient.any()


@pytest.mark.parametrize("shape", SHAPES)
def test_certainty_weighted_kl(shape: tuple[int, ...]) -> None:
    guide, logits = draw(shape, 0), draw(shape, 1)
    p, q = softmax(guide.numpy(), axis=1), softmax(logits.numpy(), axis=1)
    weight = 1 - entropy(p, axis=1) / np.log(shape[1])
    expected = (weight * entropy(p, q, axis=1)).mean()
    assert weight.min() < 0.3 < 0.7 < weight.max()
    assert certainty_weighted_kl(guide, logits).item() == pytest.approx(expected, rel=1e-10)


def test_an_undecided_guide_teaches_nothing_and_agreement_costs_nothing() -> None:
    logits = draw((2, 3, 4), 0).requires_grad_()
    value = certainty_weighted_kl(torch.zeros(2, 3, 4, dtype=torch.float64), logits)
    assert value.item() == pytest.approx(0, abs=1e-15)
    (gradient,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-15)
    assert certainty_weighted_kl(logits, logits).item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("function", [soft_cross_entropy, certainty_weighted_kl])
def test_gradients(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    learner, fixed = draw((1, 3, 4), 0).requires_grad_(), draw((1, 3, 4), 1).requires_grad_()

    def loss(z: Tensor) -> Tensor:
        if function is soft_cross_entropy:
            return function(z, fixed.softmax(dim=1))
        return function(fixed, z)

    assert torch.autograd.gradcheck(loss, learner)
    loss(learner).backward()
    assert learner.grad is not None
    assert bool(learner.grad.any())
    assert fixed.grad is None


def test_refined_labels_have_no_gradient() -> None:
    q = linear_refinement(draw((1, 3, 4), 0).requires_grad_(), draw((1, 3, 4), 1), 0.5)
    assert not q.requires_grad
    torch.testing.assert_close(q.sum(1), torch.ones(1, 4, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_large_logits(dtype: torch.dtype) -> None:
    logits, other = draw((2, 3, 4), 0, 1e4).to(dtype), draw((2, 3, 4), 1, 1e4).to(dtype)
    logits.requires_grad_()
    q = linear_refinement(logits, other, 30.0)
    assert q.dtype == torch.float32
    for value in (soft_cross_entropy(logits, q), certainty_weighted_kl(other, logits)):
        assert value.dtype == torch.float32
        assert bool(value.isfinite())
        (gradient,) = torch.autograd.grad(value, logits)
        assert bool(gradient.isfinite().all())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda a, b: linear_refinement(a, b, 1.0),
            "logits and ancillary_logits must have the same shape, got (1, 3, 4) and (1, 3, 5)",
        ),
        (lambda a, b: linear_refinement(a, a, -1.0), "alpha must not be negative, got -1.0"),
        (soft_cross_entropy, "logits and target must have the same shape"),
        (certainty_weighted_kl, "guide_logits and logits must have the same shape"),
    ],
)
def test_what_is_refused(call: Callable[[Tensor, Tensor], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        call(torch.zeros(1, 3, 4), torch.zeros(1, 3, 5))
