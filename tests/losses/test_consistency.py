"""UA-MT's gated consistency, self-consistency, and consistency under a transformation."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import scipy.stats
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from mixseg.handlers import ramp_factor
from mixseg.losses import (
    GatedConsistencyLoss,
    SoftmaxMSELoss,
    TransformationConsistencyLoss,
    entropy_threshold,
    gated_consistency,
    predictive_entropy,
    softmax_mse,
    transformation_consistency,
)

SHAPES = [(3, 2, 5, 4), (2, 4, 3, 5, 4)]


def pixel(*probabilities: float) -> Tensor:
    """Logits (1, C, 1, 1) with these probabilities."""
    return torch.tensor(probabilities, dtype=torch.float64).log().view(1, -1, 1, 1)


# Σ (p - q)² / C
MSE_TABLE = [
    (pixel(0.5, 0.5), pixel(0.25, 0.75), 1 / 16),
    (pixel(0.5, 0.25, 0.25), pixel(0.25, 0.25, 0.5), 1 / 24),
    (pixel(0.25, 0.25, 0.25, 0.25), pixel(0.125, 0.125, 0.25, 0.5), (2 / 64 + 1 / 16) / 4),
    # Opposite certainties give the largest value, 2/C.
    (1e4 * pixel(0.9, 0.1), 1e4 * pixel(0.1, 0.9), 1.0),
    (1e4 * pixel(0.8, 0.1, 0.1), 1e4 * pixel(0.1, 0.8, 0.1), 2 / 3),
]


@pytest.mark.parametrize(("first", "second", "expected"), MSE_TABLE)
def test_hand_derived_differences(first: Tensor, second: Tensor, expected: float) -> None:
    assert softmax_mse(first, second).item() == pytest.approx(expected, rel=1e-12)
    assert SoftmaxMSELoss()(second, first).item() == pytest.approx(expected, rel=1e-12)
    same = transformation_consistency(first, second, lambda p: p)
    assert same.item() == pytest.approx(expected, rel=1e-12)
    assert softmax_mse(first, first + 3).item() == pytest.approx(0, abs=1e-30)


UNCERTAINTY_TABLE = [
    # probabilities of the passes, entropy of their mean
    ([[0.5, 0.5]], math.log(2)),
    # (1, 0) and (0, 1): each pass is certain, their mean is not.
    ([[1.0, 0.0], [0.0, 1.0]], math.log(2)),
    # mean (¼, ¾): 2 log 2 - ¾ log 3
    ([[0.5, 0.5], [0.0, 1.0]], 2 * math.log(2) - 0.75 * math.log(3)),
    # three passes, mean (½, ¼, ¼): 3/2 log 2
    ([[0.75, 0.0, 0.25], [0.5, 0.25, 0.25], [0.25, 0.5, 0.25]], 1.5 * math.log(2)),
]


@pytest.mark.parametrize(("passes", "expected"), UNCERTAINTY_TABLE)
def test_hand_derived_uncertainties(passes: list[list[float]], expected: float) -> None:
    logits = [torch.tensor(p, dtype=torch.float64).clamp(min=1e-300).log() for p in passes]
    value = predictive_entropy(z.view(1, -1, 1, 1) for z in logits)
    assert value.shape == (1, 1, 1)
    assert value.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_uncertainty_equals_scipy(shape: tuple[int, ...], count: int) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=3, size=(count, *shape))
    mean = softmax(logits, axis=2).mean(axis=0)
    found = predictive_entropy(torch.from_numpy(logits).unbind())
    np.testing.assert_allclose(found.numpy(), scipy.stats.entropy(mean, axis=1), rtol=1e-11)
    # The authors' code takes log(μ + 1e-6): less by Σ μ log(1 + 1e-6/μ), at most C · 1e-6.
    authors = -(mean * np.log(mean + 1e-6)).sum(axis=1)
    assert np.all(found.numpy() - authors >= 0)
    assert np.all(found.numpy() - authors <= shape[1] * 1e-6)


def test_passes_are_taken_one_at_a_time() -> None:
    alive: list[int] = []

    def passes() -> Iterator[Tensor]:
        for index in range(4):
            alive.append(index)
            yield torch.full((1, 2, 3, 3), float(index))

    value = predictive_entropy(passes())
    assert alive == [0, 1, 2, 3]
    torch.testing.assert_close(value, torch.full((1, 3, 3), math.log(2)))


def test_uncertainty_is_finite_for_huge_logits_and_differentiable() -> None:
    huge = torch.tensor([1e4, -1e4, 0.0]).view(1, 3, 1, 1)
    assert predictive_entropy([huge, huge]).item() == 0
    assert predictive_entropy([huge, huge.flip(1)]).item() == pytest.approx(math.log(2))
    for dtype in (torch.bfloat16, torch.float16):
        assert predictive_entropy([huge.to(dtype)]).dtype == torch.float32
    assert type(predictive_entropy([MetaTensor(huge)])) is Tensor
    generator = torch.Generator().manual_seed(1)
    leaves = [
        torch.randn(1, 3, 2, 2, generator=generator, dtype=torch.float64).requires_grad_()
        for _ in range(3)
    ]
    assert torch.autograd.gradcheck(lambda *z: predictive_entropy(z), leaves)


@pytest.mark.parametrize(
    ("ramp", "classes", "expected"),
    [
        (0.0, 2, 0.75 * math.log(2)),
        (1.0, 2, math.log(2)),
        (0.5, 4, 0.875 * 2 * math.log(2)),
        (1.0, 5, math.log(5)),
    ],
)
def test_thresholds(ramp: float, classes: int, expected: float) -> None:
    assert entropy_threshold(ramp, classes) == pytest.approx(expected, rel=1e-15)


def test_threshold_follows_the_gaussian_ramp_that_is_there() -> None:
    # r(t, T) = exp(-5 (1 - t/T)²): e^-5 at t = 0, e^-1.25 halfway, 1 from T on.
    for iteration, ramp in ((0, math.exp(-5)), (3000, math.exp(-1.25)), (6000, 1.0), (7000, 1.0)):
        r = ramp_factor(iteration, 6000, "gaussian")
        assert r == pytest.approx(ramp, rel=1e-15)
        assert entropy_threshold(r, 2) == pytest.approx((0.75 + 0.25 * ramp) * math.log(2))


def transcription(
    student: NDArray[np.float64],
    target: NDArray[np.float64],
    passes: NDArray[np.float64],
    ramp: float,
) -> float:
    """Yu et al. eqs. 2 and 3 voxel by voxel, divided by C times the kept voxels."""
    classes = student.shape[1]
    p, q, mean = softmax(student, 1), softmax(target, 1), softmax(passes, 2).mean(axis=0)
    total, kept = 0.0, 0
    for index in np.ndindex(student.shape[0], *student.shape[2:]):
        voxel = (index[0], slice(None), *index[1:])
        entropy = -sum(mu * math.log(mu) for mu in mean[voxel])
        if entropy / math.log(classes) < 0.75 + 0.25 * ramp:
            kept += 1
            total += float(((p[voxel] - q[voxel]) ** 2).sum())
    assert 0 < kept < p.size // classes
    return total / (classes * kept)


@pytest.mark.parametrize("ramp", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_gated_consistency_equals_the_formula(shape: tuple[int, ...], ramp: float) -> None:
    rng = np.random.default_rng(2)
    student, target = rng.normal(scale=2, size=(2, *shape))
    passes = rng.normal(size=(1, *shape)) + rng.normal(size=(4, *shape))
    passes[:, 0, :, 0] = 0  # uniform: of the largest entropy, which no threshold keeps
    uncertainty = predictive_entropy(torch.from_numpy(passes).unbind())
    # Rounding leaves ln C itself a hair to either side.
    uncertainty[0, 0] += 1e-9
    tensors = torch.from_numpy(student), torch.from_numpy(target)
    expected = transcription(student, target, passes, ramp)
    found = gated_consistency(*tensors, uncertainty, ramp=ramp)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    module = GatedConsistencyLoss()
    assert module(*tensors, uncertainty.unsqueeze(1), ramp).item() == pytest.approx(expected)


def test_gated_by_hand() -> None:
    # Two pixels of three classes; u = ½ ln 3 is below ¾ ln 3, u = 0.9 ln 3 only below the ramped
    # threshold. Squared differences over C: 1/24 (table above) and, (½,¼,¼) against itself, 0.
    student = torch.cat([pixel(0.5, 0.25, 0.25), pixel(0.5, 0.25, 0.25)], dim=3)
    teacher = torch.cat([pixel(0.25, 0.25, 0.5), pixel(0.5, 0.25, 0.25)], dim=3)
    u = math.log(3) * torch.tensor([[[0.5, 0.9]]], dtype=torch.float64)
    assert gated_consistency(student, teacher, u, ramp=0).item() == pytest.approx(1 / 24)
    assert gated_consistency(student, teacher, u, ramp=1).item() == pytest.approx(1 / 48)
    # At u = H exactly a voxel is left out: the comparison is strict.
    edge = torch.full_like(u, entropy_threshold(0.5, 3))
    assert gated_consistency(student, teacher, edge, ramp=0.5).item() == 0


@pytest.mark.parametrize("classes", [2, 5])
def test_nothing_kept_gives_zero_with_zero_gradient(classes: int) -> None:
    student = torch.randn(2, classes, 4, 4, 4, requires_grad=True)
    uncertainty = torch.full((2, 4, 4, 4), math.log(classes) + 1e-3)
    loss = gated_consistency(student, torch.randn(student.shape), uncertainty)
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert torch.count_nonzero(student.grad) == 0


def test_no_gradient_reaches_the_teacher_or_the_gate() -> None:
    student, teacher = (torch.randn(2, 3, 4, 4, requires_grad=True) for _ in range(2))
    uncertainty = predictive_entropy([teacher])
    for loss in (
        gated_consistency(student, teacher, uncertainty),
        softmax_mse(student, teacher),
        transformation_consistency(student, teacher, lambda p: p.flip(-1)),
    ):
        student.grad = None
        loss.backward()
        assert teacher.grad is None
        assert student.grad is not None
        assert torch.count_nonzero(student.grad) == student.numel()
    SoftmaxMSELoss(detach_target=False)(student, teacher).backward()
    assert teacher.grad is not None


@pytest.mark.parametrize("shape", SHAPES)
def test_transformed_target_equals_numpy(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    plain = rng.normal(scale=2, size=shape)
    turned = rng.normal(scale=2, size=np.rot90(plain, axes=(-2, -1)).shape)
    mask = rng.random((shape[0], 1, *turned.shape[2:])) < 0.5
    target = np.rot90(softmax(plain, axis=1), axes=(-2, -1))
    difference = ((softmax(turned, axis=1) - target) ** 2).mean(axis=1)
    tensors = torch.from_numpy(turned), torch.from_numpy(plain)

    def rotate(p: Tensor) -> Tensor:
        return MetaTensor(p.rot90(dims=(-2, -1)))

    value = transformation_consistency(*tensors, rotate)
    assert type(value) is Tensor
    assert value.item() == pytest.approx(difference.mean(), rel=1e-12)
    masked = TransformationConsistencyLoss()(*tensors, rotate, torch.from_numpy(mask))
    assert masked.item() == pytest.approx(difference[mask[:, 0]].mean(), rel=1e-12)


def test_an_equivariant_network_is_consistent() -> None:
    logits = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    for transform in (lambda z: z.flip(-1), lambda z: z.rot90(dims=(-2, -1))):
        value = transformation_consistency(transform(logits), logits, transform)
        assert value.item() == pytest.approx(0, abs=1e-30)


def test_the_transform_is_given_probabilities() -> None:
    # Averaging the two pixels of p = (¼, ¾) and (¾, ¼) gives (½, ½); averaging logits would too,
    # but for p = (½, ½) and (0.9, 0.1) the mean is (0.7, 0.3), that of logits (¾, ¼).
    logits = torch.cat([pixel(0.5, 0.5), pixel(0.9, 0.1)], dim=3)
    blurred = pixel(0.7, 0.3).expand(1, 2, 1, 2)
    value = transformation_consistency(
        blurred, logits, lambda p: p.mean(dim=-1, keepdim=True).expand_as(p)
    )
    assert value.item() == pytest.approx(0, abs=1e-30)


def test_errors() -> None:
    logits, other = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 5)
    with pytest.raises(
        ValueError,
        match=r"logits and target_logits must have the same shape, got \(2, 3, 4, 4\) and "
        r"\(2, 3, 4, 5\)",
    ):
        softmax_mse(logits, other)
    with pytest.raises(ValueError, match=r"student_logits and teacher_logits must have the same"):
        gated_consistency(logits, other, torch.zeros(2, 4, 4))
    with pytest.raises(
        ValueError, match=r"uncertainty must have shape \(2, 1, 4, 4\) or .* got \(2, 3, 4, 4\)"
    ):
        gated_consistency(logits, logits, torch.zeros(2, 3, 4, 4))
    with pytest.raises(
        ValueError,
        match=r"transformed_logits and the transformed target must have the same shape, got "
        r"\(2, 3, 4, 4\) and \(2, 3, 5, 4\)",
    ):
        transformation_consistency(logits, other, lambda p: p.rot90(dims=(-2, -1)))
    for ramp in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=rf"ramp must lie in \[0, 1\], got {ramp}"):
            entropy_threshold(ramp, 2)
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        entropy_threshold(1.0, 1)
    with pytest.raises(ValueError, match="passes is empty: at least one stochastic pass"):
        predictive_entropy([])
    with pytest.raises(TypeError, match=r"passes must be an iterable .* use \.unbind\(\)"):
        predictive_entropy(torch.zeros(2, 3, 4, 4))
    with pytest.raises(
        ValueError,
        match=r"passes must all have the same shape, got \(2, 3, 4, 4\) and \(2, 3, 4, 5\)",
    ):
        predictive_entropy([logits, other])
    with pytest.raises(ValueError, match=r"passes must be \(B, C, \*spatial\) .* got shape \(2, 3"):
        predictive_entropy([logits[..., 0, 0]])


def test_repr() -> None:
    assert repr(SoftmaxMSELoss(False)) == "SoftmaxMSELoss(detach_target=False)"
