"""Mutual information of soft cluster assignments: GLMI's global and local terms."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy.special import rel_entr, softmax
from torch import Tensor

from mixseg.losses import (
    MutualInformationLoss,
    joint_distribution,
    mutual_information_of,
    negative_mutual_information,
)

# vectors, one-dimensional, 2D and 3D maps, and the padding
CASES = [
    ((6, 4), 0),
    ((2, 3, 7), 2),
    ((2, 3, 5, 4), 0),
    ((2, 3, 5, 4), 1),
    ((2, 4, 7, 6), 3),
    ((2, 3, 3, 4, 5), 1),
    ((1, 2, 5, 5, 6), 2),
]
every_case = pytest.mark.parametrize(("shape", "padding"), CASES)


def assignments(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two related random assignments in float64."""
    rng = np.random.default_rng(seed)
    common = rng.normal(scale=2, size=shape)
    pair = (softmax(common + rng.normal(size=shape), axis=1) for _ in range(2))
    first, second = (torch.from_numpy(z) for z in pair)
    return first, second


def transcription(
    first: NDArray[np.float64], second: NDArray[np.float64], padding: int
) -> tuple[NDArray[np.float64], float]:
    """Joint distributions and minus their mean information, pair by pair of voxels."""
    batch, clusters, *spatial = first.shape
    span = range(-padding, padding + 1)
    joints, values = [], []
    for shift in itertools.product(*[span for _ in spatial]):
        joint = np.zeros((clusters, clusters))
        for image in range(batch):
            for u in np.ndindex(*spatial):
                v = tuple(a + b for a, b in zip(u, shift, strict=True))
                if all(0 <= x < n for x, n in zip(v, spatial, strict=True)):
                    joint += np.outer(
                        first[(image, slice(None), *u)], second[(image, slice(None), *v)]
                    )
        joint = (joint + joint.T) / 2
        joint /= joint.sum()
        rows, columns = joint.sum(axis=1, keepdims=True), joint.sum(axis=0, keepdims=True)
        joints.append(joint)
        values.append((joint * (np.log(joint) - np.log(rows) - np.log(columns))).sum())
    shape = (*[len(span) for _ in spatial], clusters, clusters)
    return np.stack(joints).reshape(shape), -float(np.mean(values))


@every_case
def test_equals_the_formula_pair_by_pair(shape: tuple[int, ...], padding: int) -> None:
    first, second = assignments(shape)
    joint, expected = transcription(first.numpy(), second.numpy(), padding)
    np.testing.assert_allclose(
        joint_distribution(first, second, padding=padding).numpy(), joint, rtol=1e-11
    )
    found = negative_mutual_information(first, second, padding=padding)
    assert found.item() == pytest.approx(expected, rel=1e-10)
    assert MutualInformationLoss(padding)(first, second).item() == pytest.approx(expected)
    # Information is the KL divergence of P from the product of its marginals.
    product = joint.sum(axis=-1, keepdims=True) * joint.sum(axis=-2, keepdims=True)
    information = rel_entr(joint, product).sum(axis=(-2, -1))
    np.testing.assert_allclose(
        mutual_information_of(torch.from_numpy(joint)).numpy(), information, rtol=1e-9
    )


JOINTS = [
    # P, Σ P log(P / PP')
    ([[0.5, 0.0], [0.0, 0.5]], math.log(2)),
    ([[0.25, 0.25], [0.25, 0.25]], 0.0),
    ([[1.0, 0.0], [0.0, 0.0]], 0.0),
    # Marginals ½: 2 · ⅜ log(3/2) + 2 · ⅛ log(1/2) = ¾ log 3 - log 2.
    ([[0.375, 0.125], [0.125, 0.375]], 0.75 * math.log(3) - math.log(2)),
    ([[0.0, 0.0, 0.0], [0.0, 0.25, 0.0], [0.0, 0.0, 0.75]], 2 * math.log(2) - 0.75 * math.log(3)),
]


