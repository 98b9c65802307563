"""Terms of the image's classes against float64 NumPy, and samples of uncertain logits."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from monai.data import MetaTensor
from scipy.special import log_softmax, softmax
from torch import Tensor

from mixseg.losses import (
    ClassConsistencyLoss,
    classes_present,
    image_class_cross_entropy,
    low_confidence_consistency,
    partial_cross_entropy,
    sample_logits,
)

C = 4


def sample(batch: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Class logits (B, C), pixel logits (B, C, 4, 5), label (B, 1, 4, 5) of some of the classes."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, C + 1, (batch, 1, 4, 5))
    label[label == 2] = C  # nobody has class 2
    label[0][label[0] == 3] = 0
    return (
        torch.from_numpy(rng.normal(size=(batch, C))),
        torch.from_numpy(rng.normal(size=(batch, C, 4, 5))),
        torch.from_numpy(label),
    )


def test_classes_present_equal_numpy() -> None:
    _, _, label = sample()
    found = classes_present(label, C).numpy()
    for b in range(3):
        assert set(np.flatnonzero(found[b])) == set(np.unique(label[b].numpy())) - {C}
    assert found[0].tolist() == [True, True, False, False]
    assert torch.equal(classes_present(label[:, 0].float(), C), torch.from_numpy(found))


def test_cross_entropy_equals_numpy() -> None:
    logits, _, label = sample()
    log_p = log_softmax(logits.numpy(), axis=1)
    values = [
        -np.mean([log_p[b, c] for c in np.unique(label[b].numpy()) if c < C]) for b in range(3)
    ]
    assert image_class_cross_entropy(logits, label).item() == pytest.approx(np.mean(values))
    label[1] = C  # an image without a labeled pixel
    found = image_class_cross_entropy(logits, label)
    assert found.item() == pytest.approx((values[0] + values[2]) / 2)


def test_best_prediction_is_equal_shares_of_the_present() -> None:
    # n classes, 1/n each: ln n; one class only: 0.
    label = torch.tensor([[[0, 1, 3]]])
    shares = torch.tensor([[1 / 3, 1 / 3, 1e-300, 1 / 3]], dtype=torch.float64).log()
    assert image_class_cross_entropy(shares, label).item() == pytest.approx(math.log(3))
    leaf = shares.clone().requires_grad_()
    image_class_cross_entropy(leaf, label).backward()
    assert leaf.grad is not None
    assert leaf.grad.abs().max() < 1e-15
    sure = torch.tensor([[0.0, -800.0, -800.0, -800.0]])
    assert image_class_cross_entropy(sure, torch.zeros(1, 1, 2, 2)).item() == 0


def test_unlabeled_pixels_change_nothing() -> None:
    logits, _, label = sample()
    part = label.clone()
    # Fewer pixels, the same classes: one of each.
    for b in range(3):
        kept = torch.full((20,), C)
        for c in label[b].unique().tolist():
            kept[int((label[b].flatten() == c).nonzero()[0])] = c
        part[b] = kept.view(1, 4, 5)
    found = []
    for y in (label, part):
        leaf = logits.clone().requires_grad_()
        value = image_class_cross_entropy(leaf, y)
        found.append((value, *torch.autograd.grad(value, leaf)))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_nothing_labeled_gives_zero_with_zero_gradient() -> None:
    leaf = torch.randn(2, C, requires_grad=True)
    value = image_class_cross_entropy(leaf, torch.full((2, 1, 3, 3), C))
    value.backward()
    assert value.item() == 0
    assert leaf.grad is not None
    assert not leaf.grad.any()


def consistency(class_logits: np.ndarray, logits: np.ndarray, beta: float) -> tuple[float, int]:
    """Eq. 9 pair by pair, and how many there are."""
    p_c, p_s = softmax(class_logits, axis=1), softmax(logits, axis=1)
    total, count = 0.0, 0
    for b, c in np.ndindex(*p_c.shape):
        if p_c[b, c] < beta:
            total += float(np.mean([p_c[b, c] * p for p in p_s[b, c].flat]))
            count += 1
    return total / count, count


@pytest.mark.parametrize("threshold", [None, 0.15, 0.3, 1.0])
def test_consistency_equals_the_formula(threshold: float | None) -> None:
    class_logits, logits, _ = sample()
    expected, count = consistency(class_logits.numpy(), logits.numpy(), threshold or 1 / C)
    assert 0 < count < 12 or threshold == 1
    found = low_confidence_consistency(class_logits, logits, threshold=threshold)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    assert ClassConsistencyLoss(threshold)(class_logits, logits).item() == found.item()
    volume = logits.reshape(3, C, 2, 2, 5)
    torch.testing.assert_close(
        low_confidence_consistency(class_logits, volume, threshold=threshold), found
    )


def test_consistency_by_hand() -> None:
    # C = 3, β = 1/3: classes 1 and 2; pixels (½, ½, 0) and (0, ½, ½): means ¼, ½, ¼.
    p_c = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64)
    p_s = torch.tensor([[[0.5, 0], [0.5, 0.5], [0, 0.5]]], dtype=torch.float64)
    found = low_confidence_consistency(p_c.log(), p_s.log())
    assert found.item() == pytest.approx((0.2 * 0.5 + 0.1 * 0.25) / 2)


def test_none_selected_is_zero_with_zero_gradient() -> None:
    # Equal probabilities are not below 1/C, which float32 rounds as they are.
    leaves = [torch.zeros(2, 3, requires_grad=True), torch.randn(2, 3, 4, 4, requires_grad=True)]
    value = low_confidence_consistency(*leaves)
    value.backward()
    assert value.item() == 0
    assert all(leaf.grad is not None and not leaf.grad.any() for leaf in leaves)


def test_batch_weights_images_by_their_improbable_classes() -> None:
    class_logits, logits, _ = sample()
    counts = (class_logits.softmax(1) < 1 / C).sum(1)
    assert len(set(counts.tolist())) > 1
    single = torch.stack(
        [low_confidence_consistency(class_logits[[i]], logits[[i]]) for i in range(3)]
    )
    expected = (counts * single).sum() / counts.sum()
    torch.testing.assert_close(low_confidence_consistency(class_logits, logits), expected)


def test_gradchecks() -> None:
    class_logits, logits, label = sample(2)
    class_leaf, leaf = class_logits.requires_grad_(), logits[..., :2, :2].clone().requires_grad_()
    check = torch.autograd.gradcheck
    assert check(lambda z: image_class_cross_entropy(z, label), class_leaf)
    assert check(low_confidence_consistency, (class_leaf, leaf))
    assert check(lambda z, y: low_confidence_consistency(z, y, threshold=0.3), (class_leaf, leaf))
    log_variance = torch.randn_like(logits[..., :2, :2]).requires_grad_()
    for samples in (1, 3):

        def drawn(m: Tensor, s: Tensor, samples: int = samples) -> Tensor:
            torch.manual_seed(3)
            return partial_cross_entropy(sample_logits(m, s, samples=samples), label[..., :2, :2])

        assert check(drawn, (leaf, log_variance))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    class_logits, logits, label = sample()
    halves = class_logits.to(dtype), logits.to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        values = [
            image_class_cross_entropy(halves[0], label),
            low_confidence_consistency(*halves),
        ]
        drawn = sample_logits(halves[1], halves[1])
    expected = [
        image_class_cross_entropy(halves[0].double(), label),
        low_confidence_consistency(*(x.double() for x in halves)),
    ]
    assert drawn.dtype == torch.float32
    for value, wanted in zip(values, expected, strict=True):
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_huge_logits_metatensors_and_meta_tensors() -> None:
    class_logits, logits, label = sample()
    for scale in (1e4, -1e4):
        leaves = [(scale * x).requires_grad_() for x in (class_logits, logits)]
        for value in (
            image_class_cross_entropy(leaves[0], label),
            low_confidence_consistency(*leaves),
        ):
            assert value.isfinite()
            grads = torch.autograd.grad(value, leaves, allow_unused=True)
            assert all(g is None or g.isfinite().all() for g in grads)
    for wrapped, plain in (
        (
            image_class_cross_entropy(class_logits, MetaTensor(label)),
            image_class_cross_entropy(class_logits, label),
        ),
        (
            low_confidence_consistency(class_logits, MetaTensor(logits)),
            low_confidence_consistency(class_logits, logits),
        ),
    ):
        assert type(wrapped) is Tensor
        assert torch.equal(wrapped, plain)
    away = [x.to("meta") for x in (class_logits, logits, label)]
    assert image_class_cross_entropy(away[0], away[2]).shape == ()
    assert low_confidence_consistency(away[0], away[1]).shape == ()


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5), (1, 2, 3, 2, 2)])
def test_samples_equal_the_formula(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    mean, log_variance = rng.normal(size=(2, *shape))
    tensors = torch.from_numpy(mean), torch.from_numpy(log_variance)
    torch.manual_seed(5)
    noise = [torch.randn(shape, dtype=torch.float64).numpy() for _ in range(3)]
    z = [mean + np.sqrt(np.exp(log_variance)) * e for e in noise]
    torch.manual_seed(5)
    np.testing.assert_allclose(sample_logits(*tensors).numpy(), z[0], rtol=1e-12)
    torch.manual_seed(5)
    found = sample_logits(*tensors, samples=3).numpy()
    expected = np.log(np.mean([softmax(one, axis=1) for one in z], axis=0))
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-12)


def test_samples_are_normal() -> None:
    torch.manual_seed(0)
    mean = torch.full((1, 2, 100, 100), 3.0)
    z = sample_logits(mean, torch.full_like(mean, math.log(4.0)))
    result = scipy.stats.kstest(z.flatten().numpy(), "norm", args=(3.0, 2.0))
    assert result.pvalue > 0.01


def test_what_one_and_several_samples_ask_of_the_variance() -> None:
    """One: never cheaper than the mean (Jensen). Several: noise excuses what is wrong."""
    torch.manual_seed(0)
    pixels = 20_000
    mean = torch.tensor([2.0, 0.0]).view(1, 2, 1).expand(1, 2, pixels).double()
    wrong = torch.ones(1, 1, pixels)
    noisy = torch.full_like(mean, 2 * math.log(3.0))
    plain = partial_cross_entropy(mean, wrong).item()
    one = partial_cross_entropy(sample_logits(mean, noisy), wrong).item()
    many = partial_cross_entropy(sample_logits(mean, noisy, samples=50), wrong).item()
    assert plain == pytest.approx(math.log(1 + math.exp(2)))
    # z_0 - z_1 is N(2, 18): E ln(1 + e^d), and about -ln E sigmoid(-d).
    d = np.linspace(-40, 44, 200_001)
    density = scipy.stats.norm.pdf(d, 2, math.sqrt(18))
    step = d[1] - d[0]
    assert one == pytest.approx((np.logaddexp(0, d) * density).sum() * step, rel=0.03)
    limit = -math.log((density / (1 + np.exp(d))).sum() * step)
    assert limit < many < limit + 0.05
    assert many < plain < one


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: image_class_cross_entropy(torch.zeros(2, 3, 1), torch.zeros(2, 1, 4)),
            "class_logits must be (B, C), got shape (2, 3, 1)",
        ),
        (
            lambda: image_class_cross_entropy(torch.zeros(2, 3), torch.zeros(1, 1, 4)),
            "label must have the batch size of class_logits, got 1 and 2",
        ),
        (
            lambda: low_confidence_consistency(torch.zeros(2, 4), torch.zeros(2, 3, 4)),
            "class_logits must have shape (2, 3) to match logits of shape (2, 3, 4), got (2, 4)",
        ),
        (
            lambda: low_confidence_consistency(
                torch.zeros(2, 3), torch.zeros(2, 3, 4), threshold=0.0
            ),
            "threshold must lie in (0, 1], got 0.0",
        ),
        (lambda: ClassConsistencyLoss(1.5), "threshold must lie in (0, 1], got 1.5"),
        (
            lambda: sample_logits(torch.zeros(2, 3), torch.zeros(2, 4)),
            "mean and log_variance must have the same shape, got (2, 3) and (2, 4)",
        ),
        (
            lambda: sample_logits(torch.zeros(2, 3), torch.zeros(2, 3), samples=0),
            "samples must be at least 1, got 0",
        ),
    ],
)
def test_errors(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_repr() -> None:
    assert repr(ClassConsistencyLoss(0.1)) == "ClassConsistencyLoss(threshold=0.1)"
