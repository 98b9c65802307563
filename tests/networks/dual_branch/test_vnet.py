from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixseg.networks import DualBranchVNet

# Weights of one kernel, channels in, channels out, number of such layers; from the block plan of
# UA-MT. Each layer has k·in·out weights, out biases and, with a norm, out scales and out shifts.
ENCODER = [
    (27, 1, 16, 1),
    (8, 16, 32, 1),
    (27, 32, 32, 2),
    (8, 32, 64, 1),
    (27, 64, 64, 3),
    (8, 64, 128, 1),
    (27, 128, 128, 3),
    (8, 128, 256, 1),
    (27, 256, 256, 3),
]
DECODER = [
    (8, 256, 128, 1),
    (27, 128, 128, 3),
    (8, 128, 64, 1),
    (27, 64, 64, 3),
    (8, 64, 32, 1),
    (27, 32, 32, 2),
    (8, 32, 16, 1),
    (27, 16, 16, 1),
]
HEAD = 16 * 2 + 2


def by_hand(table: list[tuple[int, int, int, int]], norm: bool) -> int:
    return sum(n * (k * i * o + o + norm * 2 * o) for k, i, o, n in table)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize("norm", ["batch", "instance", "group", "none"])
def test_parameters_by_hand(norm: str) -> None:
    encoder = by_hand(ENCODER, norm != "none")
    decoder = by_hand(DECODER, norm != "none") + HEAD
    assert count(DualBranchVNet(norm=norm, branches=1)) == encoder + decoder
    assert count(DualBranchVNet(norm=norm)) == encoder + 2 * decoder
    if norm == "batch":
        assert encoder + decoder == 9_448_866  # UA-MT's


def test_parameters_of_a_2d_network_with_other_levels_by_hand() -> None:
    """Levels of (2, 4, 6, 8, 10, 12): three convolutions from the third level on."""
    table = [(9, 3, 2, 1), (4, 2, 4, 1), (9, 4, 4, 2), (4, 4, 6, 1), (9, 6, 6, 3), (4, 6, 8, 1)]
    table += [(9, 8, 8, 3), (4, 8, 10, 1), (9, 10, 10, 3), (4, 10, 12, 1), (9, 12, 12, 3)]
    table += [(4, 12, 10, 1), (9, 10, 10, 3), (4, 10, 8, 1), (9, 8, 8, 3), (4, 8, 6, 1)]
    table += [(9, 6, 6, 3), (4, 6, 4, 1), (9, 4, 4, 2), (4, 4, 2, 1), (9, 2, 2, 1)]
    net = DualBranchVNet(
        2, in_channels=3, out_channels=4, features=(2, 4, 6, 8, 10, 12), branches=1
    )
    assert count(net) == by_hand(table, norm=True) + (2 * 4 + 4)
    assert net.size_divisor == 32


