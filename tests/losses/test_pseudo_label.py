"""Hard pseudo-label cross-entropy (min-entropy) against the Shannon entropy: ConfKD §3.6."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mixseg.losses import (
    PseudoLabelCrossEntropyLoss,
    entropy_map,
    pseudo_label_cross_entropy,
    shannon_entropy,
)

TABLE = [
    # p of one pixel, -log max p
    ([0.5, 0.5], math.log(2)),
    ([0.25, 0.75], math.log(4 / 3)),
    ([0.5, 0.25, 0.25], math.log(2)),
    ([0.25] * 4, math.log(4)),
]


@pytest.mark.parametrize(("p", "expected"), TABLE)
def test_hand_derived_values(p: list[float], expected: float) -> None:
    logits = torch.tensor(p, dtype=torch.float64).log().view(1, -1, 1, 1).expand(1, len(p), 3, 2)
    assert pseudo_label_cross_entropy(logits).item() == pytest.approx(expected, rel=1e-12)
    assert PseudoLabelCrossEntropyLoss()(logits).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", [(3, 2, 5, 4), (2, 4, 3, 5, 4)])
def test_equals_the_formula_in_numpy(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=3, size=shape)
    mask = rng.random((shape[0], 1, *shape[2:])) < 0.4
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    min_entropy = -np.log(p.max(axis=1))
    tensor = torch.from_numpy(logits)
    assert pseudo_label_cross_entropy(tensor).item() == pytest.approx(min_entropy.mean(), rel=1e-12)
    assert PseudoLabelCrossEntropyLoss()(tensor, torch.from_numpy(mask)).item() == pytest.approx(
        min_entropy[mask[:, 0]].mean(), rel=1e-12
    )


def test_gradient_is_that_of_cross_entropy_with_the_argmax_as_fixed_target() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 4, 3, 3, 3, generator=generator, dtype=torch.float64)
    logits[0, :, 0] = 0.0  # ties: the first class is the target
    own, fixed = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    (grad,) = torch.autograd.grad(pseudo_label_cross_entropy(own), own)
    target = torch.from_numpy(logits.numpy().argmax(axis=1))
    (expected,) = torch.autograd.grad(F.cross_entropy(fixed, target), fixed)
    torch.testing.assert_close(grad, expected, rtol=0, atol=1e-16)
    # At a tie of C = 4: (p - onehot) / 54 voxels = (1/4 - 1, 1/4, 1/4, 1/4) / 54.
    tie = grad[0, :, 0, 0, 0] * 54
    torch.testing.assert_close(tie, torch.tensor([-0.75, 0.25, 0.25, 0.25], dtype=torch.float64))


@pytest.mark.parametrize("num_classes", [2, 3, 6])
def test_min_entropy_bounds_the_shannon_entropy_from_below(num_classes: int) -> None:
    # -log max p = Σ p_c (-log max p) <= Σ p_c (-log p_c); equal where p is uniform on its support.
    generator = torch.Generator().manual_seed(2)
    logits = 3 * torch.randn(40, num_classes, 10, generator=generator, dtype=torch.float64)
    for index in range(40):
        for position in range(10):
            voxel = logits[index : index + 1, :, position : position + 1]
            assert pseudo_label_cross_entropy(voxel) < entropy_map(voxel).squeeze()
    uniform = torch.zeros(1, num_classes, 2, 2, dtype=torch.float64)
    assert pseudo_label_cross_entropy(uniform).item() == pytest.approx(math.log(num_classes))
    assert shannon_entropy(uniform).item() == pytest.approx(math.log(num_classes))


def test_undecided_voxels_move_only_under_pseudo_labels() -> None:
    # Fig. 2b. Two classes, p = p_0: dH/dz_0 = p (1-p) log((1-p)/p), which is 0 at p = ½ and falls
    # toward it, while d(-log max p)/dz_0 = p - 1 for p >= ½: -½ at p = ½, its largest size.
    for p in (0.5, 0.501, 0.6, 0.8, 0.99):
        logits = torch.tensor([math.log(p / (1 - p)), 0.0], dtype=torch.float64).view(1, 2, 1, 1)
        logits.requires_grad_()
        (entropy,) = torch.autograd.grad(shannon_entropy(logits), logits)
        (pseudo,) = torch.autograd.grad(pseudo_label_cross_entropy(logits), logits)
        expected = p * (1 - p) * math.log((1 - p) / p)
        assert entropy[0, 0].item() == pytest.approx(expected, abs=1e-15)
        assert pseudo[0, 0].item() == pytest.approx(p - 1, abs=1e-15)


def test_saturated_logits() -> None:
    # Confident: -log 1 = 0 and no gradient, whatever the magnitude.
    logits = torch.tensor([-1e4, 1e4]).view(1, 2, 1, 1).requires_grad_()
    loss = pseudo_label_cross_entropy(logits)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.count_nonzero(logits.grad) == 0
