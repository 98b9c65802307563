"""The dilated ResNet and its weights from a file in torchvision's naming."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixseg.engines.network_set import fresh_copy
from mixseg.networks import DualBranchDeepLab
from mixseg.networks.dual_branch.resnet import RESNETS, DilatedResNet

FEATURES = (4, 6, 8, 10)


def deeplab(**arguments: Any) -> DualBranchDeepLab:
    defaults = {"in_channels": 3, "encoder": "resnet18", "features": FEATURES, "branches": 1}
    return DualBranchDeepLab(**(defaults | arguments))


def lively(net: nn.Module) -> nn.Module:
    """Normalizations with statistics, scales and shifts that are not 0 and 1."""
    for name, value in net.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif value.is_floating_point() and value.ndim == 1:
            value.normal_(1 if name.endswith("weight") else 0, 0.3)
    return net


@pytest.mark.parametrize("norm", ["batch", ""])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("encoder", ["resnet18", "resnet50"])
def test_dilation_computes_what_the_strides_did(encoder: str, dims: int, norm: str) -> None:
    """At every second (fourth) voxel: 'à trous' is the strided network without leaving out."""
    torch.manual_seed(0)
    strided = DilatedResNet(dims, 2, encoder, FEATURES, 32, norm)
    lively(strided).eval()
    image = torch.randn(1, 2, *(64, 32, 32)[:dims])
    expected = strided(image)
    expansion = 4 if encoder == "resnet50" else 1
    for i, stride in enumerate((4, 8, 16, 32)):
        assert expected[i].shape[1] == expansion * FEATURES[i]
        assert expected[i].shape[2:] == tuple(side // stride for side in image.shape[2:])
    for output_stride in (16, 8):
        net = DilatedResNet(dims, 2, encoder, FEATURES, output_stride, norm).eval()
        net.load_state_dict(strided.state_dict(), strict=True)
        for i, found in enumerate(net(image)):
            reached = min(output_stride, 4 * 2**i)
            assert found.shape[2:] == tuple(side // reached for side in image.shape[2:])
            step = 4 * 2**i // reached
            kept = found[(..., *[slice(None, None, step)] * dims)]
            torch.testing.assert_close(kept, expected[i], rtol=1e-4, atol=1e-5)


def torchvision_state(encoder: str = "resnet18", counted: bool = True) -> dict[str, Tensor]:
    """Made-up weights under torchvision's names, from its layout and not from this network."""
    generator = torch.Generator().manual_seed(3)
    state: dict[str, Tensor] = {}
    bottleneck = encoder == "resnet50"

    def layer(name: str, norm: str, inputs: int, outputs: int, side: int) -> None:
        state[f"{name}.weight"] = torch.randn(outputs, inputs, side, side, generator=generator)
        for key in ("weight", "bias", "running_mean", "running_var"):
            state[f"{norm}.{key}"] = torch.rand(outputs, generator=generator)
        if counted:
            state[f"{norm}.num_batches_tracked"] = torch.tensor(17)

    layer("conv1", "bn1", 3, FEATURES[0], 7)
    inputs = FEATURES[0]
    for stage, planes in enumerate(FEATURES, start=1):
        outputs = 4 * planes if bottleneck else planes
        for i in range(RESNETS[encoder][1][stage - 1]):
            name = f"layer{stage}.{i}"
            sides = (1, 3, 1) if bottleneck else (3, 3)
            widths = [inputs, planes, planes, outputs] if bottleneck else [inputs, planes, planes]
            for k, side in enumerate(sides, start=1):
                layer(f"{name}.conv{k}", f"{name}.bn{k}", widths[k - 1], widths[k], side)
            if i == 0 and (stage > 1 or bottleneck):
                layer(f"{name}.downsample.0", f"{name}.downsample.1", inputs, outputs, 1)
            inputs = outputs
    state["fc.weight"] = torch.rand(1000, inputs, generator=generator)
    state["fc.bias"] = torch.rand(1000, generator=generator)
    return state


