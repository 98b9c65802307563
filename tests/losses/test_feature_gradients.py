"""Gradient maps against SciPy and MONAI, and eq. 4 against a float64 transcription."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from monai.data import MetaTensor
from monai.transforms import SobelGradients
from numpy.typing import NDArray
from torch import Tensor

from mixseg.losses import FeatureGradientLoss, feature_gradient_regularization, gradient_map

Array = NDArray[np.float64]
OPERATORS = ("sobel", "difference")
REDUCTIONS = ("mean", "norm")
PYRAMIDS = {
    "2d": [(2, 3, 8, 12), (2, 4, 4, 6), (2, 5, 2, 3)],
    "dilated": [(1, 2, 6, 6), (1, 3, 3, 3), (1, 3, 3, 3)],
    "3d": [(2, 2, 8, 4, 4), (2, 3, 4, 2, 2), (2, 2, 2, 1, 1)],
}


def pyramid(shapes: Sequence[tuple[int, ...]], seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def scipy_map(e: Array, operator: str, reduction: str) -> Array:
    """(B, *spatial) of e (B, channels, *spatial); 'nearest' repeats the border."""
    axes = range(2, e.ndim)
    squares = np.zeros_like(e)
    for axis in axes:
        if operator == "sobel":
            # SciPy's kernels are not normalized: (-1, 0, 1), and (1, 2, 1) along other axes.
            part = np.stack(
                [
                    [scipy.ndimage.sobel(c, axis=axis - 2, mode="nearest") for c in image]
                    for image in e
                ]
            ) / (2 * 4 ** (len(axes) - 1))
        else:
            kernel = [-0.5, 0, 0.5]
            part = scipy.ndimage.correlate1d(e, kernel, axis=axis, mode="nearest")
        squares += part**2
    if reduction == "mean":
        return np.asarray(np.sqrt(squares).mean(axis=1))
    return np.asarray(np.sqrt(squares.mean(axis=1)))


def block_means(m: Array, size: tuple[int, ...]) -> Array:
    """(B, *size), the mean of equal blocks of (B, *spatial)."""
    for axis, new in enumerate(size, start=1):
        m = m.reshape(*m.shape[:axis], new, m.shape[axis] // new, *m.shape[axis + 1 :])
        m = m.mean(axis=axis + 1)
    return m


def transcribed(
    features: Sequence[Array], frozen: Sequence[Array], levels: str, operator: str, reduction: str
) -> float:
    """Eq. 4, its sums those of ``frozen``."""
    maps = [scipy_map(e, operator, reduction) for e in features]
    fixed = [scipy_map(e, operator, reduction) for e in frozen]
    terms = []
    for j, own in enumerate(maps):
        if levels == "below" and j == 0:
            continue
        last = j + 1 if levels == "through" else j
        target = sum(block_means(m, own.shape[1:]) for m in fixed[:last])
        terms.append(float(((target - own) ** 2).sum()) / own.size)
    return sum(terms) / len(terms)


def tensors(features: Sequence[Array], **options: Any) -> list[Tensor]:
    return [torch.from_numpy(e.copy()).to(**options) for e in features]


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 2, 4, 3, 5), (1, 1, 1, 3)])
def test_map_equals_scipy(shape: tuple[int, ...], operator: Any, reduction: Any) -> None:
    (e,) = pyramid([shape])
    found = gradient_map(torch.from_numpy(e), operator=operator, channel_reduction=reduction)
    assert found.shape == (shape[0], 1, *shape[2:])
    np.testing.assert_allclose(found[:, 0].numpy(), scipy_map(e, operator, reduction), rtol=1e-12)


def test_map_equals_monai_within_the_border() -> None:
    """MONAI pads with zeros, of a kernel divided by the sum of its magnitudes."""
    image = torch.randn(1, 9, 8, generator=torch.Generator().manual_seed(0))
    gradients = SobelGradients(kernel_size=3, normalize_kernels=True)(image)
    expected = torch.linalg.vector_norm(torch.as_tensor(gradients), dim=0)
    found = gradient_map(image[None])[0, 0]
    torch.testing.assert_close(found[1:-1, 1:-1], expected[1:-1, 1:-1])


def test_unit_ramp_has_slope_one_and_channels_reduce_by_hand() -> None:
    ramp = torch.arange(5.0).view(1, 1, 1, 5).expand(1, 1, 5, 5)
    channels = torch.cat([ramp, 3 * ramp.mT, 0 * ramp], dim=1)
    for operator in OPERATORS:
        means = gradient_map(channels, operator=operator)  # type: ignore[arg-type]
        assert means[0, 0, 2, 2].item() == pytest.approx((1 + 3 + 0) / 3)
        norms = gradient_map(channels, operator=operator, channel_reduction="norm")  # type: ignore[arg-type]
        assert norms[0, 0, 2, 2].item() == pytest.approx(np.sqrt((1 + 9 + 0) / 3))


def test_difference_sees_what_sobel_smooths() -> None:
    """Rows that alternate in the sign of their ramp: the smoothing takes ¼ - ½ + ¼ = 0."""
    ramp = torch.arange(6.0).view(1, 1, 1, 6) * torch.tensor([1.0, -1.0]).repeat(3).view(1, 1, 6, 1)
    e = ramp.double()
    d, s = (gradient_map(e, operator=o)[0, 0, 2, 2].item() for o in ("difference", "sobel"))  # type: ignore[arg-type]
    assert d == pytest.approx(1.0)
    assert s == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("levels", ["through", "below"])
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shapes", PYRAMIDS.values(), ids=PYRAMIDS)
def test_value_and_gradient_equal_the_transcription(
    shapes: list[tuple[int, ...]], reduction: Any, operator: Any, levels: Any
) -> None:
    features = pyramid(shapes)
    leaves = [t.requires_grad_() for t in tensors(features)]
    options: dict[str, Any] = {"operator": operator, "channel_reduction": reduction}
    value = feature_gradient_regularization(leaves, levels=levels, **options)
    rule = (levels, operator, reduction)
    assert value.item() == pytest.approx(transcribed(features, features, *rule), rel=1e-11)
    module = FeatureGradientLoss(operator, reduction, levels=levels)
    assert module(leaves).item() == value.item()
    # Central differences with the sums held fixed: what a detached sum means.
    value.backward()
    rng = np.random.default_rng(1)
    for j, leaf in enumerate(leaves):
        assert leaf.grad is not None or (levels == "below" and j == 0)
        direction = rng.normal(size=shapes[j])
        moved = []
        for step in (1e-5, -1e-5):
            changed = [e + step * direction if i == j else e for i, e in enumerate(features)]
            moved.append(transcribed(changed, features, *rule))
        slope = (moved[0] - moved[1]) / 2e-5
        found = 0.0 if leaf.grad is None else float((leaf.grad.numpy() * direction).sum())
        assert found == pytest.approx(slope, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(2, 3, 4, 3), (1, 2, 2, 3, 3)])
def test_gradcheck_of_the_map(shape: tuple[int, ...], operator: Any, reduction: Any) -> None:
    (e,) = pyramid([shape])
    leaf = torch.from_numpy(e).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: gradient_map(x, operator=operator, channel_reduction=reduction), leaf
    )


def test_the_literal_sum_pushes_without_end_and_the_sum_below_has_a_target() -> None:
    """Eq. 4's value does not depend on ∇e_j; its gradient is -2 Σ_{i<j} ∇e_i (by hand)."""
    slope = torch.arange(6.0).expand(1, 1, 6, 6).double()
    for factor in (0.5, 1.0, 5.0):
        leaf = (factor * slope).clone().requires_grad_()
        value = feature_gradient_regularization([slope, leaf])
        # ½ · mean(g_0²), g_0 = 1 within and ½ at the two borders of six.
        assert value.item() == pytest.approx(0.375)
        (grad,) = torch.autograd.grad(value, leaf)
        # Along e_j itself: d/df of mean (S - f g)² / 2 with S = (1 + f) g_0 fixed is -mean g_0².
        assert (grad * slope).sum().item() == pytest.approx(-0.75)
        leaf = (factor * slope).clone().requires_grad_()
        value = feature_gradient_regularization([slope, leaf], levels="below")
        assert value.item() == pytest.approx(0.75 * (1 - factor) ** 2)
        (grad,) = torch.autograd.grad(value, leaf)
        assert (grad * slope).sum().item() == pytest.approx(-1.5 * (1 - factor), abs=1e-12)


