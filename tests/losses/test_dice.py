"""Soft Dice on labeled voxels, and with the cross-entropy: UA-MT's mean, and the sum."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from mixseg.losses import (
    DiceCrossEntropyLoss,
    PartialCrossEntropyDiceLoss,
    PartialDiceLoss,
    dice_cross_entropy,
    image_dice_cross_entropy,
    partial_cross_entropy,
    partial_cross_entropy_dice,
    partial_dice,
)

Term = Callable[[Tensor, Tensor], Tensor]


def image_mean(logits: Tensor, label: Tensor) -> Tensor:
    return image_dice_cross_entropy(logits, label).sum() / max(len(logits), 1)


EVERY = [partial_dice, partial_cross_entropy_dice, dice_cross_entropy, image_mean]

EPS = 1e-5
# p = (¼, ¾) at each of four pixels.
LOGITS = torch.tensor([0.25, 0.75], dtype=torch.float64).log().view(1, 2, 1, 1).expand(1, 2, 2, 2)
TABLE = [
    # label, include_background, expected
    # Foreground: Σpy = 3·¾ = 9/4, Σp² = 4·9/16 = 9/4, Σy² = 3: 2·9/4 over 21/4.
    ([[0, 1], [1, 1]], False, 1 - (4.5 + EPS) / (5.25 + EPS)),
    # Two pixels labeled (2 = unlabeled): Σpy = ¾, Σp² = 9/8, Σy² = 1.
    ([[0, 1], [2, 2]], False, 1 - (1.5 + EPS) / (2.125 + EPS)),
    # Background of the same two: Σpy = ¼, Σp² = 1/8, Σy² = 1; the mean of both classes.
    (
        [[0, 1], [2, 2]],
        True,
        1 - ((1.5 + EPS) / (2.125 + EPS) + (0.5 + EPS) / (1.125 + EPS)) / 2,
    ),
    # Foreground predicted at the one labeled pixel, which is background: Σp² = 9/16.
    ([[0, 2], [2, 2]], False, 1 - EPS / (0.5625 + EPS)),
    ([[2, 2], [2, 2]], False, 0.0),
    ([[2, 2], [2, 2]], True, 0.0),
]


@pytest.mark.parametrize(("label", "include_background", "expected"), TABLE)
def test_hand_derived_values(
    label: list[list[int]], include_background: bool, expected: float
) -> None:
    loss = PartialDiceLoss(include_background)
    value = loss(LOGITS, torch.tensor([label], dtype=torch.uint8))
    assert value.item() == pytest.approx(expected, rel=1e-7, abs=1e-15)


def transcription(
    logits: NDArray[np.float64], label: NDArray[np.int64], classes: range
) -> tuple[float, float]:
    """Cross-entropy and the Dice of UA-MT's code, on the labeled voxels cut out one by one."""
    p = np.moveaxis(softmax(logits, axis=1), 1, -1)[label < logits.shape[1]]
    y = np.eye(logits.shape[1])[label[label < logits.shape[1]]]
    dice = [
        1 - (2 * (p[:, c] * y[:, c]).sum() + EPS) / ((p[:, c] ** 2).sum() + y[:, c].sum() + EPS)
        for c in classes
    ]
    return float(-(y * np.log(p)).sum() / len(y)), float(np.mean(dice))


@pytest.mark.parametrize("shape", [(3, 2, 5, 4), (2, 4, 3, 5, 4), (2, 3, 7)])
def test_equals_the_formula_in_numpy(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2, size=shape)
    label = rng.integers(0, shape[1] + 1, size=(shape[0], *shape[2:]))
    tensors = torch.from_numpy(logits), torch.from_numpy(label)
    for background in (False, True):
        cross, dice = transcription(logits, label, range(0 if background else 1, shape[1]))
        value = partial_dice(*tensors, include_background=background)
        # MONAI sums the labels in float32, whatever the logits are.
        assert value.item() == pytest.approx(dice, rel=1e-7)
        both = PartialCrossEntropyDiceLoss(background)(*tensors)
        assert both.item() == pytest.approx((cross + dice) / 2, rel=1e-7)
        assert both.dtype == torch.float64


