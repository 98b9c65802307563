"""Features of submodules beside a network's output."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mixseg.networks import DualBranchDynUNet, DualBranchUNet, DualBranchVNet
from mixseg.networks.features import forward_with_features, forward_with_inputs


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 3)
        self.second = nn.Linear(3, 3)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Tensor, times: int = 1, fail: bool = False) -> Tensor:
        y = torch.tanh(self.first(x))
        if fail:
            raise RuntimeError("broken")
        for _ in range(times):
            y = self.second(y)
        return y


def hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


def test_features_are_what_the_modules_returned() -> None:
    network, x = Small(), torch.randn(4, 2)
    output, features = forward_with_features(network, ["second", "first"], x)
    assert list(features) == ["second", "first"]
    assert torch.equal(features["first"], network.first(x))
    assert torch.equal(output, network(x))
    assert features["second"] is output
    assert hooks(network) == 0


def test_gradients_pass_through_features() -> None:
    network = Small()
    _, features = forward_with_features(network, ["first"], torch.randn(4, 2))
    features["first"].sum().backward()
    assert network.first.weight.grad is not None
    assert network.second.weight.grad is None


def test_arguments_are_handed_on_and_no_names_are_fine() -> None:
    network, x = Small(), torch.randn(1, 2)
    output, features = forward_with_features(network, [], x, times=2)
    assert torch.equal(output, network(x, times=2))
    assert features == {}


def test_hooks_are_removed_after_an_error() -> None:
    network = Small()
    with pytest.raises(RuntimeError, match=r"^broken$"):
        forward_with_features(network, ["first"], torch.randn(1, 2), fail=True)
    assert hooks(network) == 0


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("third", {}, "Small has no module 'third'; it has, among others, first, second, unused"),
        (
            "unused",
            {},
            "module 'unused' ran 0 times in one pass of Small; features are of modules that run "
            "once",
        ),
        (
            "second",
            {"times": 2},
            "module 'second' ran 2 times in one pass of Small; features are of modules that run "
            "once",
        ),
    ],
)
def test_refusals(name: str, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        forward_with_features(Small(), [name], torch.randn(1, 2), **arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("kind", "size", "shapes"),
    [
        (
            DualBranchUNet,
            (16, 24),
            {
                "encoder.center": (2, 16, 4, 6),
                "main.blocks.0": (2, 8, 8, 12),
                "main.blocks.1": (2, 4, 16, 24),
            },
        ),
        (
            DualBranchVNet,
            (8, 8, 16),
            {
                "encoder.blocks.2": (2, 16, 2, 2, 4),
                "main.blocks.0": (2, 8, 4, 4, 8),
                "main.blocks.1": (2, 4, 8, 8, 16),
            },
        ),
        (
            DualBranchDynUNet,
            (8, 8, 16),
            {
                "encoder.blocks.2": (2, 16, 2, 2, 4),
                "main.blocks.0": (2, 8, 4, 4, 8),
                "main.blocks.1": (2, 4, 8, 8, 16),
            },
        ),
    ],
)
def test_layers_of_the_networks(
    kind: type[nn.Module], size: tuple[int, ...], shapes: dict[str, tuple[int, ...]]
) -> None:
    """The names and channels that GLMI's configurations hold."""
    network = kind(spatial_dims=len(size), features=(4, 8, 16), branches=1, dropout=0.0)
    image = torch.randn(2, 1, *size)
    logits, features = forward_with_features(network, shapes, image, branch="main")
    assert {name: tuple(value.shape) for name, value in features.items()} == shapes
    # Nothing that comes later changes them in place.
    kept = {name: value.clone() for name, value in features.items()}
    logits.sum().backward()
    assert all(torch.equal(features[name], kept[name]) for name in shapes)


def test_message_names_the_blocks_of_a_network() -> None:
    network = DualBranchUNet(features=(4, 8), branches=1)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        forward_with_features(network, ["encoder.deepest"], torch.zeros(1, 1, 4, 4))
    assert str(caught.value).startswith(
        "DualBranchUNet has no module 'encoder.deepest'; it has, among others, encoder.blocks.0, "
    )


def test_inputs_are_what_the_modules_were_given() -> None:
    network, x = Small(), torch.randn(4, 2)
    output, inputs = forward_with_inputs(network, ["second", "first"], x)
    assert list(inputs) == ["second", "first"]
    assert inputs["first"] is x
    assert torch.equal(inputs["second"], torch.tanh(network.first(x)))
    assert torch.equal(output, network(x))
    assert hooks(network) == 0


@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        (DualBranchUNet, "head"),
        (DualBranchVNet, "head"),
        (DualBranchDynUNet, "head.conv.conv"),
    ],
)
def test_inputs_of_the_heads(kind: type[nn.Module], layer: str) -> None:
    """The last layer of every network is a 1×1 convolution of these features."""
    network = kind(spatial_dims=2, features=(4, 8, 16), dropout=0.0).eval()
    for branch in ("teacher", "student"):
        logits, inputs = forward_with_inputs(
            network, [f"{branch}.{layer}"], torch.randn(2, 1, 8, 16), branch=branch
        )
        features = inputs[f"{branch}.{layer}"]
        assert features.shape == (2, 4, 8, 16)
        head = network.get_submodule(f"{branch}.{layer}")
        expected = torch.einsum("cf,bfhw->bchw", head.weight[:, :, 0, 0], features)
        torch.testing.assert_close(logits, expected + head.bias[:, None, None])


def test_inputs_need_a_module_that_runs() -> None:
    with pytest.raises(ValueError, match=r"^module 'unused' ran 0 times in one pass of Small"):
        forward_with_inputs(Small(), ["unused"], torch.randn(1, 2))
