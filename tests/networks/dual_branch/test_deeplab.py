from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixseg.networks import DualBranchDeepLab

SMALL = {"encoder": "resnet18", "features": (4, 6, 8, 10)}
NORMS = ("batch", "instance", "group", "none")
BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}


def small(**arguments: Any) -> DualBranchDeepLab:
    return DualBranchDeepLab(**{**SMALL, **arguments})


def lively(net: nn.Module) -> nn.Module:
    """Normalizations with statistics, scales and shifts that are not 0 and 1."""
    for name, value in net.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif value.is_floating_point() and value.ndim == 1:
            value.normal_(1 if name.endswith("weight") else 0, 0.3)
    return net


# --- parameters


def conv(inputs: int, outputs: int, side: int) -> int:
    """Weights of a convolution without bias, and of the normalization behind it."""
    return inputs * outputs * side**2 + 2 * outputs


def resnet_parameters(encoder: str, channels: int) -> int:
    """He et al. (CVPR 2016), Table 1, without the classifier."""
    bottleneck = encoder == "resnet50"
    total, inputs = conv(channels, 64, 7), 64
    for planes, count in zip((64, 128, 256, 512), BLOCKS[encoder], strict=True):
        outputs = 4 * planes if bottleneck else planes
        for i in range(count):
            if bottleneck:
                total += conv(inputs, planes, 1) + conv(planes, planes, 3)
                total += conv(planes, outputs, 1)
            else:
                total += conv(inputs, planes, 3) + conv(planes, planes, 3)
            if i == 0 and inputs != outputs:
                total += conv(inputs, outputs, 1)
            inputs = outputs
    return total


def decoder_parameters(low: int, classes: int) -> int:
    head = 256 * classes + classes
    return conv(low, 48, 1) + conv(256 + 48, 256, 3) + conv(256, 256, 3) + head


def pyramid_parameters(inputs: int) -> int:
    return 2 * conv(inputs, 256, 1) + 3 * conv(inputs, 256, 3) + conv(5 * 256, 256, 1)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("encoder", "known"),
    # torchvision's 11,689,512, 21,797,672 and 25,557,032 less the classifiers of 1000 classes:
    # 512 · 1000 + 1000 twice, 2048 · 1000 + 1000.
    [("resnet18", 11_176_512), ("resnet34", 21_284_672), ("resnet50", 23_508_032)],
)
@pytest.mark.parametrize("output_stride", [16, 8])
def test_parameters(encoder: str, known: int, output_stride: int) -> None:
    deepest, low = (2048, 256) if encoder == "resnet50" else (512, 64)
    with torch.device("meta"):
        arguments = {"encoder": encoder, "output_stride": output_stride}
        single = DualBranchDeepLab(2, 3, 2, branches=1, **arguments)
        dual = DualBranchDeepLab(2, 3, 5, **arguments)
    assert resnet_parameters(encoder, 3) == known
    assert count(single.encoder.resnet) == known
    expected = known + pyramid_parameters(deepest)
    assert count(single) == expected + decoder_parameters(low, 2)
    assert count(dual) == expected + 2 * decoder_parameters(low, 5)
    if encoder == "resnet50":
        assert count(single) == 40_347_298  # the docstring's
        names = single.state_dict()
        assert names["main.head.weight"].shape == (2, 256, 1, 1)
        assert names["encoder.resnet.conv1.weight"].shape == (64, 3, 7, 7)


# --- by hand


