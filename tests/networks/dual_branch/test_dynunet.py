from __future__ import annotations

import re

import pytest
import torch
from monai.networks.nets import DynUNet
from torch import Tensor, nn

from mixseg.engines.network_set import fresh_copy
from mixseg.networks import DualBranchDynUNet

MONAI_NORM = {
    "batch": ("batch", {"affine": True}),
    "instance": ("instance", {"affine": True}),
    "group": ("group", {"num_groups": 2}),  # 2 is the most that divide 4, 6, 8 and 10
    "none": "",
}
ISOTROPIC = {"features": (4, 6, 8, 10)}
# Thick slices: their axis is left alone by the first two levels.
ANISOTROPIC = {
    "features": (4, 6, 8, 10),
    "kernel_size": [[3, 3, 1], [3, 3, 1], 3, [3, 3, 5]],
    "strides": [1, [2, 2, 1], [2, 2, 1], [2, 2, 2]],
}


def monai_network(net: DualBranchDynUNet, norm: str, res_block: bool) -> DynUNet:
    return DynUNet(
        net.spatial_dims,
        net.in_channels,
        net.out_channels,
        kernel_size=net.kernel_size,
        strides=net.strides,
        upsample_kernel_size=net.strides[1:],
        filters=net.features,
        norm_name=MONAI_NORM[norm],
        res_block=res_block,
    )


def monai_state(state: dict[str, Tensor], levels: int, branch: str) -> dict[str, Tensor]:
    """Weights of one branch under the names of MONAI's network.

    That has every encoder and decoder block twice: as itself and within nested ``skip_layers``.
    """
    found = {}
    for name, value in state.items():
        part, *rest = name.split(".")
        if part == "encoder":  # encoder.blocks.<level>.<name in the block>
            level, inner = int(rest[1]), ".".join(rest[2:])
            nested = "skip_layers." + "next_layer." * level
            if level == levels - 1:
                names = ["bottleneck." + inner, nested + inner]
            else:
                own = "input_block." if level == 0 else f"downsamples.{level - 1}."
                names = [own + inner, nested + "downsample." + inner]
        elif part == branch and rest[0] == "blocks":  # from the deepest up
            index, inner = int(rest[1]), ".".join(rest[2:])
            nested = "skip_layers." + "next_layer." * (levels - 2 - index)
            names = [f"upsamples.{index}.{inner}", nested + "upsample." + inner]
        elif part == branch:
            names = ["output_block." + ".".join(rest[1:])]
        else:
            names = []
        found.update(dict.fromkeys(names, value))
    return found


@pytest.mark.parametrize("res_block", [True, False])
@pytest.mark.parametrize("norm", list(MONAI_NORM))
@pytest.mark.parametrize(
    ("size", "arguments"),
    [((16, 24), ISOTROPIC), ((16, 8, 16), ISOTROPIC), ((16, 8, 6), ANISOTROPIC)],
)
def test_each_branch_equals_the_network_of_monai(
    size: tuple[int, ...], arguments: dict, norm: str, res_block: bool
) -> None:
    """With the same weights, in evaluation and in training; dropout is MONAI's default, none."""
    torch.manual_seed(0)
    net = DualBranchDynUNet(len(size), 2, 3, norm=norm, res_block=res_block, **arguments)
    for name, value in net.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif value.is_floating_point() and value.ndim == 1:
            value.normal_()
    image = torch.randn(2, 2, *size)
    for branch in ("teacher", "student"):
        other = monai_network(net, norm, res_block)
        other.load_state_dict(monai_state(net.state_dict(), len(net.features), branch), strict=True)
        for training in (False, True):
            expected = other.train(training)(image)
            assert torch.equal(net.train(training)(image, branch), expected)