@pytest.mark.parametrize("levels", ["through", "below"])
def test_the_first_level_has_no_gradient(levels: Any) -> None:
    leaves = [t.requires_grad_() for t in tensors(pyramid(PYRAMIDS["2d"]))]
    feature_gradient_regularization(leaves, levels=levels).backward()
    assert leaves[0].grad is None or not leaves[0].grad.any()
    assert all(leaf.grad is not None and leaf.grad.any() for leaf in leaves[1:])


def test_resizing_agrees_at_a_factor_of_two_and_not_beyond() -> None:
    features = tensors(pyramid([(1, 2, 8, 8), (1, 2, 4, 4), (1, 2, 2, 2)]))
    two = [
        feature_gradient_regularization(features[:2], resizing=r)  # type: ignore[arg-type]
        for r in ("pool", "interpolate")
    ]
    torch.testing.assert_close(*two)
    # From 8 to 2, linear interpolation reads voxels 1, 2 of each four: 4 of 16.
    plain = gradient_map(features[0])
    blocks = plain.unfold(2, 4, 4).unfold(3, 4, 4)[..., 1:3, 1:3].mean(dim=(-2, -1))
    own = gradient_map(features[2])
    expected = (blocks - own).square().mean()
    found = feature_gradient_regularization(
        [features[0], features[2]], resizing="interpolate", levels="below"
    )
    torch.testing.assert_close(found, expected)
    pooled = feature_gradient_regularization([features[0], features[2]], levels="below")
    assert abs((pooled - found).item()) > 1e-3


