"""Generalized Jensen-Shannon divergence of N students: SSCO's co-training term."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from torch import Tensor

from mixseg.losses import CoTrainingLoss, generalized_jensen_shannon

SHAPES = [(2, 2, 3, 4), (2, 4, 3, 2, 4)]


def pixel(*probabilities: float) -> Tensor:
    """Logits (1, C, 1, 1) with these probabilities."""
    return torch.tensor(probabilities, dtype=torch.float64).log().view(1, -1, 1, 1)


def at(*weights: float) -> Tensor:
    """Weights (N, 1, 1, 1) of one pixel."""
    return torch.tensor(weights, dtype=torch.float64).view(-1, 1, 1, 1)


LOG2 = math.log(2)
H14 = 2 * LOG2 - 0.75 * math.log(3)  # entropy of (¼, ¾)
TABLE = [
    # students, weights, alpha, expected
    # Opposite: mixture (½, ½), own entropies alike: log 2 - (1 - α) H(¼, ¾).
    ([(0.25, 0.75), (0.75, 0.25)], None, 0.0, LOG2 - H14),
    ([(0.25, 0.75), (0.75, 0.25)], None, 0.25, LOG2 - 0.75 * H14),
    ([(0.25, 0.75), (0.75, 0.25)], (1.0, 1.0), 0.25, LOG2 - 0.75 * H14),
    # Alike: α H, the known value of agreement.
    ([(0.25, 0.75), (0.25, 0.75)], None, 0.0, 0.0),
    ([(0.25, 0.75), (0.25, 0.75)], None, 1.0, H14),
    # Weights 1 and 0 take the first student as mixture: H - ½ (H + 0) = ½ H.
    ([(0.25, 0.75), (0.5, 0.5)], (1.0, 0.0), 0.0, H14 / 2),
    # ŵ = (⅔, ⅓): mixture (⅓, ⅔)·… of (½, ½) and (0.2, 0.8) is (0.4, 0.6).
    (
        [(0.5, 0.5), (0.2, 0.8)],
        (0.5, 0.25),
        0.0,
        -0.4 * math.log(0.4)
        - 0.6 * math.log(0.6)
        - (0.5 * LOG2 - 0.25 * (0.2 * math.log(0.2) + 0.8 * math.log(0.8))) / 2,
    ),
    # Three students, three classes, each sure of another: log 3.
    (
        [(1 - 2e-12, 1e-12, 1e-12), (1e-12, 1 - 2e-12, 1e-12), (1e-12, 1e-12, 1 - 2e-12)],
        None,
        0.0,
        math.log(3),
    ),
    # Nobody admitted: nothing.
    ([(0.25, 0.75), (0.75, 0.25)], (0.0, 0.0), 0.5, 0.0),
]


@pytest.mark.parametrize(("students", "weights", "alpha", "expected"), TABLE)
def test_hand_derived_values(
    students: list[tuple[float, ...]],
    weights: tuple[float, ...] | None,
    alpha: float,
    expected: float,
) -> None:
    loss = CoTrainingLoss(alpha)
    value = loss([pixel(*p) for p in students], None if weights is None else at(*weights))
    assert value.item() == pytest.approx(expected, rel=1e-9, abs=1e-15)


def transcription(
    logits: NDArray[np.float64], weights: NDArray[np.float64], alpha: float
) -> NDArray[np.float64]:
    """H(Σ ŵ p) - (1 - α) mean w H(p), one value a voxel, student by student."""
    p = softmax(logits, axis=2)
    mixture = np.zeros(p.shape[1:])
    own = np.zeros(weights.shape[1:])
    for w, student in zip(weights, p, strict=True):
        mixture += (w / weights.sum(axis=0))[:, None] * student
        own += w * scipy.stats.entropy(student, axis=1)
    return np.asarray(scipy.stats.entropy(mixture, axis=1) - (1 - alpha) * own / len(p))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("students", [2, 3, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_formula(shape: tuple[int, ...], students: int, alpha: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2, size=(students, *shape))
    weights = rng.uniform(1e-5, 1, size=(students, shape[0], *shape[2:]))
    mask = rng.random((shape[0], 1, *shape[2:])) < 0.5
    tensors = list(torch.from_numpy(logits).unbind())
    expected = transcription(logits, weights, alpha)
    found = generalized_jensen_shannon(tensors, torch.from_numpy(weights), alpha=alpha)
    assert found.item() == pytest.approx(expected.mean(), rel=1e-11)
    masked = CoTrainingLoss(alpha)(tensors, torch.from_numpy(weights), torch.from_numpy(mask))
    assert masked.item() == pytest.approx(expected[mask[:, 0]].mean(), rel=1e-11)
    plain = transcription(logits, np.ones_like(weights), alpha).mean()
    assert generalized_jensen_shannon(tensors, alpha=alpha).item() == pytest.approx(plain)


def test_two_students_equal_scipys_jensen_shannon() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(scale=2, size=(2, 3, 4, 5, 5))
    p, q = softmax(logits, axis=2)
    expected = (jensenshannon(p, q, axis=1) ** 2).mean()
    found = generalized_jensen_shannon(list(torch.from_numpy(logits)))
    assert found.item() == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("students", [2, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradcheck_into_every_student(shape: tuple[int, ...], students: int) -> None:
    generator = torch.Generator().manual_seed(2)
    leaves = torch.randn(students, *shape, generator=generator, dtype=torch.float64).unbind()
    leaves = tuple(leaf.clone().requires_grad_() for leaf in leaves)
    weights = torch.rand(students, shape[0], *shape[2:], generator=generator, dtype=torch.float64)
    weights[:, 0, 0] = 0  # left out
    weights[0, 0, 1] = 0
    assert torch.autograd.gradcheck(
        lambda *z: generalized_jensen_shannon(z, weights, alpha=0.2), leaves, fast_mode=True
    )


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_order_of_students_does_not_matter(alpha: float) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(4, 2, 3, 5, 5, generator=generator, dtype=torch.float64)
    weights = torch.rand(4, 2, 5, 5, generator=generator, dtype=torch.float64)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        generalized_jensen_shannon(list(logits[order]), weights[order], alpha=alpha),
        generalized_jensen_shannon(list(logits), weights, alpha=alpha),
    )


def test_doubling_every_student_changes_nothing() -> None:
    # What a normalization written for two students would get wrong.
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(3, 2, 3, 5, 5, generator=generator, dtype=torch.float64)
    weights = torch.rand(3, 2, 5, 5, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        generalized_jensen_shannon([*logits, *logits], torch.cat([weights, weights]), alpha=0.1),
        generalized_jensen_shannon(list(logits), weights, alpha=0.1),
    )


@pytest.mark.parametrize("students", [2, 3])
def test_value_of_agreement_and_bounds(students: int) -> None:
    # Identical predictions and weight w: H (1 - (1 - α) w); never below 0 nor above ln C.
    generator = torch.Generator().manual_seed(5)
    one = torch.randn(2, 4, 6, 6, generator=generator, dtype=torch.float64)
    p = one.softmax(1).numpy()
    entropy = scipy.stats.entropy(p, axis=1).mean()
    for weight, alpha in ((1.0, 0.0), (1.0, 0.25), (0.5, 0.0), (0.2, 0.5)):
        weights = torch.full((students, 2, 6, 6), weight, dtype=torch.float64)
        value = generalized_jensen_shannon([one] * students, weights, alpha=alpha)
        assert value.item() == pytest.approx(entropy * (1 - (1 - alpha) * weight), abs=1e-14)
    logits = 5 * torch.randn(students, 1, 4, 30, 30, generator=generator, dtype=torch.float64)
    assert 0 < generalized_jensen_shannon(list(logits)) < math.log(4)


def test_a_student_of_weight_zero_learns_nothing_there() -> None:
    generator = torch.Generator().manual_seed(6)
    students = [
        torch.randn(1, 3, 2, 2, generator=generator, dtype=torch.float64).requires_grad_()
        for _ in range(3)
    ]
    weights = torch.ones(3, 1, 2, 2, dtype=torch.float64)
    weights[1, 0, 0, 0] = 0
    weights[:, 0, 1, 1] = 0
    generalized_jensen_shannon(students, weights).backward()
    gradients = torch.stack([z.grad for z in students if z.grad is not None]).abs().sum(dim=2)
    assert gradients[1, 0, 0, 0] < 1e-300
    assert torch.count_nonzero(gradients[:, 0, 1, 1]) == 0
    assert (gradients[0, 0, 0, 0] > 1e-3) & (gradients[1, 0, 0, 1] > 1e-3)


def test_weights_are_constants() -> None:
    students = [torch.randn(1, 2, 3, 3, requires_grad=True) for _ in range(2)]
    weights = torch.rand(2, 1, 3, 3, requires_grad=True)
    generalized_jensen_shannon(students, weights).backward()
    assert weights.grad is None
    assert students[0].grad is not None


def test_errors() -> None:
    z = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match="logits of two students or more are needed, got 1"):
        generalized_jensen_shannon([z])
    with pytest.raises(
        ValueError, match=r"must have the same shape, got \(2, 3, 4, 4\), \(2, 3, 4\)"
    ):
        generalized_jensen_shannon([z, z[..., 0]])
    with pytest.raises(
        ValueError,
        match=r"weights must have shape \(2, 2, 4, 4\) to match 2 logits of shape "
        r"\(2, 3, 4, 4\), got \(3, 2, 4, 4\)",
    ):
        generalized_jensen_shannon([z, z], torch.ones(3, 2, 4, 4))
    for alpha in (-0.1, 1.5, math.nan):
        message = rf"alpha must lie in \[0, 1\], got {alpha}"
        with pytest.raises(ValueError, match=message):
            generalized_jensen_shannon([z, z], alpha=alpha)
        with pytest.raises(ValueError, match=message):
            CoTrainingLoss(alpha)
    with pytest.raises(ValueError, match=r"logits must be \(B, C, \*spatial\) with C >= 2"):
        generalized_jensen_shannon([z[:, :1], z[:, :1]])
    assert repr(CoTrainingLoss(0.5)) == "CoTrainingLoss(alpha=0.5)"