@pytest.mark.parametrize(("joint", "expected"), JOINTS)
def test_information_of_hand_made_joints(joint: list[list[float]], expected: float) -> None:
    value = mutual_information_of(torch.tensor(joint, dtype=torch.float64))
    assert value.item() == pytest.approx(expected, abs=1e-15)


def test_vectors_by_hand() -> None:
    # Two images: (1, 0)ᵀ(1, 0) and (0, 1)ᵀ(½, ½), halved: [[½, 0], [¼, ¼]]; with its transpose
    # [[½, ⅛], [⅛, ¼]].
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    second = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    joint = joint_distribution(first, second)
    assert joint.tolist() == [[0.5, 0.125], [0.125, 0.25]]
    expected = (
        0.5 * math.log(0.5 / (0.625 * 0.625))
        + 2 * 0.125 * math.log(0.125 / (0.625 * 0.375))
        + 0.25 * math.log(0.25 / (0.375 * 0.375))
    )
    assert mutual_information_of(joint).item() == pytest.approx(expected, rel=1e-6)


def test_displacements_by_hand() -> None:
    # One row of three pixels, clusters 0 0 1 in both. δ = 0: P = diag(⅔, ⅓). δ = 1 pairs (0, 0),
    # (0, 1); δ = -1 pairs (0, 0), (1, 0): both symmetrize to [[½, ¼], [¼, 0]].
    z = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64).view(1, 2, 3)
    joint = joint_distribution(z, z, padding=1)
    side = [[0.5, 0.25], [0.25, 0.0]]
    torch.testing.assert_close(
        joint, torch.tensor([side, [[2 / 3, 0.0], [0.0, 1 / 3]], side], dtype=torch.float64)
    )
    # I = log 3 - ⅔ log 2 at 0; marginals (¾, ¼) beside it: ½ log 8/9 + 2 · ¼ log 4/3.
    at_zero = math.log(3) - 2 / 3 * math.log(2)
    beside = 0.5 * math.log(8 / 9) + 0.5 * math.log(4 / 3)
    assert negative_mutual_information(z, z, padding=1).item() == pytest.approx(
        -(at_zero + 2 * beside) / 3, rel=1e-12
    )


@pytest.mark.parametrize("clusters", [2, 5, 20])
def test_bounds(clusters: int) -> None:
    # Balanced one-hot assignments that agree: -ln K. One cluster for all, or no relation: 0.
    hard = torch.eye(clusters, dtype=torch.float64)
    assert negative_mutual_information(hard, hard).item() == pytest.approx(-math.log(clusters))
    # Renaming the clusters of one side costs nothing if it is an involution, since P is symmetric.
    assert negative_mutual_information(hard, hard.flip(1)).item() == pytest.approx(
        -math.log(clusters)
    )
    collapsed = hard[:1].expand(clusters, -1)
    assert negative_mutual_information(collapsed, collapsed).item() == 0
    uniform = torch.full_like(hard, 1 / clusters)
    assert negative_mutual_information(uniform, uniform).item() == pytest.approx(0, abs=1e-14)
    first, second = assignments((8, clusters, 3, 3))
    assert -math.log(clusters) < negative_mutual_information(first, second, padding=1) < 0


@every_case
def test_gradcheck(shape: tuple[int, ...], padding: int) -> None:
    first, second = (z.requires_grad_() for z in assignments(shape, seed=1))
    function = partial(negative_mutual_information, padding=padding)
    assert torch.autograd.gradcheck(function, (first, second), fast_mode=True)