@pytest.mark.parametrize("res_block", [True, False])
def test_parameters_are_those_of_monai_and_of_its_decoder_once_more(res_block: bool) -> None:
    single = DualBranchDynUNet(branches=1, res_block=res_block)
    other = monai_network(single, "instance", res_block)

    def count(*modules: nn.Module) -> int:
        return sum(p.numel() for module in modules for p in module.parameters())

    assert count(single) == count(other)
    dual = DualBranchDynUNet(res_block=res_block)
    assert count(dual) == count(other) + count(other.upsamples, other.output_block)


def test_both_decoders_are_initialized_as_monai_does() -> None:
    """Kaiming's normal for a slope of 0.01: sd √(2 / (1.0001 · inputs of one output))."""
    net = DualBranchDynUNet(features=(8, 32, 64))
    for decoder in (net.teacher, net.student):
        block = decoder.blocks[0]  # 64 → 32, then 64 → 32 after the skip
        weight = block.conv_block.conv1.conv.weight
        assert weight.std().item() == pytest.approx((2 / (1.0001 * 64 * 27)) ** 0.5, rel=0.02)
        assert torch.equal(decoder.head.conv.conv.bias, torch.zeros(2))
    assert not torch.equal(net.teacher.head.conv.conv.weight, net.student.head.conv.conv.weight)


def test_a_peer_is_initialized_as_monai_does() -> None:
    """Drawn anew by the same rule, where torch's own would have sd √(1 / (3 · inputs))."""
    net = DualBranchDynUNet(2, features=(8, 32, 64))
    peer = fresh_copy(net)
    pairs = zip(net.named_parameters(), peer.parameters(), strict=True)
    for (name, one), other in pairs:
        if one.ndim == 4:
            assert not torch.isclose(one, other).any(), name
            scale = (one.std() / other.std()).item()
            assert scale == pytest.approx(1, abs=4 / one.numel() ** 0.5), name
    assert torch.equal(peer.teacher.head.conv.conv.bias, torch.zeros(2))


def test_anisotropic_strides_have_a_divisor_for_each_axis() -> None:
    assert DualBranchDynUNet(features=(4, 4, 4, 4, 4)).size_divisor == 16
    net = DualBranchDynUNet(**ANISOTROPIC)
    assert net.size_divisor == (8, 8, 2)
    assert net(torch.zeros(1, 1, 16, 8, 6), "student").shape == (1, 2, 16, 8, 6)
    message = "every side must be a multiple of (8, 8, 2), got (16, 8, 5)"
    with pytest.raises(ValueError, match=re.escape(message)):
        net(torch.zeros(1, 1, 16, 8, 5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": (8, 8)}, "features needs three positive entries or more, got (8, 8)"),
        ({"strides": [1, 2]}, "strides needs one entry per level, 3, got 2"),
        ({"kernel_size": [3, 3]}, "kernel_size needs one entry per level, 3, got 2"),
        ({"strides": [2, 2, 2]}, "the first of strides must be 1, got 2"),
        ({"strides": [1, 2, 0]}, "every entry of strides must be one positive number or 3, got 0"),
        (
            {"strides": [1, 2, [2, 2]]},
            "every entry of strides must be one positive number or 3, got [2, 2]",
        ),
        ({"strides": [1, 3, 2]}, "strides must be 1 or 2, got [(1, 1, 1), (3, 3, 3), (2, 2, 2)]"),
        (
            {"kernel_size": [3, 2, 3]},
            "kernel_size must be odd, got [(3, 3, 3), (2, 2, 2), (3, 3, 3)]",
        ),
    ],
)
def test_options_out_of_range(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        DualBranchDynUNet(**{"features": (4, 4, 4), **arguments})


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_every_kernel_and_stride_that_is_admitted_keeps_the_size(kernel: int, stride: int) -> None:
    net = DualBranchDynUNet(
        2, features=(2, 2, 2), kernel_size=kernel, strides=[1, stride, 2], branch="student"
    )
    side = 2 * net.size_divisor
    assert net(torch.zeros(1, 1, side, 2 * side)).shape == (1, 2, side, 2 * side)
