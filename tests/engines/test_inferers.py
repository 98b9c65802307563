"""VolumeInferer against plain loops in float64, hand-made functions and direct calls."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from torch import Tensor, nn

from mixseg.engines import VolumeInferer
from mixseg.networks import DualBranchUNet

windows_of = partial(VolumeInferer, whole_volume=False, size_divisor=1, stretch=1, sw_batch_size=1)


def pointwise(image: Tensor) -> Tensor:
    """Two channels that depend on the voxel alone."""
    return torch.cat((image**2, 1 - 3 * image), dim=1)


def window_constant(image: Tensor) -> Tensor:
    """A window's mean everywhere in that window: what is blended shows the weights."""
    mean = image.mean(dim=tuple(range(1, image.ndim)), keepdim=True)
    return torch.cat((mean.expand_as(image), -mean.expand_as(image)), dim=1)


def recorded(network: Callable[..., Any], sizes: list[tuple[int, ...]]) -> Callable[..., Any]:
    def call(image: Tensor) -> Any:
        sizes.append(tuple(image.shape))
        return network(image)

    return call


def starts(side: int, window: int, overlap: float) -> list[int]:
    """First voxel of each window: as few as leave the overlap, spread evenly, flush at the end."""
    if side <= window:
        return [0]
    gaps = math.ceil((side - window) / int(window * (1 - overlap)))
    stride = math.ceil((side - window) / gaps)
    return [min(i * stride, side - window) for i in range(gaps + 1)]


def blended(
    image: np.ndarray, network: Callable[[Tensor], Tensor], window: tuple[int, ...], overlap: float
) -> np.ndarray:
    """Gaussian-weighted mean of the windows' outputs, (channels, *spatial), float64.

    Weight of a voxel at x from the window's center: Π exp(−x²/2σ²) with σ a side's eighth, not
    below 0.001.
    """
    weight = np.ones(())
    for side in window:
        x = np.arange(side) - (side - 1) / 2
        weight = np.multiply.outer(weight, np.exp(-(x**2) / (2 * (side / 8) ** 2)))
    weight = np.maximum(weight, max(weight.min(), 1e-3))
    total: np.ndarray | float = 0.0
    count = np.zeros(image.shape)
    for corner in itertools.product(
        *(starts(s, w, overlap) for s, w in zip(image.shape, window, strict=True))
    ):
        place = tuple(slice(c, c + w) for c, w in zip(corner, window, strict=True))
        output = network(torch.from_numpy(image[place])[None, None])[0].numpy()
        part = np.zeros((len(output), *image.shape))
        part[(slice(None), *place)] = output * weight
        total = total + part
        count[place] += weight
    return np.asarray(total / count)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, (0.25, 0.5, 0.75)])