def test_sides_that_do_not_divide() -> None:
    features = tensors(pyramid([(1, 2, 7, 9), (1, 2, 3, 4)]))
    target = torch.nn.functional.adaptive_avg_pool2d(gradient_map(features[0]), (3, 4))
    expected = (target - gradient_map(features[1])).square().mean()
    found = feature_gradient_regularization(features, levels="below")
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("levels", ["through", "below"])
def test_batch_is_the_mean_of_its_images(levels: Any) -> None:
    shapes = [(3, 2, 8, 8), (3, 3, 4, 4), (3, 4, 2, 2)]
    features = tensors(pyramid(shapes))
    whole = feature_gradient_regularization(features, levels=levels)
    single = [
        feature_gradient_regularization([e[[i]] for e in features], levels=levels).item()
        for i in range(3)
    ]
    assert whole.item() == pytest.approx(np.mean(single), rel=1e-12)


def test_offsets_flips_and_channel_order_do_not_matter() -> None:
    features = tensors(pyramid(PYRAMIDS["2d"]))
    expected = feature_gradient_regularization(features)
    for changed in (
        [e + 7 for e in features],
        [-e for e in features],
        [e.flip(-1) for e in features],
        [e.mT for e in features],
        [e.flip(1) for e in features],
        [MetaTensor(e) for e in features],
        [e.contiguous(memory_format=torch.channels_last) for e in features],
    ):
        found = feature_gradient_regularization(changed)
        assert type(found) is Tensor
        torch.testing.assert_close(found, expected)


def test_flat_features_have_zero_gradient() -> None:
    leaves = [torch.ones(1, 2, s, s, requires_grad=True) for s in (4, 2)]
    for reduction in REDUCTIONS:
        value = feature_gradient_regularization(leaves, channel_reduction=reduction)  # type: ignore[arg-type]
        value.backward()
        assert value.item() == 0
    assert all(leaf.grad is not None and not leaf.grad.any() for leaf in leaves)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    # 300² · 2 is beyond float16's 65504.
    features = tensors(pyramid(PYRAMIDS["2d"]), dtype=dtype)
    features = [200 * e for e in features]
    expected = feature_gradient_regularization([e.double() for e in features])
    leaves = [e.clone().requires_grad_() for e in features]
    with torch.autocast("cpu", dtype=dtype):
        value = feature_gradient_regularization(leaves)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    value.backward()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves)


def test_nothing_is_read_on_the_host() -> None:
    features = [torch.zeros(2, 3, s, s, device="meta") for s in (8, 4)]
    assert feature_gradient_regularization(features).shape == ()


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        ([(1, 1, 4, 4)], {}, "features must be of at least two levels, got 1"),
        ([(1, 1, 4), (1, 1, 2)], {}, "features must be (B, channels, H, W[, D]), got shape"),
        (
            [(1, 1, 4, 4), (2, 1, 2, 2)],
            {},
            "all levels must be of the same images, got shapes (1, 1, 4, 4), (2, 1, 2, 2)",
        ),
        ([], {"resizing": "max"}, "resizing must be one of pool, interpolate, got 'max'"),
        ([], {"levels": "above"}, "levels must be one of through, below, got 'above'"),
        (
            [(1, 1, 4, 4)] * 2,
            {"operator": "laplace"},
            "operator must be one of sobel, difference, got 'laplace'",
        ),
        (
            [(1, 1, 4, 4)] * 2,
            {"channel_reduction": "max"},
            "channel_reduction must be one of mean, norm, got 'max'",
        ),
    ],
)
def test_errors(shapes: list[tuple[int, ...]], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        feature_gradient_regularization([torch.zeros(s) for s in shapes], **options)
    if options:
        with pytest.raises(ValueError, match=re.escape(message)):
            FeatureGradientLoss(**options)


def test_integers_are_refused_and_repr() -> None:
    with pytest.raises(TypeError, match=r"features must be floating point, got torch.int64"):
        gradient_map(torch.zeros(1, 1, 2, 2, dtype=torch.long))
    assert repr(FeatureGradientLoss(levels="below")) == (
        "FeatureGradientLoss(operator='sobel', channel_reduction='mean', resizing='pool', "
        "levels='below')"
    )
