"""Discriminators: layers as published, sizes, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mixseg.networks import ImageDiscriminator, VoxelDiscriminator


@pytest.mark.parametrize("dims", [2, 3])
def test_layers_are_the_published_ones(dims: int) -> None:
    """Four 4×4 convolutions of stride 2, 64 to 512 channels, each with LeakyReLU(0.2)."""
    for network, dropped in (
        (VoxelDiscriminator(dims, 3), 0),
        (ImageDiscriminator(dims, 3), 3),
    ):
        modules = [m for m in network.convolutions.modules() if not list(m.children())]
        layers = [m for m in modules if isinstance(m, nn.Conv2d | nn.Conv3d)]
        assert [m.out_channels for m in layers] == [64, 128, 256, 512]
        for layer in layers:
            assert layer.kernel_size == dims * (4,)
            assert layer.stride == dims * (2,)
        slopes = [m.negative_slope for m in modules if isinstance(m, nn.LeakyReLU)]
        assert slopes == 4 * [0.2]
        drops = [m for m in modules if isinstance(m, nn.Dropout2d | nn.Dropout3d)]
        assert [m.p for m in drops] == dropped * [0.5]
        assert not any("Norm" in type(m).__name__ for m in modules)
        if dropped:  # none after the last layer
            assert isinstance(modules[-1], nn.LeakyReLU)


@pytest.mark.parametrize("sides", [(32, 48), (32, 32, 40)])
def test_scores_have_the_size_of_the_map(sides: tuple[int, ...]) -> None:
    maps = torch.rand(2, 3, *sides)
    assert VoxelDiscriminator(len(sides), 3, (2, 2, 2, 2))(maps).shape == (2, 1, *sides)
    scores, features = ImageDiscriminator(len(sides), 3, (2, 2, 2, 5))(maps)
    assert scores.shape == (2,)
    assert features.shape == (2, 5)


def test_images_are_judged_one_by_one() -> None:
    maps = torch.rand(3, 3, 32, 32)
    for network in (VoxelDiscriminator(2, 3, (4, 4)), ImageDiscriminator(2, 3, (4, 4)).eval()):
        whole = network(maps)
        whole = whole[1] if isinstance(whole, tuple) else whole
        for i in range(3):
            one = network(maps[i : i + 1])
            one = one[1] if isinstance(one, tuple) else one
            torch.testing.assert_close(one[0], whole[i])


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (VoxelDiscriminator, {"spatial_dims": 1}, "^spatial_dims must be 2 or 3, got 1$"),
        (VoxelDiscriminator, {"in_channels": 0}, "^in_channels and every entry of features must"),
        (ImageDiscriminator, {"features": [4, 0]}, "^in_channels and every entry of features mu"),
        (ImageDiscriminator, {"dropout": 1.0}, r"^dropout must lie in \[0, 1\), got 1.0$"),
    ],
)
def test_refusals(build: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_maps_that_are_too_small_are_refused() -> None:
    with pytest.raises(ValueError, match=r"halves a map 5 times, so every side must be at least 3"):
        VoxelDiscriminator()(torch.zeros(1, 2, 32, 16))
    with pytest.raises(ValueError, match=r"at least 16, got \(8, 32\)"):
        ImageDiscriminator()(torch.zeros(1, 3, 8, 32))
