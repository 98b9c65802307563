"""What holds for every loss term alike: gradients, symmetries, masks, precision, no host reads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from mixseg.losses import (
    distillation,
    gated_consistency,
    generalized_jensen_shannon,
    partial_cross_entropy,
    pseudo_label_cross_entropy,
    self_paced_weights,
    shannon_entropy,
    softmax_mse,
    transformation_consistency,
)

Term = Callable[[Tensor, Tensor, Tensor], Tensor]


def _partial(logits: Tensor, other: Tensor, label: Tensor, **options: Any) -> Tensor:
    return partial_cross_entropy(logits, label, **options)


def _masked(
    function: Callable[..., Tensor], logits: Tensor, other: Tensor, label: Tensor
) -> Tensor:
    return function(logits, mask=label < logits.shape[1])


def _distillation(logits: Tensor, other: Tensor, label: Tensor, **options: Any) -> Tensor:
    return distillation(other, logits, mask=label < logits.shape[1], **options)


def _softmax_mse(logits: Tensor, other: Tensor, label: Tensor) -> Tensor:
    return softmax_mse(logits, other, mask=label < logits.shape[1])


def _gated(logits: Tensor, other: Tensor, label: Tensor) -> Tensor:
    # Above the largest threshold, ln C < 2, where nothing is labeled.
    return gated_consistency(logits, other, 2.0 * (label == logits.shape[1]))


def _transformed(logits: Tensor, other: Tensor, label: Tensor) -> Tensor:
    mask = label < logits.shape[1]
    return transformation_consistency(logits, other.flip(0), lambda p: p.flip(0), mask=mask)


def _co_training(
    logits: Tensor, other: Tensor, label: Tensor, weighted: bool, **options: Any
) -> Tensor:
    students = [logits, other, 0.5 * other]
    weights = None
    if weighted:
        weights = self_paced_weights([other] * 3, 1.0, unconfident_weight=0.5)
        weights = weights * weights.new_tensor([1.0, 0.5, 0.25]).view(3, *[1] * (weights.ndim - 1))
    mask = label < logits.shape[1]
    return generalized_jensen_shannon(students, weights, mask=mask, **options)


# Every term as a function of (logits, other logits, label); terms without a label use the labeled
# voxels as their mask, so that "unlabeled" means "left out" for all of them.
TERMS: dict[str, Term] = {
    "partial_labeled": _partial,
    "partial_all": partial(_partial, normalization="all"),
    "entropy": partial(_masked, shannon_entropy),
    "pseudo_label": partial(_masked, pseudo_label_cross_entropy),
    "softmax_mse": _softmax_mse,
    "gated_consistency": _gated,
    "transformation_consistency": _transformed,
    "co_training": partial(_co_training, weighted=False),
    "co_training_weighted": partial(_co_training, weighted=True, alpha=0.3),
}
for _divergence in ("kl", "bhattacharyya", "tsallis"):
    for _smooth in (True, False):
        TERMS[f"{_divergence}_{'smooth' if _smooth else 'plain'}"] = partial(
            _distillation, divergence=_divergence, smooth=_smooth
        )

every_term = pytest.mark.parametrize("term", TERMS.values(), ids=TERMS.keys())
SHAPES = [(2, 2, 3, 2), (1, 4, 2, 3), (1, 2, 2, 2, 2), (2, 4, 2, 1, 2)]


def sample(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float64, scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Random logits, other logits, and a label map with unlabeled voxels (B, 1, *spatial)."""
    generator = torch.Generator().manual_seed(7)
    logits, other = scale * torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    label = torch.randint(0, shape[1] + 1, (shape[0], 1, *shape[2:]), generator=generator)
    label.view(-1)[0] = 0
    label.view(-1)[-1] = shape[1]
    return logits.to(dtype), other.to(dtype), label


