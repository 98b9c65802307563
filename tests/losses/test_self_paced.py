"""Self-paced weights of students: SSCO."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.special import rel_entr, softmax
from torch import Tensor

from mixseg.losses import generalized_jensen_shannon, self_paced_weights


def pixel(*probabilities: float) -> Tensor:
    """Logits (1, C, 1, 1) with these probabilities."""
    return torch.tensor(probabilities, dtype=torch.float64).log().view(1, -1, 1, 1)


TABLE = [
    # students, gamma, weights
    # Mean (0.1, 0.9) is confident: KL(y ‖ p) = -log p_1.
    (
        [(0.05, 0.95), (0.15, 0.85)],
        2.0,
        [1 + math.log(0.95) / 2, 1 + math.log(0.85) / 2],
    ),
    # At γ = 0.1 the second student, -log 0.85 = 0.163, is too hard: the floor.
    ([(0.05, 0.95), (0.15, 0.85)], 0.1, [1 + math.log(0.95) / 0.1, 1e-5]),
    # Three students and classes, mean of class 0 0.85.
    (
        [(0.9, 0.05, 0.05), (0.95, 0.05, 1e-12), (0.7, 0.2, 0.1)],
        0.5,
        [1 + math.log(p) / 0.5 for p in (0.9, 0.95, 0.7)],
    ),
    # Mean 0.8 of class 1 at most: no target.
    ([(0.2, 0.8), (0.25, 0.75)], 8.0, [0.0, 0.0]),
    ([(0.01, 0.99), (0.9, 0.1)], 8.0, [0.0, 0.0]),
]


@pytest.mark.parametrize(("students", "gamma", "expected"), TABLE)
def test_hand_derived_values(
    students: list[tuple[float, ...]], gamma: float, expected: list[float]
) -> None:
    logits = [pixel(*p) for p in students]
    weights = self_paced_weights(logits, gamma)
    assert weights.shape == (len(students), 1, 1, 1)
    assert weights.flatten().tolist() == pytest.approx(expected, rel=1e-9)
    if expected[0] == 0:
        authors = self_paced_weights(logits, gamma, unconfident_weight=1.0)
        assert authors.flatten().tolist() == [1.0] * len(students)


@pytest.mark.parametrize("students", [2, 3, 5])
@pytest.mark.parametrize("shape", [(2, 2, 5, 4), (2, 4, 3, 5, 4)])
def test_equals_the_formula_with_the_authors_empty_target(
    shape: tuple[int, ...], students: int
) -> None:
    # Binarise the mean, sum y log(y / p) with 0 log 0 = 0: an empty target gives KL 0, weight 1.
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(scale=2, size=shape) + rng.normal(size=(students, *shape))
    p = softmax(logits, axis=2)
    target = (p.mean(axis=0) > 0.8).astype(np.float64)
    divergence = np.stack([rel_entr(target, student).sum(axis=1) for student in p])
    confident = target.sum(axis=1) == 1
    assert 0.1 < confident.mean() < 0.9
    for gamma in (0.2, 1.0, 8.0):
        expected = np.maximum(1 - divergence / gamma, 1e-5)
        options = {"gamma": gamma, "threshold": 0.8}
        tensors = list(torch.from_numpy(logits))
        authors = self_paced_weights(tensors, unconfident_weight=1.0, **options)
        np.testing.assert_allclose(authors.numpy(), expected, rtol=1e-10)
        found = self_paced_weights(tensors, **options).numpy()
        np.testing.assert_allclose(found, np.where(confident, expected, 0), rtol=1e-10)


def test_harder_students_enter_as_gamma_grows() -> None:
    generator = torch.Generator().manual_seed(1)
    common = 4 * torch.randn(1, 3, 8, 8, generator=generator, dtype=torch.float64)
    noise = torch.randn(3, 1, 3, 8, 8, generator=generator, dtype=torch.float64)
    logits = list(common + noise)
    previous = torch.zeros(3, 1, 8, 8, dtype=torch.float64)
    admitted = []
    for gamma in (0.01, 0.1, 0.5, 2.0, 8.0):
        weights = self_paced_weights(logits, gamma)
        assert (weights >= previous).all()
        assert weights.max() <= 1
        previous = weights
        admitted.append(int((weights > 1e-5).sum()))
    assert admitted == sorted(admitted)
    assert admitted[0] < admitted[-1]


def test_orders_of_students_classes_and_images_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = 3 * torch.randn(1, 2, 4, 5, 5, generator=generator, dtype=torch.float64)
    logits = logits + torch.randn(3, 2, 4, 5, 5, generator=generator, dtype=torch.float64)
    weights = self_paced_weights(list(logits), 1.0)
    assert torch.count_nonzero(weights) > 0
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(self_paced_weights(list(logits[order]), 1.0), weights[order])
    renamed = logits[:, :, [3, 1, 0, 2]]
    torch.testing.assert_close(self_paced_weights(list(renamed), 1.0), weights)
    single = [self_paced_weights(list(logits[:, [i]]), 1.0) for i in range(2)]
    torch.testing.assert_close(torch.cat(single, dim=1), weights)


def test_no_gradient_and_precision() -> None:
    leaves = [torch.randn(1, 3, 4, 4, requires_grad=True) for _ in range(2)]
    weights = self_paced_weights(leaves, 1.0, unconfident_weight=1.0)
    assert not weights.requires_grad
    assert weights.dtype == torch.float32
    for dtype in (torch.bfloat16, torch.float16):
        half = [leaf.detach().to(dtype) for leaf in leaves]
        assert self_paced_weights(half, 1.0).dtype == torch.float32
    assert type(self_paced_weights([MetaTensor(z.detach()) for z in leaves], 1.0)) is Tensor
    huge = torch.tensor([1e4, -1e4]).view(1, 2, 1, 1)
    assert self_paced_weights([huge] * 9 + [-huge], 8.0).flatten().tolist() == [1.0] * 9 + [
        pytest.approx(1e-5)
    ]
    meta = [torch.zeros(1, 3, 4, 4, device="meta")] * 2
    assert self_paced_weights(meta, 1.0).shape == (2, 1, 4, 4)


def test_the_term_leaves_unsure_voxels_out_unless_told_otherwise() -> None:
    # Left: sure and alike, p = (0.1, 0.9), weight w = 1 + log 0.9: H (1 - w) of each term's mean
    # over two pixels. Right: opposite, mean ½: nothing by default, the Jensen-Shannon divergence
    # log 2 - H(0.1, 0.9) by the authors' reading.
    first = torch.cat([pixel(0.1, 0.9), pixel(0.1, 0.9)], dim=3)
    second = torch.cat([pixel(0.1, 0.9), pixel(0.9, 0.1)], dim=3)
    entropy = -0.1 * math.log(0.1) - 0.9 * math.log(0.9)
    left = entropy * -math.log(0.9)
    for weight, right in ((0.0, 0.0), (1.0, math.log(2) - entropy)):
        weights = self_paced_weights([first, second], 1.0, unconfident_weight=weight)
        value = generalized_jensen_shannon([first, second], weights)
        assert value.item() == pytest.approx((left + right) / 2, rel=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": 0.0}, "gamma must be positive, got 0.0"),
        ({"gamma": math.nan}, "gamma must be positive, got nan"),
        ({"gamma": 1.0, "threshold": 0.4}, r"threshold must lie in \[0.5, 1\), got 0.4"),
        ({"gamma": 1.0, "threshold": 1.0}, r"threshold must lie in \[0.5, 1\), got 1.0"),
        ({"gamma": 1.0, "floor": -1e-5}, r"floor must lie in \[0, 1\], got -1e-05"),
        ({"gamma": 1.0, "unconfident_weight": 2.0}, r"unconfident_weight must lie in \[0, 1\]"),
    ],
)
def test_option_errors(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        self_paced_weights([torch.zeros(1, 2, 3, 3)] * 2, **options)


def test_shape_errors() -> None:
    with pytest.raises(ValueError, match="logits of two students or more are needed, got 1"):
        self_paced_weights([torch.zeros(1, 2, 3, 3)], 1.0)