@every_case
def test_symmetries(shape: tuple[int, ...], padding: int) -> None:
    first, second = assignments(shape, seed=2)
    expected = negative_mutual_information(first, second, padding=padding)
    # Swapping the sides turns every displacement round.
    swapped = negative_mutual_information(second, first, padding=padding)
    torch.testing.assert_close(swapped, expected)
    # One order of the clusters for both sides, any order of the images.
    order = torch.randperm(shape[1], generator=torch.Generator().manual_seed(3))
    renamed = negative_mutual_information(first[:, order], second[:, order], padding=padding)
    torch.testing.assert_close(renamed, expected)
    reversed_ = negative_mutual_information(first.flip(0), second.flip(0), padding=padding)
    torch.testing.assert_close(reversed_, expected)
    if len(shape) > 2:
        mirrored = negative_mutual_information(first.flip(2), second.flip(2), padding=padding)
        torch.testing.assert_close(mirrored, expected)


@every_case
def test_joint_of_a_batch_is_the_mean_of_its_images(shape: tuple[int, ...], padding: int) -> None:
    # All images have as many pairs, and the joint is linear in them; its information is not.
    first, second = assignments(shape, seed=4)
    single = [
        joint_distribution(a[None], b[None], padding=padding)
        for a, b in zip(first, second, strict=True)
    ]
    whole = joint_distribution(first, second, padding=padding)
    torch.testing.assert_close(whole, torch.stack(single).mean(dim=0))
    torch.testing.assert_close(whole, whole.transpose(-2, -1))
    torch.testing.assert_close(whole.sum(dim=(-2, -1)), torch.ones(whole.shape[:-2]).double())


def test_a_volume_of_one_slice_is_its_slice() -> None:
    first, second = assignments((2, 3, 4, 5))
    flat = joint_distribution(first, second, padding=0)[0, 0]
    deep = joint_distribution(first[..., None], second[..., None], padding=0)[0, 0, 0]
    torch.testing.assert_close(deep, flat)
    # A vector is a map of one voxel, and voxels of a map at displacement 0 are images.
    as_vectors = [z.movedim(1, -1).flatten(0, -2) for z in (first, second)]
    torch.testing.assert_close(joint_distribution(*as_vectors), flat)


def test_voxels_without_an_assignment_drop_out() -> None:
    first, second = assignments((2, 3, 6, 5))
    kept = joint_distribution(first[:, :, :4], second[:, :, :4], padding=1)
    for a, b in ((True, False), (False, True), (True, True)):
        one, other = first.clone(), second.clone()
        for z, cleared in ((one, a), (other, b)):
            if cleared:
                z[:, :, 4:] = 0
        found = joint_distribution(one, other, padding=1)
        if a and b:
            torch.testing.assert_close(found, kept)
        else:  # pairs across the new edge remain where one side only was cleared
            torch.testing.assert_close(found[1], kept[1])


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 4), (2, 3, 4, 4, 4)])
def test_nothing_takes_part_gives_zero_with_zero_gradient(shape: tuple[int, ...]) -> None:
    assert negative_mutual_information(torch.zeros(0, *shape[1:]), torch.zeros(0, *shape[1:])) == 0
    first, second = (torch.zeros(shape, requires_grad=True) for _ in range(2))
    loss = negative_mutual_information(first, second)
    loss.backward()
    assert loss.item() == 0
    for leaf in (first, second):
        assert leaf.grad is not None
        assert torch.count_nonzero(leaf.grad) == 0


def test_hard_assignments_have_finite_gradients() -> None:
    # Softmax underflows to exact zeros in float32; log 0 must reach neither value nor gradient.
    logits = 1e4 * torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(5))
    logits.requires_grad_()
    loss = negative_mutual_information(logits.softmax(1), logits.softmax(1), padding=1)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_sub_heads_are_averaged() -> None:
    pairs = [assignments((4, k, 5, 5), seed=k) for k in (2, 3, 5)]
    single = [negative_mutual_information(*pair, padding=1) for pair in pairs]
    firsts, seconds = [a for a, _ in pairs], tuple(b for _, b in pairs)
    found = MutualInformationLoss(padding=1)(firsts, seconds)
    torch.testing.assert_close(found, torch.stack(single).mean())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("shape", "padding"), [((6, 4), 0), ((2, 4, 6, 6), 1)])
