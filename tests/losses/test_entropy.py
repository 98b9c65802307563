"""Shannon entropy: ConfKD eq. 4."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from mixseg.losses import ShannonEntropyLoss, entropy_map, shannon_entropy

TABLE = [
    # p of one pixel, H(p)
    ([0.5, 0.5], math.log(2)),
    # H = -¼ log ¼ - ¾ log ¾ = 2 log 2 - ¾ log 3
    ([0.25, 0.75], 2 * math.log(2) - 0.75 * math.log(3)),
    # H = ½ log 2 + 2 · ¼ log 4 = 3/2 log 2
    ([0.5, 0.25, 0.25], 1.5 * math.log(2)),
    # Uniform over C classes: log C, the maximum.
    ([0.25] * 4, math.log(4)),
    ([0.2] * 5, math.log(5)),
]


@pytest.mark.parametrize(("p", "expected"), TABLE)
def test_hand_derived_values(p: list[float], expected: float) -> None:
    logits = torch.tensor(p, dtype=torch.float64).log().view(1, -1, 1, 1).expand(1, len(p), 3, 2)
    assert shannon_entropy(logits).item() == pytest.approx(expected, rel=1e-12)
    assert ShannonEntropyLoss()(logits).item() == pytest.approx(expected, rel=1e-12)


def test_mask_selects_what_is_averaged() -> None:
    # Entropies by the table: log 2, 3/2 log 2 (three classes, so p = (½, ½, ~0) for the first).
    probabilities = torch.tensor([[0.5, 0.5, 1e-300], [0.5, 0.25, 0.25]], dtype=torch.float64)
    logits = probabilities.log().T.reshape(1, 3, 1, 2)
    mask = torch.tensor([[True, False]]).view(1, 1, 1, 2)
    assert shannon_entropy(logits).item() == pytest.approx(1.25 * math.log(2))
    assert shannon_entropy(logits, mask=mask).item() == pytest.approx(math.log(2))
    assert ShannonEntropyLoss()(logits, ~mask).item() == pytest.approx(1.5 * math.log(2))


@pytest.mark.parametrize("shape", [(3, 2, 5, 4), (2, 4, 3, 5, 4)])
def test_equals_scipy(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=4, size=shape)
    mask = rng.random((shape[0], 1, *shape[2:])) < 0.4
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    reference = scipy.stats.entropy(p, axis=1)
    tensor = torch.from_numpy(logits)
    np.testing.assert_allclose(entropy_map(tensor).numpy(), reference, rtol=1e-11, atol=1e-14)
    assert shannon_entropy(tensor).item() == pytest.approx(reference.mean(), rel=1e-12)
    assert shannon_entropy(tensor, mask=torch.from_numpy(mask)).item() == pytest.approx(
        reference[mask[:, 0]].mean(), rel=1e-12
    )


def test_gradient_in_closed_form() -> None:
    # dH/dz_k = -p_k (log p_k + H), over the number of voxels.
    rng = np.random.default_rng(1)
    logits = torch.from_numpy(rng.normal(scale=2, size=(2, 3, 4, 5))).requires_grad_()
    (grad,) = torch.autograd.grad(shannon_entropy(logits), logits)
    p = np.exp(logits.detach().numpy())
    p /= p.sum(axis=1, keepdims=True)
    entropy = -(p * np.log(p)).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(grad.numpy(), -p * (np.log(p) + entropy) / (2 * 4 * 5), atol=1e-16)


def test_saturated_logits_have_zero_entropy_and_gradient() -> None:
    logits = torch.tensor([1e4, -1e4, 0.0]).view(1, 3, 1, 1).requires_grad_()
    loss = shannon_entropy(logits)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.count_nonzero(logits.grad) == 0


def test_bounds() -> None:
    generator = torch.Generator().manual_seed(4)
    for num_classes in (2, 3, 7):
        for scale in (0.01, 1.0, 30.0):
            logits = scale * torch.randn(2, num_classes, 8, 8, generator=generator).double()
            values = entropy_map(logits)
            assert values.shape == (2, 8, 8)
            assert values.min() >= 0
            assert values.max() <= math.log(num_classes) + 1e-12