@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize("batch", [1, 3])
def test_windows_do_not_change_a_pointwise_function(
    overlap: float | tuple[float, ...], mode: str, batch: int
) -> None:
    image = torch.randn(2, 1, 13, 9, 7, dtype=torch.float64)
    inferer = windows_of((6, 4, 4), overlap=overlap, mode=mode, sw_batch_size=batch)
    torch.testing.assert_close(inferer(image, pointwise), pointwise(image), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "window", "overlap"),
    [((1, 37), (1, 16), 0.25), ((1, 37), (1, 16), 0.5), ((11, 9, 6), (6, 4, 4), 0.5)],
)
def test_gaussian_blending_equals_its_formula(
    shape: tuple[int, ...], window: tuple[int, ...], overlap: float
) -> None:
    image = torch.randn(1, 1, *shape, dtype=torch.float64)
    found = windows_of(window, overlap=overlap)(image, window_constant)
    expected = blended(image[0, 0].numpy(), window_constant, window, overlap)
    # MONAI computes the weights in float32.
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "window", "overlap"),
    [((1, 37), (1, 16), 0.25), ((11, 9, 6), (6, 4, 4), 0.5), ((3, 16), (3, 16), 0.5)],
)
def test_averaged_probabilities_equal_the_formula(
    shape: tuple[int, ...], window: tuple[int, ...], overlap: float
) -> None:
    """log Σ w softmax(z) / Σ w; one window alone keeps its logits."""
    image = torch.randn(1, 1, *shape, dtype=torch.float64)
    inferer = windows_of(window, overlap=overlap, average="probabilities")
    found = inferer(image, window_constant).softmax(1)
    expected = blended(
        image[0, 0].numpy(), lambda part: window_constant(part).softmax(1), window, overlap
    )
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_averaged_probabilities_of_zero_stay_finite() -> None:
    image = torch.zeros(1, 1, 12)[..., None]
    inferer = windows_of((4, 1), average="probabilities")
    logits = inferer(image, lambda part: torch.cat((part + 500, part - 500), dim=1))
    assert torch.isfinite(logits).all()
    assert (logits.softmax(1)[:, 1] < 1e-30).all()


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize(
    ("shape", "windows"),
    [
        # At the most 1.5 × 8 = 12 and 1.5 × 4 = 6 voxels, in steps of 2, half of them shared.
        # First axis: 11 and 12 voxels fit into one window of 12. Two of 12 reach 18, so 15 voxels
        # need two and 23 three; two of 8 reach 12, two of 10 reach 15; three of 10 reach 20.
        # Last axis: one of 6 for 5 or 6 voxels, two for 9; 3 voxels are padded to one of 4.
        ((12, 6), (12, 6)),
        ((11, 9), (12, 6)),
        ((15, 5), (10, 6)),
        ((23, 3), (12, 4)),
    ],
)
def test_stretched_windows_equal_the_formula_with_windows_of_that_size(
    shape: tuple[int, int], windows: tuple[int, int], batch: int
) -> None:
    image = torch.randn(1, 1, *shape, dtype=torch.float64)
    sizes: list[tuple[int, ...]] = []
    inferer = VolumeInferer((8, 4), overlap=0.5, size_divisor=2, sw_batch_size=batch)
    found = inferer(image, recorded(window_constant, sizes))
    assert {size[2:] for size in sizes} == {windows}
    gaps = [max(0, w - s) for w, s in zip(windows, shape, strict=True)]
    padded = np.pad(image[0, 0].numpy(), [(g // 2, g - g // 2) for g in gaps])
    expected = blended(padded, window_constant, windows, 0.5)
    inside = tuple(slice(g // 2, g // 2 + s) for g, s in zip(gaps, shape, strict=True))
    np.testing.assert_allclose(
        found[0].numpy(), expected[(slice(None), *inside)], rtol=1e-5, atol=1e-6
    )


def test_bfloat16_outputs_are_blended_in_float32() -> None:
    image = torch.randn(1, 1, 20, 8)

    def half(window: Tensor) -> Tensor:
        return pointwise(window).bfloat16()

    found = windows_of((8, 8), overlap=0.5)(image, half)
    assert found.dtype == torch.float32
    # A mean of equal values: the weights must not be rounded to eight bits.
    torch.testing.assert_close(found, half(image).float(), rtol=1e-6, atol=1e-6)


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return DualBranchUNet(spatial_dims=3, features=(2, 4, 8)).eval()


whole_of = partial(VolumeInferer, whole_volume=True, size_divisor=4)


@torch.no_grad()
def test_the_whole_volume_of_a_fitting_size_is_a_direct_call(network: nn.Module) -> None:
    image = torch.randn(1, 1, 16, 12, 8)
    for found, expected in zip(whole_of((8, 8, 8))(image, network), network(image), strict=True):
        assert torch.equal(found, expected)


@torch.no_grad()
def test_the_whole_volume_is_padded_about_its_center_and_cropped(network: nn.Module) -> None:
    image = torch.randn(1, 1, 13, 12, 5)
    # 13 → 16 (one voxel before, two after), 12 stays, 5 → 8 (one before, two after).
    padded = torch.zeros(1, 1, 16, 12, 8)
    padded[:, :, 1:14, :, 1:6] = image
    student = partial(network, branch="student")
    expected = student(padded)[:, :, 1:14, :, 1:6]
    assert torch.equal(whole_of((8, 8, 8))(image, student), expected)


@torch.no_grad()
@pytest.mark.parametrize("whole_volume", [True, False, "auto"])
def test_a_scan_smaller_than_the_window_is_one_padded_window(
    network: nn.Module, whole_volume: bool | str
) -> None:
    image = torch.randn(1, 1, 6, 5, 3)
    padded = torch.zeros(1, 1, 8, 8, 8)
    padded[:, :, 1:7, 1:6, 2:5] = image
    student = partial(network, branch="student")
    found = VolumeInferer((8, 8, 8), whole_volume=whole_volume, size_divisor=4)(image, student)
    assert found.shape == (1, 2, 6, 5, 3)
    expected = student(padded)[:, :, 1:7, 1:6, 2:5]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("whole_volume", [True, False])
@pytest.mark.parametrize("mirror_axes", [(), (0, 2)])
def test_a_batch_gives_what_its_volumes_give_alone(
    network: nn.Module, whole_volume: bool, mirror_axes: tuple[int, ...]
) -> None:
    image = torch.randn(2, 1, 13, 8, 11)
    inferer = VolumeInferer(
        (8, 8, 8),
        whole_volume=whole_volume,
        mirror_axes=mirror_axes,
        sw_batch_size=3,
        size_divisor=4,
    )
    together = inferer(image, network)
    for i in range(2):
        alone = inferer(image[i : i + 1], network)
        for a, b in zip(together, alone, strict=True):
            assert torch.equal(a[i : i + 1], b)


@torch.no_grad()
def test_both_branches_equal_each_branch_by_itself(network: nn.Module) -> None:
    image = torch.randn(1, 1, 13, 8, 11)
    inferer = windows_of((8, 8, 8))
    both = inferer(image, network)
    assert isinstance(both, tuple)
    for name, logits in zip(("teacher", "student"), both, strict=True):
        assert torch.equal(logits, inferer(image, network, branch=name))
        assert torch.equal(logits, inferer(image, network, name))


@pytest.mark.parametrize("whole_volume", [True, False])
def test_mirroring_averages_the_probabilities(whole_volume: bool) -> None:
    """Logit of class 1 = image × position along the first axis, counted from the pass's start."""
    side = 6
    image = torch.randn(1, 1, side, 4, dtype=torch.float64)
    ramp = torch.arange(side, dtype=torch.float64)[:, None]

    def by_position(window: Tensor) -> Tensor:
        logit = window * ramp
        return torch.cat((torch.zeros_like(logit), logit), dim=1)

    inferer = VolumeInferer((6, 4), whole_volume=whole_volume, mirror_axes=(0,), size_divisor=1)
    found = torch.softmax(inferer(image, by_position), dim=1)[0, 1].numpy()
    x = image[0, 0].numpy()
    position = np.arange(side)[:, None]
    # Mirrored, the voxel at i is at side − 1 − i.
    expected = (1 / (1 + np.exp(-x * position)) + 1 / (1 + np.exp(-x * (side - 1 - position)))) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_mirroring_along_two_axes_takes_four_passes() -> None:
    """The first voxel of a pass alone is bright: it is each corner once, in four passes."""
    image = torch.zeros(1, 1, 4, 4, 2, dtype=torch.float64)

    def corner(window: Tensor) -> Tensor:
        logit = torch.zeros_like(window)
        logit[:, :, 0, 0, 0] = math.log(3)  # p = 3/4 there, 1/2 elsewhere
        return torch.cat((torch.zeros_like(logit), logit), dim=1)

    inferer = VolumeInferer((4, 4, 2), whole_volume=True, mirror_axes=(0, 1), size_divisor=1)
    found = torch.softmax(inferer(image, corner), dim=1)[0, 1]
    expected = torch.full((4, 4, 2), 0.5, dtype=torch.float64)
    expected[::3, ::3, 0] = (3 / 4 + 3 * 1 / 2) / 4
    torch.testing.assert_close(found, expected)


def test_metadata_is_handed_on_as_monai_does() -> None:
    affine = torch.diag(torch.tensor([0.625, 0.625, 2.0, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.randn(1, 1, 9, 8, 8), affine=affine[None])
    theirs = SlidingWindowInferer((8, 8, 8), mode="gaussian")(image, pointwise)
    for whole_volume in (True, False, "auto"):
        ours = VolumeInferer((8, 8, 8), whole_volume=whole_volume, size_divisor=4)(image, pointwise)
        assert isinstance(ours, MetaTensor)
        assert torch.equal(ours.affine, theirs.affine)
        torch.testing.assert_close(ours.as_tensor(), theirs.as_tensor())


def test_no_gradient_is_recorded(network: nn.Module) -> None:
    for whole_volume in (True, False):
        inferer = VolumeInferer((8, 8, 8), whole_volume=whole_volume, size_divisor=4)
        assert not inferer(torch.randn(1, 1, 12, 8, 8), network)[0].requires_grad


@pytest.mark.parametrize(
    "shape", [(1, 8, 8, 8), (1, 1, 8, 8), (1, 1, 2, 8, 8, 8), (1, 1, 0, 8, 8), (0, 1, 8, 8, 8)]
)
def test_images_of_another_rank_are_refused(shape: tuple[int, ...]) -> None:
    message = f"need images of shape (B, channels, H, W, D), got {shape}"
    with pytest.raises(ValueError, match=re.escape(message)):
        VolumeInferer((8, 8, 8), size_divisor=4)(torch.zeros(shape), pointwise)


def test_outputs_of_another_kind_are_refused() -> None:
    image, inferer = torch.zeros(1, 1, 8, 8), VolumeInferer((8, 8), size_divisor=4)
    with pytest.raises(TypeError, match="must return a tensor or a tuple of tensors, got dict"):
        inferer(image, lambda x: {"pred": x})
    with pytest.raises(ValueError, match=re.escape("returns (4, 4) for an image of (8, 8)")):
        inferer(image, lambda x: x[..., ::2, ::2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"roi_size": (8,)}, "two or three positive sides, got (8,)"),
        ({"roi_size": (8, 0)}, "two or three positive sides, got (8, 0)"),
        ({"roi_size": (16, 24, 16)}, "every side of roi_size must be a multiple of 16"),
        ({"overlap": 1.0}, "overlap must lie in [0, 1), got 1.0"),
        ({"overlap": -0.1}, "overlap must lie in [0, 1), got -0.1"),
        ({"sw_batch_size": 0}, "sw_batch_size must be at least 1, got 0"),
        ({"mode": "linear"}, "mode must be 'gaussian' or 'constant', got 'linear'"),
        ({"whole_volume": "True"}, "whole_volume must be 'auto', True or False, got 'True'"),
        ({"memory_gb": -1}, "memory_gb must not be negative, got -1"),
        ({"bytes_per_voxel": 0}, "bytes_per_voxel must be positive, got 0"),
        ({"mirror_axes": (3,)}, "mirror_axes must name different axes of (0, 1, 2), got (3,)"),
        ({"mirror_axes": (0, 0)}, "mirror_axes must name different axes of (0, 1, 2), got (0, 0)"),
        ({"size_divisor": 0}, "size_divisor must be at least 1, got 0"),
        ({"average": "votes"}, "average must be 'logits' or 'probabilities', got 'votes'"),
        ({"stretch": 0.9}, "stretch must be at least 1, got 0.9"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        VolumeInferer(**{"roi_size": (16, 16, 16), **options})


def test_a_side_may_have_its_own_divisor() -> None:
    sizes: list[tuple[int, ...]] = []
    inferer = VolumeInferer((8, 8, 3), whole_volume=True, size_divisor=(8, 8, 1))
    inferer(torch.zeros(1, 1, 9, 16, 5), recorded(pointwise, sizes))
    assert sizes == [(1, 1, 16, 16, 5)]