def test_precision_autocast_and_metatensor(
    shape: tuple[int, ...], padding: int, dtype: torch.dtype
) -> None:
    first, second = (z.to(dtype) for z in assignments(shape))
    expected = negative_mutual_information(first.double(), second.double(), padding=padding)
    for a, b in ((first, second), (MetaTensor(first), MetaTensor(second))):
        value = negative_mutual_information(a, b, padding=padding)
        assert type(value) is Tensor
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    leaf = first.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = negative_mutual_information(leaf, second, padding=padding)
    assert inside.item() == pytest.approx(expected.item(), rel=1e-5)
    inside.backward()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()
    assert leaf.grad.any()


@pytest.mark.parametrize(("shape", "padding"), [((2, 8, 5, 6), 2), ((2, 8, 4, 5, 6), 1)])
def test_sub_heads_cut_from_channels_last_maps(shape: tuple[int, ...], padding: int) -> None:
    # What `LocalProjectionHead` returns on a channels-last network: views of one wide map.
    first, second = assignments(shape)
    layout = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
    gradients = []
    for memory_format in (torch.contiguous_format, layout):
        leaf = first.clone(memory_format=memory_format).requires_grad_()
        ones, others = (
            z.contiguous(memory_format=memory_format).chunk(2, dim=1) for z in (leaf, second)
        )
        loss = negative_mutual_information(ones, others, padding=padding)
        gradients.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_no_tensor_value_is_read_on_the_host() -> None:
    for shape, padding in ((6, 4), 0), ((2, 4, 6, 6), 1), ((2, 4, 6, 6, 6), 1):
        z = torch.zeros(shape, device="meta")
        assert negative_mutual_information(z, z, padding=padding).shape == ()


def test_no_copy_is_kept_for_each_displacement() -> None:
    # Autograd keeps both maps and joints of 7 · 7 · 4 · 4, not 49 shifted maps.
    kept: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    first, second = (z.requires_grad_() for z in assignments((2, 4, 32, 32)))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        loss = negative_mutual_information(first, second, padding=3)
    one_map, joints = first.nbytes, 49 * 16 * 8
    assert sum(kept.values()) <= 2 * one_map + 20 * joints
    loss.backward()


@pytest.mark.parametrize(
    ("first", "second", "padding", "message"),
    [
        ((4, 3), (4, 2), 0, r"must have the same shape, got \(4, 3\) and \(4, 2\)"),
        ((4, 1), (4, 1), 0, r"first must be \(B, K\) .* K >= 2 .* got shape \(4, 1\)"),
        ((4,), (4,), 0, r"got shape \(4,\)"),
        ((2, 3, 1, 1, 1, 1), (2, 3, 1, 1, 1, 1), 0, r"at most three spatial axes, got shape"),
        ((4, 3), (4, 3), 1, r"\(0 for vectors\), got 1 for assignments of shape \(4, 3\)"),
        ((4, 3, 2, 5), (4, 3, 2, 5), 2, r"smaller than every spatial side .* got 2 for"),
        ((4, 3, 2, 5), (4, 3, 2, 5), -1, r"padding must be at least 0 .* got -1 for"),
    ],
)
def test_shape_errors(
    first: tuple[int, ...], second: tuple[int, ...], padding: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        negative_mutual_information(torch.zeros(first), torch.zeros(second), padding=padding)


def test_other_errors() -> None:
    z = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="same number of sub-heads, at least one, got 2 and 1"):
        negative_mutual_information([z, z], [z])
    with pytest.raises(ValueError, match="at least one, got 0 and 0"):
        negative_mutual_information([], [])
    with pytest.raises(TypeError, match=r"second must be floating point, got torch.int64"):
        negative_mutual_information(z, z.long())
    with pytest.raises(ValueError, match="padding must be at least 0, got -1"):
        MutualInformationLoss(-1)
    assert repr(MutualInformationLoss(3)) == "MutualInformationLoss(padding=3)"