def by_hand(net: DualBranchDeepLab, image: Tensor, branch: str) -> Tensor:
    """DeepLabv3+ with basic blocks in functions, in evaluation with batch normalization."""
    w = net.state_dict()

    def normed(x: Tensor, name: str) -> Tensor:
        return F.batch_norm(
            x, w[f"{name}.running_mean"], w[f"{name}.running_var"], w[f"{name}.weight"],
            w[f"{name}.bias"], training=False, eps=1e-5,
        )  # fmt: skip

    def block(x: Tensor, name: str, dilation: int = 1) -> Tensor:
        weight = w[f"{name}.conv.weight"]
        padding = dilation * (weight.shape[-1] // 2)
        return F.relu(
            normed(F.conv2d(x, weight, padding=padding, dilation=dilation), f"{name}.adn.N")
        )

    resnet = "encoder.resnet."
    x = F.conv2d(image, w[resnet + "conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(F.relu(normed(x, resnet + "bn1")), 3, stride=2, padding=1)
    maps = []
    # Stage 4 has dilation for stride: 1 where the stride was, then 2.
    for stage, stride in ((1, 1), (2, 2), (3, 2), (4, 1)):
        for i in (0, 1):
            name = f"{resnet}layer{stage}.{i}."
            step = stride if i == 0 else 1
            d1, d2 = ((1, 2) if i == 0 else (2, 2)) if stage == 4 else (1, 1)
            y = F.conv2d(x, w[name + "conv1.weight"], stride=step, padding=d1, dilation=d1)
            y = F.relu(normed(y, name + "bn1"))
            y = normed(F.conv2d(y, w[name + "conv2.weight"], padding=d2, dilation=d2), name + "bn2")
            if name + "downsample.0.weight" in w:
                x = F.conv2d(x, w[name + "downsample.0.weight"], stride=step)
                x = normed(x, name + "downsample.1")
            x = F.relu(y + x)
        maps.append(x)
    pyramid = [block(x, "encoder.aspp.branches.0")]
    pyramid += [block(x, f"encoder.aspp.branches.{i + 1}", r) for i, r in enumerate((6, 12, 18))]
    mean = block(F.adaptive_avg_pool2d(x, 1), "encoder.aspp.pooled")
    pyramid.append(F.interpolate(mean, size=x.shape[2:], mode="bilinear", align_corners=False))
    x = block(torch.cat(pyramid, 1), "encoder.aspp.project")
    low = block(maps[0], f"{branch}.low")
    x = F.interpolate(x, size=low.shape[2:], mode="bilinear", align_corners=False)
    x = block(block(torch.cat((x, low), 1), f"{branch}.blocks.0"), f"{branch}.blocks.1")
    x = F.conv2d(x, w[f"{branch}.head.weight"], w[f"{branch}.head.bias"])
    return F.interpolate(x, size=image.shape[2:], mode="bilinear", align_corners=False)


def test_equals_the_network_written_by_hand() -> None:
    torch.manual_seed(0)
    net = small(in_channels=3, out_channels=4).eval()
    lively(net)
    image = torch.randn(2, 3, 48, 64)
    teacher, student = net(image)
    for found, branch in ((teacher, "teacher"), (student, "student")):
        torch.testing.assert_close(found, by_hand(net, image, branch), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(teacher, student)


# --- a dual-branch network like the others


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("encoder", ["resnet18", "resnet50"])
@pytest.mark.parametrize(("dims", "output_stride"), [(2, 16), (2, 8), (3, 8)])
def test_shapes_and_gradients(dims: int, output_stride: int, encoder: str, norm: str) -> None:
    net = small(
        spatial_dims=dims,
        in_channels=2,
        out_channels=3,
        encoder=encoder,
        norm=norm,
        output_stride=output_stride,
        dropout=0.0,
    )
    assert net.size_divisor == output_stride
    size = (32, 48, 16)[:dims]
    image = torch.randn(2, 2, *size)
    teacher, student = net(image)
    for logits in (teacher, student, net(image, "student"), net(image, "ensemble")):
        assert logits.shape == (2, 3, *size)
    student.square().sum().backward()
    assert all(p.grad is None for p in net.teacher.parameters())
    for part in (net.student, net.encoder):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())
    assert net.encoder.resnet.conv1.weight.grad.any()
    if norm in ("batch", "group"):
        assert net.encoder.aspp.pooled.adn.N.weight.grad.any()


@pytest.mark.parametrize("norm", NORMS)
def test_one_by_one_equals_batched_in_evaluation(norm: str) -> None:
    net = lively(small(norm=norm, branch="student")).eval()
    images = torch.randn(3, 1, 32, 48)
    singly = torch.cat([net(image[None]) for image in images])
    torch.testing.assert_close(net(images), singly, rtol=1e-4, atol=1e-5)


def test_weights_of_training_fit_one_branch_strictly() -> None:
    dual = small().eval()
    image = torch.randn(1, 1, 32, 32)
    single = small(branches=1).eval()
    shared = {k: v for k, v in dual.state_dict().items() if not k.startswith("student.")}
    single.load_state_dict(shared, strict=True)
    assert torch.equal(single(image), dual(image, "teacher"))
    with pytest.raises(
        ValueError, match="branch must be main, the network's only one, got 'student'"
    ):
        single(image, "student")


def test_dropout_of_whole_channels_after_the_pyramid_and_before_the_head() -> None:
    net = small(features=(32, 32, 64, 64), dropout=0.5, branches=1)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for name, part in (("encoder", net.encoder), ("head", net.main)):
        part.dropout.register_forward_hook(lambda m, x, y, n=name: seen.update({n: (x[0], y)}))
    net(torch.randn(2, 1, 32, 32))
    for before, after in seen.values():
        dropped = (after == 0).flatten(2).all(2)
        assert 0.25 < dropped.float().mean() < 0.75
        assert torch.equal(after[~dropped], 2 * before[~dropped])


def test_first_weights() -> None:
    """He et al. (2015): by the outputs in the ResNet, by the inputs behind it."""
    net = DualBranchDeepLab(encoder="resnet18", features=(64, 64, 64, 64))
    weights = net.state_dict()
    fan_out = weights["encoder.resnet.layer2.0.conv2.weight"].std().item()
    assert fan_out == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    stem = weights["encoder.resnet.conv1.weight"].std().item()
    assert stem == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.05)
    fan_in = weights["teacher.blocks.0.conv.weight"].std().item()
    assert fan_in == pytest.approx((2 / ((64 + 48) * 9)) ** 0.5, rel=0.02)
    assert not torch.equal(weights["teacher.head.weight"], weights["student.head.weight"])


def test_trace_gives_the_student_alone() -> None:
    net = small(branch="student").eval()
    traced = torch.jit.trace(net, torch.randn(1, 1, 32, 32))
    other = torch.randn(2, 1, 48, 64)
    torch.testing.assert_close(traced(other), net(other))


@pytest.mark.slow
def test_onnx_of_the_student_takes_other_sizes(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net = small(branch="student").eval()
    torch.onnx.export(
        net,
        (torch.randn(2, 1, 32, 48),),
        tmp_path / "net.onnx",
        input_names=["image"],
        dynamic_shapes=[{0: "batch", 2: "height", 3: "width"}],
        dynamo=True,
        verbose=False,
    )
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    other = torch.randn(1, 1, 64, 32)
    (logits,) = session.run(None, {"image": other.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), net(other).detach(), rtol=1e-4, atol=1e-4)


# --- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": "vgg"}, "encoder must be one of resnet18, resnet34, resnet50, got 'vgg'"),
        ({"features": (4, 6, 8)}, "features needs four entries, one a stage of the ResNet"),
        ({"output_stride": 32}, "output_stride must be 16 or 8, got 32"),
        ({"out_channels": 1}, "out_channels must be at least 2 (background included), got 1"),
        ({"norm": "layer"}, "norm must be 'batch', 'instance', 'group' or 'none', got 'layer'"),
    ],
)
def test_options_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        small(**arguments)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 1, 24, 32), "every side must be a multiple of 16, got (24, 32)"),
        ((2, 3, 32, 32), "expected an image of shape (B, 1, H, W), got (2, 3, 32, 32)"),
        ((1, 1, 32, 32), "a batch of one image leaves norm='batch' one value a channel"),
    ],
)
def test_images_that_do_not_fit(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        small()(torch.zeros(shape))


def test_one_image_passes_in_evaluation_and_with_another_norm() -> None:
    image = torch.zeros(1, 1, 32, 32)
    assert small(branch="student").eval()(image).shape == (1, 2, 32, 32)
    for norm in ("instance", "group", "none"):
        assert small(branch="student", norm=norm)(image).shape == (1, 2, 32, 32)