def transcription(
    image: Tensor, weights: dict[str, Tensor], norm: str, training: bool, groups: int
) -> Tensor:
    """UA-MT's V-Net without dropout, written from its block plan for five levels.

    ``weights`` has the network's own names: the convolutions of a block are 0, 3 and 6 in its
    list, each followed by its norm.
    """
    conv, transposed = {
        4: (F.conv2d, F.conv_transpose2d),
        5: (F.conv3d, F.conv_transpose3d),
    }[image.ndim]

    def activated(x: Tensor, name: str, i: int) -> Tensor:
        scale, shift = weights.get(f"{name}.{i}.weight"), weights.get(f"{name}.{i}.bias")
        if norm == "batch":
            mean = weights[f"{name}.{i}.running_mean"].clone()
            variance = weights[f"{name}.{i}.running_var"].clone()
            x = F.batch_norm(x, mean, variance, scale, shift, training)
        elif norm == "instance":
            x = F.instance_norm(x, weight=scale, bias=shift)
        elif norm == "group":
            x = F.group_norm(x, groups, scale, shift)
        return x.clamp(min=0)

    def block(x: Tensor, name: str, convolutions: int) -> Tensor:
        for i in range(convolutions):
            w, b = weights[f"{name}.{3 * i}.weight"], weights[f"{name}.{3 * i}.bias"]
            x = activated(conv(x, w, b, padding=1), name, 3 * i + 1)
        return x

    def down(x: Tensor, i: int) -> Tensor:
        name = f"encoder.downs.{i}"
        w, b = weights[f"{name}.0.weight"], weights[f"{name}.0.bias"]
        return activated(conv(x, w, b, stride=2), name, 1)

    def up(x: Tensor, i: int) -> Tensor:
        name = f"main.ups.{i}"
        w, b = weights[f"{name}.0.weight"], weights[f"{name}.0.bias"]
        return activated(transposed(x, w, b, stride=2), name, 1)

    x1 = block(image, "encoder.blocks.0", 1)
    x2 = block(down(x1, 0), "encoder.blocks.1", 2)
    x3 = block(down(x2, 1), "encoder.blocks.2", 3)
    x4 = block(down(x3, 2), "encoder.blocks.3", 3)
    x5 = block(down(x4, 3), "encoder.blocks.4", 3)
    x6 = block(up(x5, 0) + x4, "main.blocks.0", 3)
    x7 = block(up(x6, 1) + x3, "main.blocks.1", 3)
    x8 = block(up(x7, 2) + x2, "main.blocks.2", 2)
    x9 = block(up(x8, 3) + x1, "main.blocks.3", 1)
    return conv(x9, weights["main.head.weight"], weights["main.head.bias"])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", ["batch", "instance", "group", "none"])
@pytest.mark.parametrize("size", [(32, 48), (16, 32, 16)])
def test_one_branch_is_the_network_of_uamt(
    size: tuple[int, ...], norm: str, training: bool
) -> None:
    torch.manual_seed(0)
    features = (2, 4, 4, 6, 8)
    net = DualBranchVNet(
        len(size), 2, 3, features=features, dropout=0.0, norm=norm, branches=1
    ).double()
    for name, value in net.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif value.is_floating_point() and value.ndim == 1:
            value.normal_()
    image = torch.randn(2, 2, *size, dtype=torch.float64)
    # 2 is the most groups that divide all features.
    expected = transcription(image, net.state_dict(), norm, training, groups=2)
    torch.testing.assert_close(net.train(training)(image), expected, rtol=1e-9, atol=1e-9)


def test_group_norm_has_16_groups_as_in_uamt() -> None:
    groups = {
        m.num_groups for m in DualBranchVNet(norm="group").modules() if hasattr(m, "num_groups")
    }
    assert groups == {16}


def test_weights_start_from_the_defaults_of_pytorch() -> None:
    """Uniform within ±1/√(inputs of one output), as UA-MT leaves them."""
    weight = DualBranchVNet(branches=1).encoder.blocks[4][0].weight
    bound = (256 * 27) ** -0.5
    assert weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)


def test_the_branches_part_after_the_bottleneck() -> None:
    net = DualBranchVNet(features=(2, 4, 4, 4, 8))
    deepest, skips = net.encoder(torch.zeros(2, 1, 32, 32, 32))
    assert deepest.shape == (2, 8, 2, 2, 2)
    assert [tuple(skip.shape[1:3]) for skip in skips] == [(2, 32), (4, 16), (4, 8), (4, 4)]
    assert isinstance(net.student.ups[0][0], nn.ConvTranspose3d)


def test_dropout_drops_whole_channels_in_two_and_three_dimensions() -> None:
    for dims, kind in ((2, nn.Dropout2d), (3, nn.Dropout3d)):
        net = DualBranchVNet(dims, features=(2, 4), dropout=0.25)
        found = [m for m in net.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
        # Bottleneck, and one before each head.
        assert [type(m) for m in found] == [kind] * 3
        assert {m.p for m in found} == {0.25}


def test_no_layer_leaves_the_channels_last() -> None:
    net = DualBranchVNet(features=(4, 8, 8)).to(memory_format=torch.channels_last_3d)
    image = torch.randn(2, 1, 8, 8, 12).contiguous(memory_format=torch.channels_last_3d)
    inputs: list[Tensor] = []
    for module in net.modules():
        if not list(module.children()):
            module.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    net(image)
    assert len(inputs) > 40
    assert all(x.is_contiguous(memory_format=torch.channels_last_3d) for x in inputs)
