"""The network with mean and variance heads: its parts, its size, its exports."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from monai.networks.utils import convert_to_onnx, convert_to_torchscript
from torch import nn

from mixseg.engines.network_set import fresh_copy
from mixseg.networks import (
    DualBranchDynUNet,
    DualBranchNetwork,
    DualBranchUNet,
    DualBranchVNet,
    ExportedNetwork,
    MeanVarianceNetwork,
)
from mixseg.networks.exported import max_difference, onnx_options

C = 3
LAYERS = ("encoder.blocks.0", "encoder.blocks.1", "encoder.center")


def build(dims: int = 2, **options: Any) -> MeanVarianceNetwork:
    torch.manual_seed(0)
    backbone = DualBranchUNet(dims, out_channels=2 * C, features=(4, 6, 8), branches=1)
    given = {"encoder_layers": LAYERS, "class_layer": "encoder.center", "class_channels": 8}
    return MeanVarianceNetwork(backbone, C, **(given | options))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_of_the_heads_by_hand() -> None:
    """A 1×1 output more for each class, and 2C (F + 1) of the image's head."""
    with torch.device("meta"):
        plain = DualBranchUNet(out_channels=C, branches=1)
        network = MeanVarianceNetwork(
            DualBranchUNet(out_channels=2 * C, branches=1), C, ["encoder.blocks.0"],
            "encoder.center", 1024,
        )  # fmt: skip
    extra = C * (64 + 1) + 2 * C * (1024 + 1)
    assert count(network) - count(plain) == extra == 6_345


@pytest.mark.parametrize("dims", [2, 3])
def test_heads_are_the_backbones_outputs(dims: int) -> None:
    network = build(dims).eval()
    image = torch.randn(2, 1, *(8, 12, 16)[:dims])
    mean, log_variance, class_mean, class_log_variance, *features = network(image, branch="heads")
    raw = network.backbone(image, branch="main")
    assert torch.equal(mean, raw[:, :C])
    torch.testing.assert_close(log_variance, 5 * torch.tanh(raw[:, C:] / 5))
    assert torch.equal(network(image), mean)
    assert torch.equal(network(image, branch="main"), mean)
    sides = [(8, 12, 16)[:dims], (4, 6, 8)[:dims], (2, 3, 4)[:dims]]
    shapes = [(2, f, *s) for f, s in zip((4, 6, 8), sides, strict=True)]
    assert [tuple(e.shape) for e in features] == shapes
    first = network.backbone.encoder.get_submodule("blocks.0")(image)
    assert torch.equal(features[0], first)
    pooled = features[2].flatten(2).sum(dim=2) / features[2][0, 0].numel()
    scores = pooled @ network.class_head.weight.T + network.class_head.bias
    torch.testing.assert_close(class_mean, scores[:, :C])
    torch.testing.assert_close(class_log_variance, 5 * torch.tanh(scores[:, C:] / 5))


def test_the_image_head_is_the_mean_over_voxels() -> None:
    network = build()
    nn.init.ones_(network.class_head.weight)
    nn.init.zeros_(network.class_head.bias)
    seen: list[torch.Tensor] = []
    network.backbone.encoder.get_submodule("center").register_forward_hook(
        lambda *call: seen.append(call[2])
    )
    class_mean = network(torch.randn(2, 1, 8, 8), branch="heads")[2]
    expected = seen[0].sum(dim=(1, 2, 3)) / 4  # over 2×2 voxels, summed over channels
    torch.testing.assert_close(class_mean, expected[:, None].expand(2, C))


def test_variances_are_bounded_and_keep_a_gradient() -> None:
    network = build(log_variance_limit=4.0).eval()
    with torch.no_grad():
        network.class_head.bias.fill_(12.0)
    value = network(torch.zeros(1, 1, 8, 8), branch="heads")[3]
    assert (value < 4).all()
    assert (value > 3.9).all()
    value.sum().backward()
    grad = network.class_head.bias.grad
    assert grad is not None
    assert (grad[C:] > 0).all()
    assert not grad[:C].any()


def test_refined_probabilities_are_products() -> None:
    plain, refined = build().eval(), build(refine=True).eval()
    refined.load_state_dict(plain.state_dict(), strict=True)
    image = torch.randn(2, 1, 8, 8)
    mean, _, class_mean, *_ = plain(image, branch="heads")
    product = F.softmax(mean.double(), 1) * F.softmax(class_mean.double(), 1)[..., None, None]
    expected = product / product.sum(dim=1, keepdim=True)
    torch.testing.assert_close(F.softmax(refined(image).double(), 1), expected, rtol=1e-5, atol=0)
    assert not torch.allclose(refined(image), plain(image))
    for one, other in zip(refined(image, "heads"), plain(image, "heads"), strict=True):
        assert torch.equal(one, other)


@torch.no_grad()
@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("kind", ["ts", pytest.param("onnx", marks=pytest.mark.slow)])
def test_exports_compute_the_logits_at_other_sizes(kind: str, refine: bool, tmp_path: Path) -> None:
    network = build(refine=refine).eval()
    example = [torch.rand(2, 1, 8, 12)]
    path = tmp_path / f"model.{kind}"
    if kind == "ts":
        torch.jit.save(convert_to_torchscript(network, inputs=example, use_trace=True), str(path))
    else:
        onnx = pytest.importorskip("onnx")
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")
        onnx.save(convert_to_onnx(network, example, use_trace=True, **onnx_options(2)), str(path))
    shapes = [(2, 1, 8, 12), (3, 1, 16, 8), (1, 1, 28, 20)]
    difference, flipped, _ = max_difference(network, ExportedNetwork(path), shapes)
    assert difference < 1e-4
    assert flipped == 0
    assert not any(m._forward_hooks for m in network.modules())


