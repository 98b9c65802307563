"""What the 3D networks promise alike; U-Net's own tests hold the same for it."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mixseg.networks import DualBranchDynUNet, DualBranchNetwork, DualBranchUNet, DualBranchVNet

SMALL = (4, 8, 8)
every_network = pytest.mark.parametrize(
    "network", [DualBranchUNet, DualBranchVNet, DualBranchDynUNet]
)
both_networks = pytest.mark.parametrize("network", [DualBranchVNet, DualBranchDynUNet])
NORMS = ("batch", "instance", "group", "none")


@both_networks
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("dims", "channels", "classes"), [(2, 3, 4), (3, 1, 2), (3, 2, 3)])
def test_shapes(
    network: type[DualBranchNetwork], dims: int, channels: int, classes: int, norm: str
) -> None:
    net = network(
        spatial_dims=dims,
        in_channels=channels,
        out_channels=classes,
        features=SMALL,
        dropout=0.5,
        norm=norm,
    )
    size = (8, 12, 4)[:dims]
    image = torch.randn(2, channels, *size)
    teacher, student = net(image)
    for logits in (teacher, student, net(image, "student"), net(image, "ensemble")):
        assert logits.shape == (2, classes, *size)


@both_networks
def test_branches_are_parts_of_both(network: type[DualBranchNetwork]) -> None:
    net = network(features=SMALL).eval()
    image = torch.randn(2, 1, 8, 8, 8)
    teacher, student = net(image)
    assert not torch.allclose(teacher, student)
    assert torch.equal(net(image, "teacher"), teacher)
    assert torch.equal(net(image, "student"), student)
    mean = (F.softmax(teacher.double(), 1) + F.softmax(student.double(), 1)) / 2
    torch.testing.assert_close(
        F.softmax(net(image, "ensemble").double(), 1), mean, rtol=1e-6, atol=1e-6
    )


@both_networks
@pytest.mark.parametrize("branch", ["teacher", "student"])
def test_one_branch_costs_what_a_single_branch_network_costs(
    network: type[DualBranchNetwork], branch: str
) -> None:
    """Counted in multiply-adds of the convolutions that run, not in seconds."""
    image = torch.randn(1, 1, 8, 8, 8)

    def cost(net: DualBranchNetwork, branch: str | None = None) -> int:
        total = 0

        def add(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            nonlocal total
            # Every value of the smaller map meets every weight of one of its channels.
            transposed = isinstance(module, nn.ConvTranspose3d)
            values = inputs[0] if transposed else output
            total += values.numel() * module.weight[0].numel()  # type: ignore[index,operator]

        hooks = [
            m.register_forward_hook(add)
            for m in net.modules()
            if isinstance(m, nn.modules.conv._ConvNd)
        ]
        net(image, branch)
        for hook in hooks:
            hook.remove()
        return total

    single = cost(network(features=SMALL, branches=1).eval())
    dual = network(features=SMALL).eval()
    assert cost(dual, branch) == single
    assert single < cost(dual, "both") < 2 * single
    assert cost(dual, "both") == cost(dual, "ensemble")


@both_networks
def test_weights_of_training_fit_inference_strictly(network: type[DualBranchNetwork]) -> None:
    trained = network(features=SMALL)
    image = torch.randn(1, 1, 8, 8, 8)
    trained(image)  # moves the running statistics, where there are some
    for branch in ("teacher", "student", "ensemble"):
        served = network(features=SMALL, branch=branch)
        served.load_state_dict(trained.state_dict(), strict=True)
        assert torch.equal(served.eval()(image), trained.eval()(image, branch))


@both_networks
def test_weights_of_one_branch_are_a_part_of_those_of_two(
    network: type[DualBranchNetwork],
) -> None:
    dual = network(features=SMALL).eval()
    single = network(features=SMALL, branches=1).eval()
    shared = {k: v for k, v in dual.state_dict().items() if not k.startswith("student.")}
    single.load_state_dict(shared, strict=True)
    image = torch.randn(1, 1, 8, 8, 8)
    assert torch.equal(single(image), dual(image, "teacher"))
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "student\.'):
        single.load_state_dict(dual.state_dict(), strict=True)


@every_network
def test_weights_of_before_the_only_branch_was_called_main(
    network: type[DualBranchNetwork],
) -> None:
    """They are loaded as they were written, by the network itself and inside another module."""
    torch.manual_seed(0)
    arguments = {"spatial_dims": 2, "features": SMALL, "branches": 1}
    trained, found, held = (network(**arguments).eval() for _ in range(3))
    state = trained.state_dict()
    assert {name.partition(".")[0] for name in state} == {"encoder", "main"}
    old = {re.sub("^main", "teacher", name): value for name, value in state.items()}
    names = list(old)
    image = torch.randn(2, 1, 16, 16)
    assert not torch.equal(found(image), trained(image))
    found.load_state_dict(old, strict=True)
    assert torch.equal(found(image), trained(image))
    assert list(old) == names  # what was read is left as it is
    outer = nn.ModuleDict({"network": held})
    outer.load_state_dict({f"network.{name}": value for name, value in old.items()}, strict=True)
    assert torch.equal(held(image), trained(image))
    # Two branches are what they were.
    dual = network(**arguments | {"branches": 2})
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "main\.'):
        dual.load_state_dict(state, strict=True)


@both_networks
@pytest.mark.parametrize(
    ("index", "own", "other"), [(0, "teacher", "student"), (1, "student", "teacher")]
)
def test_losses_of_one_branch_leave_the_other_alone(
    network: type[DualBranchNetwork], index: int, own: str, other: str
) -> None:
    net = network(features=SMALL, norm="batch")
    net(torch.randn(2, 1, 8, 8, 8))[index].square().sum().backward()
    assert all(p.grad is None for p in getattr(net, other).parameters())
    for part in (getattr(net, own), net.encoder):
        assert all(p.grad is not None and p.grad.isfinite().all() for p in part.parameters())
    assert net.encoder.blocks[0].get_parameter(first_weight(net)).grad.abs().sum() > 0


def first_weight(net: DualBranchNetwork) -> str:
    return next(name for name, _ in net.encoder.blocks[0].named_parameters())


@both_networks
@pytest.mark.parametrize("norm", NORMS)
def test_batched_equals_one_by_one_in_evaluation(
    network: type[DualBranchNetwork], norm: str
) -> None:
    net = network(features=SMALL, norm=norm, branch="student").eval()
    images = torch.randn(3, 1, 8, 12, 8)
    single = torch.cat([net(image[None]) for image in images])
    torch.testing.assert_close(net(images), single, rtol=1e-4, atol=1e-5)


@both_networks
def test_dropout_acts_in_training_alone(network: type[DualBranchNetwork]) -> None:
    image = torch.randn(1, 1, 8, 8, 8)
    net = network(features=SMALL, dropout=0.5, norm="none", branch="student")
    assert not torch.equal(net(image), net(image))
    net.eval()
    assert torch.equal(net(image), net(image))
    kept = network(features=SMALL, dropout=0.0, norm="none", branch="student")
    kept.load_state_dict(net.state_dict(), strict=True)
    assert torch.equal(kept(image), net(image))


@both_networks
def test_both_branches_see_the_same_dropped_bottleneck_and_drop_apart_at_the_head(
    network: type[DualBranchNetwork],
) -> None:
    """Inverted dropout of whole channels: 0 or, at one half, twice what it was."""
    wide = (32, 32, 64)
    net = network(features=wide, dropout=0.5, norm="batch")
    plain = network(features=wide, dropout=0.0, norm="batch")
    plain.load_state_dict(net.state_dict(), strict=True)
    image = torch.randn(2, 1, 8, 8, 8)
    torch.manual_seed(0)
    deepest, skips = net.encoder(image)
    undropped, same_skips = plain.encoder(image)
    assert_dropped_by_halves(deepest, undropped)
    assert all(torch.equal(a, b) for a, b in zip(skips, same_skips, strict=True))

    seen: dict[str, list[torch.Tensor]] = {"deepest": [], "heads": []}
    net.encoder.register_forward_hook(lambda *a: seen["deepest"].append(a[2][0]))
    for decoder in (net.teacher, net.student):
        decoder.dropout.register_forward_hook(lambda *a: assert_dropped_by_halves(a[2], a[1][0]))
        decoder.head.register_forward_pre_hook(lambda *a: seen["heads"].append(a[1][0]))
    net(image, "both")
    assert len(seen["deepest"]) == 1  # one pass of the encoder, hence one draw
    teacher, student = (gone(x) for x in seen["heads"])
    assert not torch.equal(teacher, student)


def gone(features: torch.Tensor) -> torch.Tensor:
    return (features == 0).flatten(2).all(dim=2)


def assert_dropped_by_halves(after: torch.Tensor, before: torch.Tensor) -> None:
    dropped = gone(after)
    assert 0.25 < dropped.float().mean() < 0.75
    assert torch.equal(after[~dropped], 2 * before[~dropped])


@both_networks
def test_trace_gives_the_student_alone(network: type[DualBranchNetwork]) -> None:
    net = network(features=SMALL, branch="student").eval()
    traced = torch.jit.trace(net, torch.randn(1, 1, 8, 8, 8))
    other = torch.randn(2, 1, 16, 12, 8)
    torch.testing.assert_close(traced(other), net(other))


@both_networks
def test_onnx_of_the_student_takes_other_sizes(
    network: type[DualBranchNetwork], tmp_path: Path
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net = network(features=SMALL, branch="student").eval()
    axes = {0: "batch", 2: "height", 3: "width", 4: "depth"}
    torch.onnx.export(
        net,
        (torch.randn(2, 1, 8, 12, 16),),
        tmp_path / "net.onnx",
        input_names=["image"],
        dynamic_shapes=[axes],
        dynamo=True,
        verbose=False,
    )
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    other = torch.randn(1, 1, 16, 8, 12)
    (logits,) = session.run(None, {"image": other.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), net(other).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("network", [DualBranchVNet, DualBranchDynUNet, DualBranchUNet])
def test_channels_last_gives_the_same(network: type[DualBranchNetwork]) -> None:
    net = network(spatial_dims=3, features=SMALL).eval()
    image = torch.randn(2, 2, 8, 8, 12)[:, :1]
    expected = net(image)
    net.to(memory_format=torch.channels_last_3d)
    found = net(image.to(memory_format=torch.channels_last_3d))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@both_networks
@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
def test_bfloat16_stays_near_float32_and_trains(
    network: type[DualBranchNetwork], norm: str
) -> None:
    """bfloat16 has 8 bits, so a value is off by up to 1/256 a layer; logits here are about 1."""
    torch.manual_seed(0)
    net = network(features=SMALL, dropout=0.0, norm=norm)
    image = torch.randn(2, 1, 8, 8, 8)
    expected = net(image)
    with torch.autocast("cpu", torch.bfloat16):
        found = net(image)
        ensemble = net(image, "ensemble")
        assert found[0].dtype == torch.bfloat16
        loss = sum(F.cross_entropy(logits, torch.zeros(2, 8, 8, 8).long()) for logits in found)
    for a, b in zip(found, expected, strict=True):
        assert (a.float() - b).abs().mean() < 0.03 * b.abs().mean().clamp(min=1)
    torch.testing.assert_close(
        ensemble.float().exp().sum(1), torch.ones(2, 8, 8, 8), rtol=0, atol=0.02
    )
    loss.backward()
    assert all(p.grad.dtype == torch.float32 for p in net.parameters())
    assert all(p.grad.isfinite().all() for p in net.parameters())


@both_networks
def test_a_copy_is_independent(network: type[DualBranchNetwork]) -> None:
    """As a moving average of the weights makes it."""
    net = network(features=SMALL, branch="student").eval()
    image = torch.randn(1, 1, 8, 8, 8)
    before = net(image)
    other = copy.deepcopy(net)
    nn.init.zeros_(net.student.head.get_parameter(next(iter(net.student.head.state_dict()))))
    assert torch.equal(other(image), before)
    assert not torch.equal(net(image), before)


@both_networks
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 18, 16, 16), "every side must be a multiple of 4, got (18, 16, 16)"),
        ((1, 1, 16, 16, 0), "every side must be a multiple of 4, got (16, 16, 0)"),
        ((1, 2, 16, 16, 16), "expected an image of shape (B, 1, H, W, D), got (1, 2, 16, 16, 16)"),
        ((1, 1, 16, 16), "expected an image of shape (B, 1, H, W, D), got (1, 1, 16, 16)"),
        ((1, 16, 16, 16), "expected an image of shape (B, 1, H, W, D), got (1, 16, 16, 16)"),
    ],
)
def test_images_that_do_not_fit(
    network: type[DualBranchNetwork], shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        network(features=SMALL)(torch.zeros(shape))


@both_networks
def test_one_value_a_channel_cannot_be_normalized(network: type[DualBranchNetwork]) -> None:
    message = (
        "an image of (4, 4, 4) leaves norm={!r} one value a channel to normalize at the deepest "
        "level; one side must be at least twice that"
    )
    image = torch.randn(1, 1, 4, 4, 4)
    for mode in (True, False):
        with pytest.raises(ValueError, match=re.escape(message.format("instance"))):
            network(features=SMALL, norm="instance").train(mode)(image)
    net = network(features=SMALL, norm="batch", branch="student")
    with pytest.raises(ValueError, match=re.escape(message.format("batch"))):
        net(image)
    assert net.eval()(image).shape == (1, 2, 4, 4, 4)
    assert net.train()(image.expand(2, -1, -1, -1, -1)).shape == (2, 2, 4, 4, 4)
    net = network(features=SMALL, norm="instance", branch="student")
    assert net(torch.randn(1, 1, 4, 8, 4)).shape == (1, 2, 4, 8, 4)


@both_networks
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"out_channels": 1}, "out_channels must be at least 2 (background included), got 1"),
        ({"features": (8, 0, 8)}, "positive entries or more, got (8, 0, 8)"),
        ({"dropout": 1.0}, "dropout must lie in [0, 1), got 1.0"),
        ({"norm": "layer"}, "norm must be 'batch', 'instance', 'group' or 'none', got 'layer'"),
        ({"branches": 3}, "branches must be 1 or 2, got 3"),
        ({"branch": "top"}, "branch must be one of both, teacher, student, ensemble, got 'top'"),
        ({"branches": 1, "branch": "student"}, "branch must be main, the network's only one"),
    ],
)
def test_options_out_of_range(
    network: type[DualBranchNetwork], arguments: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        network(**{"features": SMALL, **arguments})


@both_networks
def test_a_branch_that_was_not_built_is_refused_in_forward(
    network: type[DualBranchNetwork],
) -> None:
    net = network(features=SMALL, branches=1)
    image = torch.zeros(1, 1, 8, 8, 8)
    assert net(image).shape == (1, 2, 8, 8, 8)
    for branch in ("both", "teacher", "student", "ensemble"):
        with pytest.raises(
            ValueError, match=f"branch must be main, the network's only one, got '{branch}'"
        ):
            net(image, branch)