def saved(folder: Path, state: Any) -> Path:
    path = folder / "weights.pth"
    torch.save(state, path)
    return path


def test_weights_in_torchvisions_naming(tmp_path: Path) -> None:
    state = torchvision_state("resnet50")
    net = deeplab(encoder="resnet50", encoder_weights=saved(tmp_path, state))
    found = net.encoder.resnet.state_dict()
    assert found.keys() == {key for key in state if not key.startswith("fc.")}
    assert all(torch.equal(value, state[key]) for key, value in found.items())


def test_gray_images_sum_the_first_filters_and_old_files_count_no_batches(tmp_path: Path) -> None:
    path = saved(tmp_path, torchvision_state(counted=False))
    color = deeplab(encoder_weights=path).eval()
    gray = deeplab(in_channels=1, encoder_weights=path).eval()
    image = torch.rand(1, 1, 32, 32)
    expected = color.encoder.resnet.conv1(image.expand(-1, 3, -1, -1))
    torch.testing.assert_close(gray.encoder.resnet.conv1(image), expected, rtol=1e-4, atol=1e-4)
    assert color.encoder.resnet.bn1.num_batches_tracked == 0


def test_a_peer_has_the_files_encoder_and_another_decoder(tmp_path: Path) -> None:
    path = saved(tmp_path, torchvision_state())
    net = deeplab(encoder_weights=path)
    nn.init.zeros_(net.encoder.resnet.bn1.running_mean)
    peer = fresh_copy(net)
    for key, value in peer.encoder.resnet.state_dict().items():
        assert torch.equal(value, torchvision_state()[key])
    for part in ("encoder.aspp.project.conv", "main.blocks.1.conv", "main.head"):
        ours, theirs = (n.get_submodule(part).weight for n in (net, peer))
        assert not torch.allclose(ours, theirs, rtol=0.1)


def test_a_peer_without_a_file_is_drawn_whole() -> None:
    net = deeplab()
    ours, theirs = (n.encoder.resnet.conv1.weight for n in (net, fresh_copy(net)))
    assert not torch.allclose(ours, theirs, rtol=0.1)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({"layer1.0.conv1.weight": None}, {}, "layer1.0.conv1.weight is missing"),
        ({"layer9.bias": torch.zeros(1)}, {}, "layer9.bias is unknown"),
        (
            {"layer2.0.bn1.bias": torch.zeros(7)},
            {},
            "layer2.0.bn1.bias has shape (7,) for (6,)",
        ),
        (
            {},
            {"features": (8, 16, 32, 64)},
            "conv1.weight has shape (4, 3, 7, 7) for (8, 3, 7, 7)",
        ),
        ({}, {"encoder": "resnet34"}, "layer1.2.conv1.weight is missing"),
        ({}, {"in_channels": 2}, "in_channels must be 3 or, for gray images, 1, got 2"),
        ({}, {"norm": "group"}, "encoder_weights are of a network with spatial_dims=2 and norm"),
        ({}, {"spatial_dims": 3}, "spatial_dims=3 and norm='batch'"),
        ({"epoch": 3}, {}, "is not a state dict (name → tensor)"),
    ],
)
def test_weights_that_do_not_fit(
    tmp_path: Path, change: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    state = {k: v for k, v in (torchvision_state() | change).items() if v is not None}
    with pytest.raises(ValueError, match=re.escape(message)):
        deeplab(encoder_weights=saved(tmp_path, state), **arguments)


def test_a_file_that_is_missing_or_no_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    with pytest.raises(ValueError, match=r"^encoder_weights: there is no file .*weights.pth$"):
        deeplab(encoder_weights=path)
    path.write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"^encoder_weights: .*weights.pth is not a PyTorch state"):
        deeplab(encoder_weights=path)
    torch.save(deeplab(), path)  # a whole module, which weights_only refuses
    with pytest.raises(ValueError, match=r"^encoder_weights: .*weights.pth is not a PyTorch state"):
        deeplab(encoder_weights=path)