@pytest.mark.parametrize("make", [DualBranchVNet, DualBranchDynUNet])
def test_other_backbones(make: type[DualBranchNetwork]) -> None:
    backbone = make(out_channels=2 * C, features=(4, 8, 8), branches=1)
    network = MeanVarianceNetwork(
        backbone, C, ["encoder.blocks.0", "encoder.blocks.1"], "encoder.blocks.2", 8
    )
    parts = network(torch.randn(1, 1, 8, 12, 8), branch="heads")
    assert [tuple(p.shape) for p in parts] == [
        (1, C, 8, 12, 8), (1, C, 8, 12, 8), (1, C), (1, C), (1, 4, 8, 12, 8), (1, 8, 4, 6, 4),
    ]  # fmt: skip
    assert network.size_divisor == backbone.size_divisor


def test_what_a_network_is_asked_for() -> None:
    network = build(3)
    found = network.spatial_dims, network.in_channels, network.out_channels, network.branches
    assert found == (3, 1, C, 1)
    assert (network.size_divisor, network.padded) == (4, True)
    backbone = DualBranchUNet(out_channels=4, features=(2, 4), branches=1, padded=False)
    unpadded = MeanVarianceNetwork(backbone, 2, ["encoder.center"], "encoder.center", 4)
    assert not unpadded.padded
    assert unpadded.minimum_size == backbone.minimum_size > 1
    image = torch.zeros(1, 1, backbone.minimum_size, backbone.minimum_size)
    assert unpadded.eval()(image).shape == (1, 2, *image.shape[2:])
    # The engine takes the memory format from the first weight's rank.
    assert next(network.parameters()).ndim == 5


def test_copies_and_peers() -> None:
    network = build().eval()
    image = torch.randn(1, 1, 8, 8)
    before = network(image, branch="heads")
    copied = copy.deepcopy(network)
    peer = fresh_copy(network)
    assert peer.state_dict().keys() == network.state_dict().keys()
    for name in ("class_head.weight", "backbone.main.head.weight"):
        assert not torch.equal(peer.get_parameter(name), network.get_parameter(name))
    nn.init.zeros_(network.class_head.weight)
    assert torch.equal(copied(image, branch="heads")[2], before[2])
    copied.load_state_dict(peer.state_dict(), strict=True)
    assert torch.equal(copied(image), peer.eval()(image))


def test_batched_equals_one_by_one_in_evaluation() -> None:
    network = build().eval()
    images = torch.randn(3, 1, 8, 12)
    single = [network(image[None], branch="heads") for image in images]
    for i, part in enumerate(network(images, branch="heads")):
        torch.testing.assert_close(
            part, torch.cat([one[i] for one in single]), rtol=1e-4, atol=1e-5
        )


def test_bfloat16_trains() -> None:
    network = build()
    with torch.autocast("cpu", torch.bfloat16):
        parts = network(torch.randn(2, 1, 8, 8), branch="heads")
        assert parts[0].dtype == torch.bfloat16
    sum(part.float().square().sum() for part in parts).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"branch": "student"}, "branch must be one of main, heads, got 'student'"),
        ({"encoder_layers": []}, "encoder_layers must name at least one module"),
        ({"encoder_layers": ["encoder.top"]}, "DualBranchUNet has no module 'encoder.top'"),
        ({"class_layer": "end"}, "DualBranchUNet has no module 'end'"),
        ({"class_channels": 0}, "class_channels must be at least 1, got 0"),
        ({"log_variance_limit": 0.0}, "log_variance_limit must be positive, got 0.0"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build(**options)


def test_backbones_that_do_not_fit() -> None:
    for branches, channels in ((1, 3), (2, 6)):
        backbone = DualBranchUNet(out_channels=channels, features=(2, 4), branches=branches)
        message = (
            "the backbone needs branches=1 and out_channels=6, a mean and a log-variance of 3 "
            f"classes, got branches={branches} and out_channels={channels}"
        )
        with pytest.raises(ValueError, match=re.escape(message)):
            MeanVarianceNetwork(backbone, 3, ["encoder.center"], "encoder.center", 4)
    with pytest.raises(ValueError, match=re.escape("num_classes must be at least 2")):
        MeanVarianceNetwork(backbone, 1, ["encoder.center"], "encoder.center", 4)


def test_calls_that_do_not_fit() -> None:
    image = torch.zeros(1, 1, 8, 8)
    with pytest.raises(ValueError, match="branch must be one of main, heads, got 'both'"):
        build()(image, branch="both")
    message = "class_layer 'encoder.center' has 8 channels, class_channels is 5"
    with pytest.raises(ValueError, match=re.escape(message)):
        build(class_channels=5)(image, branch="heads")
    with pytest.raises(ValueError, match="every side must be a multiple of 4"):
        build()(torch.zeros(1, 1, 10, 8))