def gradient(term: Term, logits: Tensor, other: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    value = term(leaf, other, label)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


@every_term
@pytest.mark.parametrize("shape", SHAPES)
def test_gradcheck(term: Term, shape: tuple[int, ...]) -> None:
    logits, other, label = sample(shape)
    leaf = logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: term(z, other, label), (leaf,))


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("divergence", ["kl", "bhattacharyya", "tsallis"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradcheck_into_both_branches(
    shape: tuple[int, ...], divergence: str, smooth: bool
) -> None:
    teacher, student, _ = sample(shape)
    function = partial(
        distillation,
        divergence=divergence,  # type: ignore[arg-type]
        smooth=smooth,
        detach_teacher=False,
    )
    assert torch.autograd.gradcheck(function, (teacher.requires_grad_(), student.requires_grad_()))


@every_term
def test_left_out_voxels_change_neither_value_nor_gradient(term: Term) -> None:
    logits, other, label = sample((2, 3, 5, 5))
    left_out = (label == 3).expand_as(logits)
    value, grad = gradient(term, logits, other, label)
    changed = gradient(
        term, logits.masked_fill(left_out, -50.0), other.masked_fill(left_out, 9.0), label
    )
    assert torch.equal(value, changed[0])
    assert torch.equal(grad, changed[1])
    assert torch.count_nonzero(grad[left_out]) == 0
    assert torch.count_nonzero(grad[~left_out]) == (~left_out).sum()


@every_term
@pytest.mark.parametrize("batch", [0, 2])
def test_nothing_selected_gives_zero_with_zero_gradient(term: Term, batch: int) -> None:
    logits, other, label = sample((2, 3, 4, 4, 2))
    label = torch.full_like(label, 3)
    value, grad = gradient(term, logits[:batch], other[:batch], label[:batch])
    assert value.item() == 0
    assert torch.count_nonzero(grad) == 0


@pytest.mark.parametrize("function", [shannon_entropy, pseudo_label_cross_entropy])
def test_empty_batch_without_mask_is_zero(function: Callable[..., Tensor]) -> None:
    assert function(torch.zeros(0, 2, 4, 4)).item() == 0


@every_term
def test_class_order_does_not_matter(term: Term) -> None:
    logits, other, label = sample((2, 4, 5, 3))
    order = torch.tensor([2, 0, 3, 1])
    # New class i is old class order[i]; unlabeled (4) keeps its number.
    renamed = torch.cat([order.argsort(), torch.tensor([4])])[label]
    torch.testing.assert_close(
        term(logits[:, order], other[:, order], renamed), term(logits, other, label)
    )


@every_term
def test_voxel_order_and_dimensions_do_not_matter(term: Term) -> None:
    logits, other, label = sample((2, 3, 4, 6))
    expected = term(logits, other, label)
    flipped = [x.flip(-1).transpose(-1, -2) for x in (logits, other, label)]
    torch.testing.assert_close(term(*flipped), expected)
    as_volume = [x.reshape(2, -1, 2, 2, 6) for x in (logits, other, label)]
    torch.testing.assert_close(term(*as_volume), expected)


@every_term
def test_shift_of_a_voxels_logits_does_not_matter(term: Term) -> None:
    logits, other, label = sample((2, 3, 4, 4))
    shift = 5 * torch.randn(2, 1, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(
        term(logits + shift, other - 2 * shift, label), term(logits, other, label)
    )


@every_term
def test_batched_equals_one_by_one(request: pytest.FixtureRequest, term: Term) -> None:
    # A mean over selected voxels weights each sample by how many it has. "all" divides by every
    # voxel, of which each sample has as many.
    logits, other, label = sample((3, 3, 5, 4))
    label[1, :, 1:] = 3
    counts = (label < 3).sum(dim=(1, 2, 3)).double()
    if "partial_all" in request.node.callspec.id:
        counts = torch.ones_like(counts)
    single = torch.stack([term(logits[[i]], other[[i]], label[[i]]) for i in range(3)])
    torch.testing.assert_close(term(logits, other, label), (counts * single).sum() / counts.sum())


@every_term
def test_channels_last_and_metatensor(term: Term) -> None:
    logits, other, label = sample((2, 3, 4, 6))
    value, grad = gradient(term, logits, other, label)
    last = [x.contiguous(memory_format=torch.channels_last) for x in (logits, other)]
    for first, second, third in (
        (*last, label),
        (MetaTensor(logits), MetaTensor(other), MetaTensor(label)),
        (logits, other, MetaTensor(label)),
    ):
        leaf = first.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        result = term(leaf, second, third)
        result.backward()
        assert type(result) is Tensor
        torch.testing.assert_close(result.detach(), value)
        torch.testing.assert_close(torch.as_tensor(leaf.grad).as_subclass(Tensor), grad)


@every_term
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_is_computed_in_float32(term: Term, dtype: torch.dtype) -> None:
    # The reference starts from the same rounded logits, so that only the computation can differ.
    logits, other, label = sample((2, 3, 6, 6), dtype=dtype)
    reference, reference_grad = gradient(term, logits.double(), other.double(), label)
    value, grad = gradient(term, logits, other, label)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(reference.item(), rel=2e-6)
    assert grad.dtype == dtype
    # The gradient is rounded once, on its way back into the logits.
    torch.testing.assert_close(
        grad.double(), reference_grad, rtol=torch.finfo(dtype).eps + 1e-5, atol=2e-7
    )
    assert term(logits.double(), other.double(), label).dtype == torch.float64


@every_term
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(term: Term, dtype: torch.dtype) -> None:
    _, other, label = sample((2, 3, 8, 8), dtype=torch.float32)
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(1, 3, 3, padding=1)
    image = torch.randn(2, 1, 8, 8)
    with torch.autocast("cpu", dtype=dtype):
        logits = layer(image)
        value = term(logits, other, label)
    assert logits.dtype == dtype
    assert value.dtype == torch.float32
    reference = term(logits.detach().double(), other.double(), label)
    assert value.item() == pytest.approx(reference.item(), rel=2e-6)
    value.backward()
    for parameter in layer.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert torch.count_nonzero(parameter.grad) == parameter.numel()


@every_term
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_huge_logits_give_finite_values_and_gradients(term: Term, dtype: torch.dtype) -> None:
    logits, other, label = sample((2, 4, 6, 6), dtype=dtype, scale=1e4)
    opposite = (-logits, logits, label)
    for first, second, third in ((logits, other, label), (logits, logits, label), opposite):
        value, grad = gradient(term, first, second, third)
        assert value.isfinite()
        assert value >= -1e-6
        assert grad.isfinite().all()


@every_term
def test_no_tensor_value_is_read_on_the_host(term: Term) -> None:
    # Meta tensors have no values: reading one (.item(), a branch on a comparison) raises.
    logits, other, label = (x.to("meta") for x in sample((2, 3, 4, 4)))
    assert term(logits, other, label).shape == ()
    with pytest.raises(RuntimeError, match="meta"):
        bool(term(logits, other, label) > 0)


@pytest.mark.parametrize(
    "function",
    [shannon_entropy, pseudo_label_cross_entropy, lambda z, mask: distillation(z, z, mask=mask)],
)
def test_mask_errors(function: Callable[..., Tensor]) -> None:
    logits = torch.zeros(2, 3, 4, 4)
    with pytest.raises(TypeError, match=r"mask must be bool, got torch.float32"):
        function(logits, mask=torch.ones(2, 1, 4, 4))
    message = r"mask must have shape \(2, 1, 4, 4\) or \(2, 4, 4\) .* got \(2, 3, 4, 4\)"
    with pytest.raises(ValueError, match=message):
        function(logits, mask=torch.ones(2, 3, 4, 4, dtype=torch.bool))