@pytest.mark.parametrize("function", EVERY)
@pytest.mark.parametrize("shape", [(2, 2, 3, 2), (1, 4, 2, 2, 2)])
def test_gradcheck(function: Term, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    label = torch.randint(0, shape[1] + 1, (shape[0], *shape[2:]), generator=generator)
    assert torch.autograd.gradcheck(lambda z: function(z, label), (logits,))


@pytest.mark.parametrize("function", EVERY)
@pytest.mark.parametrize("classes", [2, 4])
def test_unlabeled_voxels_change_neither_value_nor_gradient(function: Term, classes: int) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, classes, 6, 6, generator=generator)
    label = torch.randint(0, classes + 1, (2, 1, 6, 6), generator=generator)
    unlabeled = (label == classes).expand_as(logits)
    results = []
    for values in (logits, logits.masked_fill(unlabeled, 0).add(unlabeled * 40 * logits)):
        leaf = values.clone().requires_grad_()
        loss = function(leaf, label)
        results.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert torch.count_nonzero(results[0][1][unlabeled]) == 0
    assert torch.count_nonzero(results[0][1][~unlabeled]) == (~unlabeled).sum()


@pytest.mark.parametrize("function", EVERY)
@pytest.mark.parametrize("batch", [0, 2])
def test_nothing_labeled_gives_zero_with_zero_gradient(function: Term, batch: int) -> None:
    logits = torch.randn(batch, 3, 4, 4, 4, requires_grad=True)
    loss = function(logits, torch.full((batch, 1, 4, 4, 4), 3, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.count_nonzero(logits.grad) == 0


def test_perfect_and_opposite_predictions() -> None:
    label = torch.tensor([[[0, 1], [2, 1]]])
    right = 1e4 * torch.nn.functional.one_hot(label, 3).movedim(-1, 1).float()
    assert partial_dice(right, label).item() == pytest.approx(0, abs=1e-7)
    assert partial_cross_entropy_dice(right, label).item() == pytest.approx(0, abs=1e-7)
    # Classes shifted by one: no overlap. Class 1 has Σy² = 2 and Σp² = 1, class 2 the reverse.
    shifted = partial_dice(right.roll(1, dims=1), label)
    assert shifted.item() == pytest.approx(1 - EPS / (3 + EPS), abs=1e-6)


def test_order_of_foreground_classes_images_and_voxels_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 4, 4, 6, generator=generator, dtype=torch.float64)
    label = torch.randint(0, 5, (3, 1, 4, 6), generator=generator)
    expected = partial_dice(logits, label)
    order = torch.tensor([0, 3, 1, 2])
    renamed = torch.cat([order.argsort(), torch.tensor([4])])[label]
    torch.testing.assert_close(partial_dice(logits[:, order], renamed), expected)
    torch.testing.assert_close(partial_dice(logits.flip(0, 2), label.flip(0, 2)), expected)
    as_volume = [x.reshape(3, -1, 2, 2, 6) for x in (logits, label)]
    torch.testing.assert_close(partial_dice(*as_volume), expected)
    # Sums run over the batch: one image holding all voxels has the same value.
    joined = [torch.cat(list(x), dim=1).unsqueeze(0) for x in (logits, label)]
    torch.testing.assert_close(partial_dice(*joined), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_metatensors_and_memory_format(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(2, 3, 6, 6, generator=generator).to(dtype)
    label = torch.randint(0, 4, (2, 1, 6, 6), generator=generator)
    expected = partial_cross_entropy_dice(logits.double(), label).item()
    last = logits.contiguous(memory_format=torch.channels_last)
    for z, y in ((logits, label), (last, label.float()), (MetaTensor(logits), MetaTensor(label))):
        value = partial_cross_entropy_dice(z, y)
        assert type(value) is Tensor
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected, rel=2e-6)
    with torch.autocast("cpu", dtype=dtype):
        assert partial_cross_entropy_dice(logits, label).item() == pytest.approx(expected, rel=2e-6)
    huge = (1e4 * logits.float()).to(dtype).requires_grad_()
    loss = partial_dice(huge, label)
    loss.backward()
    assert loss.isfinite()
    assert huge.grad is not None
    assert huge.grad.isfinite().all()


def test_no_tensor_value_is_read_on_the_host() -> None:
    logits, label = torch.zeros(2, 3, 4, 4, device="meta"), torch.zeros(2, 4, 4, device="meta")
    for function in EVERY:
        assert function(logits, label).shape == ()


def test_half_of_the_sum() -> None:
    # Both halves known: TABLE's second row, and (log 4 + log 4/3) / 2.
    label = torch.tensor([[[0, 1], [2, 2]]])
    cross = math.log(16 / 3) / 2
    dice = 1 - (1.5 + EPS) / (2.125 + EPS)
    assert partial_cross_entropy(LOGITS, label).item() == pytest.approx(cross)
    value = partial_cross_entropy_dice(LOGITS, label).item()
    assert value == pytest.approx((cross + dice) / 2, rel=1e-7)


def sum_transcribed(logits: NDArray[np.float64], label: NDArray[np.int64]) -> float:
    """Cross-entropy + Dice without squares, on the labeled voxels cut out one by one."""
    classes = logits.shape[1]
    p = np.moveaxis(softmax(logits, axis=1), 1, -1)[label < classes]
    y = np.eye(classes)[label[label < classes]]
    dice = [
        1 - (2 * (p[:, c] * y[:, c]).sum() + EPS) / (p[:, c].sum() + y[:, c].sum() + EPS)
        for c in range(1, classes)
        if y[:, c].any()
    ]
    return float(-(y * np.log(p)).sum() / len(y)) + float(np.mean(dice) if dice else 0)


@pytest.mark.parametrize("absent", [(), (2,), (1, 3), (1, 2, 3)])
@pytest.mark.parametrize("shape", [(3, 4, 5, 4), (2, 4, 3, 5, 4)])
def test_sum_equals_the_formula_in_numpy(shape: tuple[int, ...], absent: tuple[int, ...]) -> None:
    """Of four classes, of which some are labeled nowhere."""
    rng = np.random.default_rng(5)
    logits = rng.normal(scale=2, size=shape)
    label = rng.integers(0, 5, size=(shape[0], *shape[2:]))
    label[np.isin(label, absent)] = 4
    tensors = torch.from_numpy(logits), torch.from_numpy(label)
    value = DiceCrossEntropyLoss()(*tensors)
    assert value.dtype == torch.float64
    # MONAI sums the labels in float32, whatever the logits are.
    assert value.item() == pytest.approx(sum_transcribed(logits, label), rel=1e-7)
    by_image = [sum_transcribed(logits[[i]], label[[i]]) for i in range(shape[0])]
    assert image_dice_cross_entropy(*tensors).tolist() == pytest.approx(by_image, rel=1e-7)


def test_sum_by_hand() -> None:
    # Σpy = 9/4, Σp = 3, Σy = 3; the other pixels' probabilities are ¼ and ¾.
    cross = (math.log(4) + 3 * math.log(4 / 3)) / 4
    value = dice_cross_entropy(LOGITS, torch.tensor([[[0, 1], [1, 1]]]))
    assert value.item() == pytest.approx(cross + 1 - (4.5 + EPS) / (6 + EPS), rel=1e-7)


def test_images_without_a_class_do_not_decide() -> None:
    """The Dice is that of all labeled voxels together, however they are spread over images."""
    generator = torch.Generator().manual_seed(6)
    logits = torch.randn(4, 3, 4, 6, generator=generator, dtype=torch.float64)
    label = torch.randint(0, 4, (4, 1, 4, 6), generator=generator)
    label[1:] = torch.where(label[1:] == 2, 0, label[1:])  # class 2 in the first image alone
    joined = [torch.cat(list(x), dim=1).unsqueeze(0) for x in (logits, label)]
    torch.testing.assert_close(dice_cross_entropy(logits, label), dice_cross_entropy(*joined))


@pytest.mark.parametrize("value", [-8.0, 0.0, 8.0])
def test_a_class_without_a_label_costs_cross_entropy_alone(value: float) -> None:
    """Whatever is predicted of class 2; that of UA-MT's Dice is near 1 where it is."""
    logits = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    logits[:, 2] = value
    logits.requires_grad_()
    label = torch.tensor([[[0, 1], [1, 3]]])
    sum_ = dice_cross_entropy(logits, label)
    # Σpy = 2p and Σp = 3p of class 1, p its probability anywhere.
    p = 1 / (2 + math.exp(value))
    dice = 1 - (4 * p + EPS) / (3 * p + 2 + EPS)
    assert sum_.item() == pytest.approx(-math.log(p) + dice, rel=1e-7)
    # Without any labeled foreground the cross-entropy is all that there is, gradient included.
    background = torch.tensor([[[0, 0], [3, 3]]])
    for function in (dice_cross_entropy, partial_cross_entropy):
        found = function(logits, background)
        assert found.item() == pytest.approx(-math.log(p))
    gradients = [
        torch.autograd.grad(function(logits, background), logits)[0]
        for function in (dice_cross_entropy, partial_cross_entropy)
    ]
    assert torch.equal(*gradients)


def test_an_image_counts_as_if_it_were_alone() -> None:
    generator = torch.Generator().manual_seed(8)
    logits = torch.randn(3, 3, 4, 6, generator=generator)
    label = torch.randint(0, 4, (3, 1, 4, 6), generator=generator)
    label[1] = 3  # nothing is labeled
    alone = [dice_cross_entropy(logits[[i]], label[[i]]) for i in range(3)]
    torch.testing.assert_close(image_dice_cross_entropy(logits, label), torch.stack(alone))


def test_a_weight_counts_voxels_of_a_class_more_often() -> None:
    """Whole weights are copies: of each voxel of class 1 two, of class 2 three."""
    generator = torch.Generator().manual_seed(9)
    logits = torch.randn(2, 3, 40, generator=generator, dtype=torch.float64)
    label = torch.randint(0, 4, (2, 1, 40), generator=generator)
    copies = torch.tensor([1, 2, 3, 1])[label[:, 0]]
    sums, counts = [], []
    repeated = [
        [torch.repeat_interleave(x[i], copies[i], dim=-1) for i in range(2)]
        for x in (logits, label)
    ]
    often = dice_cross_entropy(*(torch.cat(x, dim=-1).unsqueeze(0) for x in repeated))
    for z, y in ((logits, label), tuple(torch.cat(x, dim=-1).unsqueeze(0) for x in repeated)):
        sums.append(partial_cross_entropy(z, y).item() * (y < 3).sum().item())
        counts.append((y < 3).sum().item())
    weighted = dice_cross_entropy(logits, label, class_weight=torch.tensor([1.0, 2.0, 3.0]))
    # The cross-entropy is divided by the voxels that are there, not by their copies.
    expected = often.item() - sums[1] / counts[1] + sums[1] / counts[0]
    assert weighted.item() == pytest.approx(expected, rel=1e-9)


def test_weights_of_one_change_nothing() -> None:
    generator = torch.Generator().manual_seed(10)
    logits = torch.randn(2, 3, 4, 6, generator=generator, dtype=torch.float64)
    label = torch.randint(0, 4, (2, 1, 4, 6), generator=generator)
    weighted = dice_cross_entropy(logits, label, class_weight=torch.ones(3))
    torch.testing.assert_close(weighted, dice_cross_entropy(logits, label))


def weighted(logits: Tensor, label: Tensor) -> Tensor:
    return dice_cross_entropy(logits, label, class_weight=torch.tensor([0.5, 3.0, 2.0]))


@pytest.mark.parametrize("function", [dice_cross_entropy, image_mean, weighted])
def test_sum_in_half_precision(function: Term) -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(2, 3, 6, 6, generator=generator).bfloat16()
    label = torch.randint(0, 4, (2, 1, 6, 6), generator=generator)
    expected = function(logits.double(), label).item()
    last = logits.contiguous(memory_format=torch.channels_last)
    for z, y in ((logits, label), (last, label.float()), (MetaTensor(logits), MetaTensor(label))):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = function(z, y)
        assert type(value) is Tensor
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected, rel=2e-6)
    huge = (1e4 * logits.float()).bfloat16().requires_grad_()
    function(huge, label).backward()
    assert huge.grad is not None
    assert huge.grad.isfinite().all()


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"label must have shape .* got \(2, 4, 5\)"):
        partial_dice(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 5))
    with pytest.raises(ValueError, match=r"with C >= 2 .* got shape \(2, 1, 4, 4\)"):
        partial_cross_entropy_dice(torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4))
    with pytest.raises(TypeError, match=r"logits must be floating point, got torch.int64"):
        partial_dice(torch.zeros(2, 3, 4, 4).long(), torch.zeros(2, 4, 4))
    assert repr(PartialDiceLoss(True)) == "PartialDiceLoss(include_background=True)"
