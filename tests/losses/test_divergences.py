"""Distillation by KL, Bhattacharyya and Tsallis: ConfKD eqs. 3, 6 and 7."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import rel_entr, softmax
from torch import Tensor

from mixseg.losses import (
    DistillationLoss,
    bhattacharyya_distance,
    distillation,
    kl_divergence,
    tsallis_divergence,
)

ALL = [("kl", 2.0), ("bhattacharyya", 2.0)]
ALL += [("tsallis", alpha) for alpha in (0.5, 2.0, 3.0, 5.0)]


def voxel(p: list[float]) -> Tensor:
    """Logits (1, C, 1, 1) whose softmax is p."""
    return torch.tensor(p, dtype=torch.float64).log().view(1, -1, 1, 1)


# Two classes: p = (½, ½), q = (¼, ¾).
P, Q = [0.5, 0.5], [0.25, 0.75]
# Three classes: p = (½, ¼, ¼), q = (¼, ¼, ½).
P3, Q3 = [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]
TABLE = [
    # KL(P||Q) = ½ log 2 + ½ log 2/3 = ½ log 4/3;  KL(Q||P) = ¼ log ½ + ¾ log 3/2.
    (P, Q, "kl", 2.0, 0.5 * math.log(4 / 3)),
    (Q, P, "kl", 2.0, 0.25 * math.log(0.5) + 0.75 * math.log(1.5)),
    # KL(P3||Q3) = ½ log 2 + 0 + ¼ log ½ = ¼ log 2.
    (P3, Q3, "kl", 2.0, 0.25 * math.log(2)),
    # Σ√(pq) = √⅛ + √⅜ = (1 + √3) / √8.
    (P, Q, "bhattacharyya", 2.0, -math.log((1 + math.sqrt(3)) / math.sqrt(8))),
    (Q, P, "bhattacharyya", 2.0, -math.log((1 + math.sqrt(3)) / math.sqrt(8))),
    # Σ√(pq) = √⅛ + ¼ + √⅛ = 1/√2 + ¼.
    (P3, Q3, "bhattacharyya", 2.0, -math.log(1 / math.sqrt(2) + 0.25)),
    # α = 2, Σp²/q - 1: ¼/¼ + ¼/¾ - 1 = ⅓; the other way (1/16 + 9/16)/½ - 1 = ¼.
    (P, Q, "tsallis", 2.0, 1 / 3),
    (Q, P, "tsallis", 2.0, 1 / 4),
    # ¼/¼ + (1/16)/¼ + (1/16)/½ - 1 = 1 + ¼ + ⅛ - 1 = ⅜.
    (P3, Q3, "tsallis", 2.0, 3 / 8),
    # α = 3, (Σp³/q² - 1)/2: ⅛·16 + ⅛·16/9 = 20/9, so 11/18.
    (P, Q, "tsallis", 3.0, 11 / 18),
    # α = 5, (Σp⁵/q⁴ - 1)/4: (256 + 256/81)/32 = 8 + 8/81 = 656/81, so 575/324.
    (P, Q, "tsallis", 5.0, 575 / 324),
    # α = ½, 2 (1 - Σ√(pq)).
    (P, Q, "tsallis", 0.5, 2 * (1 - (1 + math.sqrt(3)) / math.sqrt(8))),
]


@pytest.mark.parametrize(("p", "q", "divergence", "alpha", "expected"), TABLE)
def test_hand_derived_values(
    p: list[float], q: list[float], divergence: str, alpha: float, expected: float
) -> None:
    teacher, student = voxel(p), voxel(q)
    loss = DistillationLoss(divergence, alpha, smooth=False)  # type: ignore[arg-type]
    assert loss(teacher, student).item() == pytest.approx(expected, rel=1e-12)


def reference(p: NDArray[np.float64], q: NDArray[np.float64], kind: str, alpha: float) -> float:
    """Eqs. 3, 6 and 7 on probabilities (B, C, *spatial), mean over voxels."""
    if kind == "kl":
        return float(rel_entr(p, q).sum(axis=1).mean())
    if kind == "bhattacharyya":
        return float(-np.log(np.sqrt(p * q).sum(axis=1)).mean())
    return float(((1 - (p**alpha * q ** (1 - alpha)).sum(axis=1)) / (1 - alpha)).mean())


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize(("divergence", "alpha"), ALL)
@pytest.mark.parametrize("shape", [(3, 2, 5, 4), (2, 4, 3, 5, 4)])
def test_equals_scipy(shape: tuple[int, ...], divergence: str, alpha: float, smooth: bool) -> None:
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(scale=2, size=(2, *shape))
    mask = rng.random((shape[0], 1, *shape[2:])) < 0.5
    p, q = softmax(teacher, axis=1), softmax(student, axis=1)
    if smooth:
        p, q = softmax(p, axis=1), softmax(q, axis=1)
    options = {"divergence": divergence, "alpha": alpha, "smooth": smooth}
    tensors = torch.from_numpy(teacher), torch.from_numpy(student)
    value = distillation(*tensors, **options)  # type: ignore[arg-type]
    assert value.item() == pytest.approx(reference(p, q, divergence, alpha), rel=1e-10)
    masked = DistillationLoss(**options)(*tensors, torch.from_numpy(mask))  # type: ignore[arg-type]
    selected = mask[:, 0]
    p_selected, q_selected = np.moveaxis(p, 1, -1)[selected], np.moveaxis(q, 1, -1)[selected]
    expected = reference(p_selected, q_selected, divergence, alpha)
    assert masked.item() == pytest.approx(expected, rel=1e-10)


def test_kl_gradient_of_the_student_in_closed_form() -> None:
    # Plain softmax: dKL/dz_S = q - p. Smoothed, r = softmax(q), s = softmax(p): the outer softmax
    # gives g = r - s with respect to q, and the inner one q_k (g_k - Σ_j q_j g_j).
    rng = np.random.default_rng(1)
    teacher, student = rng.normal(scale=2, size=(2, 2, 3, 4, 4))
    p, q = softmax(teacher, axis=1), softmax(student, axis=1)
    g = softmax(q, axis=1) - softmax(p, axis=1)
    expected = {False: q - p, True: q * (g - (q * g).sum(axis=1, keepdims=True))}
    for smooth, gradient in expected.items():
        leaf = torch.from_numpy(student).requires_grad_()
        loss = distillation(torch.from_numpy(teacher), leaf, smooth=smooth)
        (grad,) = torch.autograd.grad(loss, leaf)
        np.testing.assert_allclose(grad.numpy(), gradient / 32, atol=1e-16)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize(("divergence", "alpha"), ALL)
def test_non_negative_and_zero_only_for_equal_distributions(
    divergence: str, alpha: float, smooth: bool
) -> None:
    generator = torch.Generator().manual_seed(2)
    options = {"divergence": divergence, "alpha": alpha, "smooth": smooth}
    for _ in range(50):
        teacher, student = torch.randn(2, 1, 3, 1, 1, generator=generator, dtype=torch.float64)
        assert distillation(teacher, student, **options) > 1e-6  # type: ignore[arg-type]
        # Equal distributions from different logits: softmax ignores a shift.
        same = distillation(teacher, teacher + 3, **options)  # type: ignore[arg-type]
        assert abs(same.item()) < 1e-14


def test_two_class_smoothing_bounds() -> None:
    # softmax(p, 1-p) is a logistic function of 2p - 1 in [-1, 1]: between 1/(1+e) and e/(1+e).
    # Opposite certainties: KL = (e - 1)/(e + 1) · log e = tanh ½ = 0.4621, the largest value.
    # Bhattacharyya: Σ√(pq) = 2√e/(1+e) = 1/cosh ½. α = 2: (e² + 1/e)/(1+e) - 1 by Σp²/q.
    low, high = 1 / (1 + math.e), math.e / (1 + math.e)
    assert (round(low, 4), round(high, 4)) == (0.2689, 0.7311)
    teacher = torch.tensor([1e4, -1e4], dtype=torch.float64).view(1, 2, 1, 1)
    bounds = {
        "kl": math.tanh(0.5),
        "bhattacharyya": math.log(math.cosh(0.5)),
        "tsallis": (math.e**2 + 1 / math.e) / (1 + math.e) - 1,
    }
    assert bounds["kl"] == pytest.approx(0.462, abs=2e-4)
    generator = torch.Generator().manual_seed(3)
    random = 10 * torch.randn(2, 1, 2, 40, 40, generator=generator, dtype=torch.float64)
    plain = torch.tensor([low, high], dtype=torch.float64).log().view(1, 2, 1, 1)
    for divergence, bound in bounds.items():
        loss = DistillationLoss(divergence)  # type: ignore[arg-type]
        assert loss(teacher, -teacher).item() == pytest.approx(bound, rel=1e-12)
        unsmoothed = DistillationLoss(divergence, smooth=False)  # type: ignore[arg-type]
        assert unsmoothed(plain.flip(1), plain).item() == pytest.approx(bound, rel=1e-12)
        for row in range(40):
            for column in range(0, 40, 8):
                pair = random[..., row : row + 1, column : column + 1]
                assert 0 <= loss(*pair).item() + 1e-15 <= bound + 2e-15


def test_tsallis_approaches_kl_at_the_right_rate() -> None:
    # With r = log p/q: D_{1+h} = (Σ p e^{h r} - 1)/h = Σ p r + h/2 Σ p r² + O(h²).
    rng = np.random.default_rng(4)
    p, q = softmax(rng.normal(size=(2, 1, 4, 3, 3)), axis=2)
    log_p, log_q = torch.from_numpy(np.log(p)), torch.from_numpy(np.log(q))
    kl = kl_divergence(log_p, log_q).numpy()
    np.testing.assert_allclose(kl, rel_entr(p, q).sum(axis=1), rtol=1e-12)
    slope = 0.5 * (p * np.log(p / q) ** 2).sum(axis=1)
    for h in (1e-3, -1e-3, 1e-5):
        near = tsallis_divergence(log_p, log_q, 1 + h).numpy()
        np.testing.assert_allclose(near - kl, h * slope, rtol=20 * abs(h) + 1e-4, atol=1e-10)


def test_identities_between_the_divergences() -> None:
    # α = 2 is Pearson's χ², Σ (p-q)²/q; α = ½ is 2 (1 - Σ√(pq)) = 2 (1 - e^-BC).
    rng = np.random.default_rng(5)
    p, q = softmax(2 * rng.normal(size=(2, 2, 5, 3, 2, 2)), axis=2)
    log_p, log_q = torch.from_numpy(np.log(p)), torch.from_numpy(np.log(q))
    np.testing.assert_allclose(
        tsallis_divergence(log_p, log_q, 2.0).numpy(), ((p - q) ** 2 / q).sum(axis=1), rtol=1e-10
    )
    distance = bhattacharyya_distance(log_p, log_q)
    torch.testing.assert_close(
        tsallis_divergence(log_p, log_q, 0.5), 2 * (1 - torch.exp(-distance)), rtol=1e-10, atol=0
    )
    torch.testing.assert_close(distance, bhattacharyya_distance(log_q, log_p))


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize(("divergence", "alpha"), ALL)
def test_detach_teacher(divergence: str, alpha: float, smooth: bool) -> None:
    generator = torch.Generator().manual_seed(6)
    values = torch.randn(2, 1, 3, 4, 4, generator=generator)
    options = {"divergence": divergence, "alpha": alpha, "smooth": smooth}
    gradients = []
    for detach in (True, False):
        teacher, student = (x.clone().requires_grad_() for x in values)
        loss = distillation(teacher, student, detach_teacher=detach, **options)  # type: ignore[arg-type]
        loss.backward()
        assert student.grad is not None
        gradients.append(student.grad)
        if detach:
            assert teacher.grad is None
        else:
            assert teacher.grad is not None
            assert torch.count_nonzero(teacher.grad) == teacher.grad.numel()
    # The switch changes the teacher's gradient only.
    assert torch.equal(*gradients)
    assert torch.count_nonzero(gradients[0]) > 0


def test_saturated_logits_without_smoothing() -> None:
    # Teacher (1e4, -1e4) against student (-1e4, 1e4): p = (1, e^-2e4), q = (e^-2e4, 1).
    # KL = 2e4; BC = -log(2 e^-1e4) = 1e4 - log 2; dKL/dz_S = q - p = (-1, 1).
    teacher = torch.tensor([1e4, -1e4]).view(1, 2, 1, 1)
    student = (-teacher).requires_grad_()
    loss = distillation(teacher, student, smooth=False)
    loss.backward()
    assert loss.item() == 2e4
    assert student.grad is not None
    assert student.grad.flatten().tolist() == [-1, 1]
    distance = distillation(teacher, student, divergence="bhattacharyya", smooth=False)
    assert distance.item() == pytest.approx(1e4 - math.log(2))


@pytest.mark.parametrize(
    ("dtype", "largest"), [(torch.float32, 3.4028235e38), (torch.float64, 1.797693e308)]
)
def test_tsallis_continues_by_its_tangent_where_it_would_overflow(
    dtype: torch.dtype, largest: float
) -> None:
    # α = 2, p = (1, 0), student logits (0, d): s = log Σp²/q = log(1 + e^d), = d for large d.
    # Exact, e^s - 1, up to T = ⅓ log(largest number); e^T (1 + s - T) - 1 beyond.
    # ds/dz_S = (-1, 1).
    threshold = math.log(largest) / 3
    teacher = torch.tensor([1e4, -1e4], dtype=dtype).view(1, 2, 1, 1)
    for d in (threshold - 2, threshold + 2, 1e4):
        student = torch.tensor([0.0, d], dtype=dtype).view(1, 2, 1, 1).requires_grad_()
        loss = distillation(teacher, student, divergence="tsallis", smooth=False)
        loss.backward()
        slope = math.exp(min(d, threshold))
        expected = slope * (1 + max(d - threshold, 0)) - 1
        assert loss.item() == pytest.approx(expected, rel=1e-4)
        assert student.grad is not None
        assert student.grad.flatten().tolist() == pytest.approx([-slope, slope], rel=1e-4)
        assert torch.linalg.vector_norm(student.grad).isfinite()


def test_errors() -> None:
    logits = torch.zeros(1, 3, 2, 2)
    message = r"must be one of \('kl', 'bhattacharyya', 'tsallis'\), got 'js'"
    with pytest.raises(ValueError, match=message):
        distillation(logits, logits, divergence="js")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        DistillationLoss("js")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"alpha = 1 is the limit .* use divergence='kl'"):
        DistillationLoss("tsallis", alpha=1)
    with pytest.raises(ValueError, match=r"alpha = 1 is the limit"):
        tsallis_divergence(logits, logits, 1.0)
    for alpha in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"alpha must be a positive number, got {alpha}"):
            distillation(logits, logits, divergence="tsallis", alpha=alpha)
    with pytest.raises(ValueError, match=r"same shape, got \(1, 3, 2, 2\) and \(1, 3, 2\)"):
        distillation(logits, logits[..., 0])
    with pytest.raises(ValueError, match=r"teacher_logits must be .* got shape \(1, 1, 2, 2\)"):
        distillation(logits[:, :1], logits[:, :1])
    with pytest.raises(TypeError, match=r"student_logits must be floating point, got torch.int64"):
        distillation(logits, logits.long())


def test_repr_names_the_order_only_where_it_is_used() -> None:
    assert repr(DistillationLoss()) == (
        "DistillationLoss(divergence='kl', smooth=True, detach_teacher=True)"
    )
    assert "alpha=3.0" in repr(DistillationLoss("tsallis", 3.0))
