"""Partial cross-entropy: ConfKD eqs. 1 and 2."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mixseg.losses import PartialCrossEntropyLoss, partial_cross_entropy

# Softmax of log-probabilities gives these probabilities back, so that the sums below can be done on
# paper. Two classes: p = (1/4, 3/4) at each of four pixels, -log p = (log 4, log 4/3).
TWO_CLASS = (
    torch.tensor([0.25, 0.75], dtype=torch.float64).log().view(1, 2, 1, 1).expand(1, 2, 2, 2)
)
# Three classes: p = (1/2, 1/4, 1/4) at each of four pixels, -log p = (log 2, log 4, log 4).
THREE_CLASS = (
    torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).log().view(1, 3, 1, 1).expand(1, 3, 2, 2)
)

TABLE = [
    # logits, label (1, 2, 2), class weights, normalization, expected
    # All labeled: one pixel of class 0, three of class 1: (log 4 + 3 log 4/3) / 4 both ways.
    (TWO_CLASS, [[0, 1], [1, 1]], None, "labeled", (math.log(4) + 3 * math.log(4 / 3)) / 4),
    (TWO_CLASS, [[0, 1], [1, 1]], None, "all", (math.log(4) + 3 * math.log(4 / 3)) / 4),
    # Two labeled (2 = unlabeled): log 4 + log 4/3 = log 16/3 over two pixels, or over all four.
    (TWO_CLASS, [[0, 1], [2, 2]], None, "labeled", math.log(16 / 3) / 2),
    (TWO_CLASS, [[0, 1], [2, 2]], None, "all", math.log(16 / 3) / 4),
    # One labeled.
    (TWO_CLASS, [[2, 2], [2, 1]], None, "labeled", math.log(4 / 3)),
    (TWO_CLASS, [[2, 2], [2, 1]], None, "all", math.log(4 / 3) / 4),
    # Three classes, one pixel of each and one unlabeled (3): log 2 + 2 log 4 = 5 log 2.
    (THREE_CLASS, [[0, 1], [2, 3]], None, "labeled", 5 / 3 * math.log(2)),
    (THREE_CLASS, [[0, 1], [2, 3]], None, "all", 5 / 4 * math.log(2)),
    # Weights 1, 3, 0.5 scale the summands only: 1 log 2 + 3 · 2 log 2 + 0.5 · 2 log 2 = 8 log 2.
    (THREE_CLASS, [[0, 1], [2, 3]], [1.0, 3.0, 0.5], "labeled", 8 / 3 * math.log(2)),
    (THREE_CLASS, [[0, 1], [2, 3]], [1.0, 3.0, 0.5], "all", 8 / 4 * math.log(2)),
    # None labeled.
    (THREE_CLASS, [[3, 3], [3, 3]], None, "labeled", 0.0),
    (THREE_CLASS, [[3, 3], [3, 3]], None, "all", 0.0),
]


@pytest.mark.parametrize(("logits", "label", "weight", "normalization", "expected"), TABLE)
def test_hand_derived_values(
    logits: Tensor,
    label: list[list[int]],
    weight: list[float] | None,
    normalization: str,
    expected: float,
) -> None:
    loss = PartialCrossEntropyLoss(normalization, class_weight=weight)  # type: ignore[arg-type]
    value = loss(logits, torch.tensor([label], dtype=torch.uint8))
    assert value.item() == pytest.approx(expected, rel=1e-7, abs=0)


def transcription(
    logits: NDArray[np.float64], label: NDArray[np.int64], normalization: str
) -> float:
    """Eq. 2 in one-hot form, term by term, with the divisor of each normalization."""
    num_classes = logits.shape[1]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    # y is the zero vector where nothing is labeled.
    y = np.stack([label == c for c in range(num_classes)], axis=1).astype(np.float64)
    divisor = (label < num_classes).sum() if normalization == "labeled" else label.size
    return float(-(y * np.log(p)).sum() / divisor)


@pytest.mark.parametrize("normalization", ["labeled", "all"])
@pytest.mark.parametrize("shape", [(3, 2, 5, 4), (2, 4, 3, 5, 4), (2, 4, 3, 5)])
def test_equals_the_formula_in_numpy(shape: tuple[int, ...], normalization: str) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=3, size=shape)
    label = rng.integers(0, shape[1] + 1, size=(shape[0], *shape[2:]))
    value = partial_cross_entropy(
        torch.from_numpy(logits),
        torch.from_numpy(label),
        normalization=normalization,  # type: ignore[arg-type]
    )
    assert value.item() == pytest.approx(transcription(logits, label, normalization), rel=1e-12)


@pytest.mark.parametrize("normalization", ["labeled", "all"])
def test_gradient_in_closed_form(normalization: str) -> None:
    # d(-log p_y)/dz = p - onehot(y) at a labeled voxel, 0 elsewhere, over the divisor.
    rng = np.random.default_rng(1)
    logits = torch.from_numpy(rng.normal(size=(2, 3, 4, 4))).requires_grad_()
    label = torch.from_numpy(rng.integers(0, 4, size=(2, 4, 4)))
    loss = partial_cross_entropy(logits, label, normalization=normalization)  # type: ignore[arg-type]
    (grad,) = torch.autograd.grad(loss, logits)
    p = np.exp(logits.detach().numpy())
    p /= p.sum(axis=1, keepdims=True)
    one_hot = np.stack([(label == c).numpy() for c in range(3)], axis=1)
    labeled = (label < 3).numpy()[:, None]
    divisor = labeled.sum() if normalization == "labeled" else label.numel()
    np.testing.assert_allclose(grad.numpy(), (p - one_hot) * labeled / divisor, atol=1e-15)


@pytest.mark.parametrize("normalization", ["labeled", "all"])
def test_unlabeled_voxels_change_neither_value_nor_gradient(normalization: str) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 3, 6, 6, generator=generator)
    label = torch.randint(0, 4, (2, 1, 6, 6), generator=generator)
    unlabeled = (label == 3).expand_as(logits)
    other = torch.where(unlabeled, 100 * torch.randn(logits.shape, generator=generator), logits)
    results = []
    for values in (logits, other):
        leaf = values.clone().requires_grad_()
        loss = partial_cross_entropy(leaf, label, normalization=normalization)  # type: ignore[arg-type]
        results.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])
    assert torch.count_nonzero(results[0][1][unlabeled]) == 0
    assert torch.count_nonzero(results[0][1][~unlabeled]) == (~unlabeled).sum()


@pytest.mark.parametrize("normalization", ["labeled", "all"])
@pytest.mark.parametrize("weight", [None, [1.0, 2.0, 3.0]])
def test_nothing_labeled_gives_zero_with_zero_gradient(
    normalization: str, weight: list[float] | None
) -> None:
    logits = torch.randn(2, 3, 4, 4, 4, requires_grad=True)
    loss = PartialCrossEntropyLoss(normalization, weight)(  # type: ignore[arg-type]
        logits, torch.full((2, 1, 4, 4, 4), 3, dtype=torch.uint8)
    )
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.count_nonzero(logits.grad) == 0


def test_batch_is_the_labeled_voxel_weighted_mean_of_its_samples() -> None:
    # "labeled": L = Σ n_i L_i / Σ n_i with n_i labeled voxels; the plain mean of L_i differs here.
    # "all": every sample has as many voxels, hence the plain mean.
    rng = np.random.default_rng(3)
    logits = torch.from_numpy(rng.normal(size=(3, 2, 5, 5)))
    label = torch.from_numpy(rng.integers(0, 3, size=(3, 1, 5, 5)))
    label[1, :, 1:] = 2
    counts = (label != 2).sum(dim=(1, 2, 3)).double()
    single = torch.stack(
        [partial_cross_entropy(logits[i : i + 1], label[i : i + 1]) for i in range(3)]
    )
    batch = partial_cross_entropy(logits, label)
    torch.testing.assert_close(batch, (counts * single).sum() / counts.sum())
    assert abs(batch - single.mean()) > 1e-3
    single_all = [
        partial_cross_entropy(logits[i : i + 1], label[i : i + 1], normalization="all")
        for i in range(3)
    ]
    torch.testing.assert_close(
        partial_cross_entropy(logits, label, normalization="all"), torch.stack(single_all).mean()
    )


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.float32, torch.float64]
)
def test_label_dtype_and_channel_axis_do_not_matter(dtype: torch.dtype) -> None:
    label = torch.tensor([[[0, 1], [2, 3]]])
    expected = 5 / 3 * math.log(2)  # as in TABLE
    assert partial_cross_entropy(THREE_CLASS, label.to(dtype)).item() == pytest.approx(expected)
    assert partial_cross_entropy(THREE_CLASS, label[None].to(dtype)).item() == pytest.approx(
        expected
    )


def test_saturated_logits() -> None:
    # z = (1e4, -1e4): -log p = (0, 2e4). One pixel right, one wrong: mean 1e4, gradient ±1/2 in the
    # wrong one and 0 in the right one.
    logits = torch.tensor([[1e4, 1e4], [-1e4, -1e4]]).view(1, 2, 1, 2).requires_grad_()
    loss = partial_cross_entropy(logits, torch.tensor([[[0, 1]]]))
    loss.backward()
    assert loss.item() == 1e4
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == [0, 0.5, 0, -0.5]


@pytest.mark.parametrize(
    ("logits_shape", "label_shape", "message"),
    [
        (
            (2, 3, 4, 4),
            (2, 1, 4, 5),
            r"label must have shape \(2, 1, 4, 4\) or \(2, 4, 4\) to match "
            r"logits of shape \(2, 3, 4, 4\), got \(2, 1, 4, 5\)",
        ),
        ((2, 3, 4, 4), (1, 4, 4), r"got \(1, 4, 4\)"),
        ((2, 3, 4, 4), (2, 3, 4, 4), r"got \(2, 3, 4, 4\)"),
        (
            (2, 1, 4, 4),
            (2, 1, 4, 4),
            r"logits must be \(B, C, \*spatial\) with C >= 2 .* got shape \(2, 1, 4, 4\)",
        ),
        ((2, 3), (2,), r"at least one spatial axis, got shape \(2, 3\)"),
    ],
)
def test_shape_errors(
    logits_shape: tuple[int, ...], label_shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        partial_cross_entropy(torch.zeros(logits_shape), torch.zeros(label_shape))


def test_option_errors() -> None:
    logits, label = torch.zeros(1, 3, 2, 2), torch.zeros(1, 1, 2, 2)
    message = r"normalization must be one of \('labeled', 'all'\), got 'mean'"
    with pytest.raises(ValueError, match=message):
        partial_cross_entropy(logits, label, normalization="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        PartialCrossEntropyLoss("mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"class_weight must have shape \(3,\) .* got \(2,\)"):
        partial_cross_entropy(logits, label, class_weight=torch.ones(2))
    with pytest.raises(ValueError, match=r"finite, non-negative number per class, got \[1.0, -1.0"):
        PartialCrossEntropyLoss(class_weight=[1, -1])
    with pytest.raises(ValueError, match=r"finite, non-negative number per class, got \[\[1.0\]\]"):
        PartialCrossEntropyLoss(class_weight=torch.ones(1, 1))
    with pytest.raises(TypeError, match=r"logits must be floating point, got torch.int64"):
        partial_cross_entropy(logits.long(), label)


def test_module_keeps_class_weight_out_of_the_checkpoint() -> None:
    module = PartialCrossEntropyLoss("all", [1, 2])
    assert list(module.state_dict()) == []
    weight = module.double().class_weight
    assert weight is not None
    assert weight.dtype == torch.float64
    assert repr(module) == ("PartialCrossEntropyLoss(normalization='all', class_weight=[1.0, 2.0])")
