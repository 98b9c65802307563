from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mixseg.networks import DualBranchUNet

SMALL = (4, 8, 8)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize(("branches", "expected"), [(1, 31_042_434), (2, 41_137_220)])
def test_parameters_equal_table_8_of_the_journal(
    padded: bool, branches: int, expected: int
) -> None:
    assert count(DualBranchUNet(branches=branches, padded=padded)) == expected


def test_parameters_by_hand() -> None:
    """Features (2, 4, 8), C = 3, 2 input channels; a convolution has in·out·9 + out parameters."""

    def conv(i: int, o: int) -> int:
        return i * o * 9 + o

    def pair(i: int, o: int) -> int:  # with two batch norms of 2·o
        return conv(i, o) + conv(o, o) + 4 * o

    def up(i: int, o: int) -> int:
        return i * o * 4 + o

    encoder = pair(2, 2) + pair(2, 4) + pair(4, 8) + up(8, 4)
    decoder = pair(8, 4) + up(4, 2) + pair(4, 2) + (2 * 3 + 3)
    net = DualBranchUNet(in_channels=2, out_channels=3, features=(2, 4, 8))
    assert count(net) == encoder + 2 * decoder


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize(("dims", "channels", "classes"), [(2, 1, 2), (2, 3, 4), (3, 1, 3)])
def test_shapes(dims: int, channels: int, classes: int, padded: bool) -> None:
    net = DualBranchUNet(
        dims, in_channels=channels, out_channels=classes, features=SMALL, padded=padded
    )
    size = (48, 52, 56)[:dims]
    image = torch.randn(2, channels, *size)
    teacher, student = net(image)
    for logits in (teacher, student, net(image, "student"), net(image, "ensemble")):
        assert logits.shape == (2, classes, *size)


def test_released_network_has_68_by_68_logits_for_256_by_256() -> None:
    net = DualBranchUNet(features=(2, 2, 2, 2, 2), padded=False)
    x, skips = net.encoder(torch.zeros(1, 1, 256, 256))
    assert net.teacher(x, skips).shape[2:] == (68, 68)
    # Pooled skips: (256 - 4) / 2 = 126, (126 - 4) / 2 = 61, (61 - 4) // 2 = 28, (28 - 4) / 2 = 12
    assert [skip.shape[-1] for skip in skips] == [126, 61, 28, 12]


def test_branches_are_parts_of_both() -> None:
    net = DualBranchUNet(features=SMALL).eval()
    image = torch.randn(2, 1, 16, 16)
    teacher, student = net(image)
    assert not torch.allclose(teacher, student)
    torch.testing.assert_close(net(image, "teacher"), teacher)
    torch.testing.assert_close(net(image, "student"), student)
    mean = (F.softmax(teacher.double(), 1) + F.softmax(student.double(), 1)) / 2
    torch.testing.assert_close(F.softmax(net(image, "ensemble").double(), 1), mean)


@pytest.mark.parametrize("branch", ["teacher", "student"])
def test_one_branch_costs_what_a_single_branch_network_costs(branch: str) -> None:
    """Counted in multiply-adds of the convolutions that run, not in seconds."""
    image = torch.randn(1, 1, 16, 16)

    def cost(net: DualBranchUNet, **kwargs: str) -> int:
        total = 0

        def add(module: nn.Module, _: object, output: torch.Tensor) -> None:
            nonlocal total
            total += output.numel() * module.weight[0].numel()  # type: ignore[index,operator]

        hooks = [
            m.register_forward_hook(add)
            for m in net.modules()
            if isinstance(m, nn.modules.conv._ConvNd)
        ]
        net(image, **kwargs)
        for hook in hooks:
            hook.remove()
        return total

    single = cost(DualBranchUNet(features=SMALL, branches=1))
    dual = DualBranchUNet(features=SMALL)
    assert cost(dual, branch=branch) == single
    assert cost(dual, branch="both") > single


def test_weights_of_training_fit_inference_strictly() -> None:
    trained = DualBranchUNet(features=SMALL)
    served = DualBranchUNet(features=SMALL, branch="student")
    served.load_state_dict(trained.state_dict(), strict=True)
    image = torch.randn(1, 1, 8, 8)
    torch.testing.assert_close(served.eval()(image), trained.eval()(image)[1])


def test_losses_of_one_branch_leave_the_other_alone() -> None:
    net = DualBranchUNet(features=SMALL)
    net(torch.randn(2, 1, 8, 8))[1].sum().backward()
    assert all(p.grad is None for p in net.teacher.parameters())
    assert all(p.grad is not None for p in net.student.parameters())
    assert all(p.grad is not None for p in net.encoder.parameters())


def test_batched_equals_one_by_one_in_evaluation() -> None:
    net = DualBranchUNet(features=SMALL, branch="student").eval()
    images = torch.randn(3, 1, 16, 8)
    torch.testing.assert_close(net(images), torch.cat([net(image[None]) for image in images]))


def test_dropout_sits_at_the_end_of_the_encoder() -> None:
    """With the last level's features dropped entirely, its skip and the center see zeros."""
    torch.manual_seed(0)
    net = DualBranchUNet(features=SMALL, dropout=0.5)
    _, skips = net.encoder(torch.randn(64, 1, 16, 16))  # whole channels drop: many draws
    dropped = [(skip == 0).float().mean().item() for skip in skips]
    # ReLU alone leaves about half of normalized values; dropout of one half another quarter.
    assert 0.35 < dropped[0] < 0.65
    assert 0.65 < dropped[1] < 0.85
    net.eval()
    assert (net.encoder(torch.randn(1, 1, 16, 16))[1][1] == 0).float().mean() < 0.65


def test_trace_gives_the_student_alone() -> None:
    net = DualBranchUNet(features=SMALL, branch="student").eval()
    image = torch.randn(1, 1, 8, 8)
    traced = torch.jit.trace(net, image)
    other = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(traced(other), net(other))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"out_channels": 1}, "out_channels must be at least 2 (background included), got 1"),
        ({"features": (8,)}, "features needs two positive entries or more, got (8,)"),
        ({"dropout": 1.0}, "dropout must lie in [0, 1), got 1.0"),
        ({"norm": "group"}, "norm must be 'batch' or 'instance', got 'group'"),
        ({"branches": 3}, "branches must be 1 or 2, got 3"),
        ({"branch": "top"}, "branch must be one of both, teacher, student, ensemble, got 'top'"),
        ({"branches": 1, "branch": "student"}, "branch must be main, the network's only one"),
    ],
)
def test_options_out_of_range(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        DualBranchUNet(**{"features": SMALL, **arguments})


@pytest.mark.parametrize(
    ("padded", "shape", "message"),
    [
        (True, (1, 1, 18, 16), "every side must be a multiple of 4, got (18, 16)"),
        (True, (1, 2, 16, 16), "expected an image of shape (B, 1, H, W), got (1, 2, 16, 16)"),
        (True, (1, 1, 16, 16, 16), "expected an image of shape (B, 1, H, W)"),
        (False, (1, 1, 43, 60), "every side must be at least 44 with padded=False, got (43, 60)"),
    ],
)
def test_images_that_do_not_fit(padded: bool, shape: tuple[int, ...], message: str) -> None:
    net = DualBranchUNet(features=SMALL, padded=padded)
    with pytest.raises(ValueError, match=re.escape(message)):
        net(torch.zeros(shape))


@pytest.mark.parametrize("features", [(2, 2), (2, 2, 2), (2, 2, 2, 2)])
def test_minimum_size_is_the_smallest_that_works(features: tuple[int, ...]) -> None:
    net = DualBranchUNet(features=features, padded=False).eval()
    size = net.minimum_size
    assert net(torch.zeros(1, 1, size, size), "student").shape[-1] == size

    def unchecked(side: int) -> torch.Tensor:
        return net.teacher(*net.encoder(torch.zeros(1, 1, side, side)))

    assert min(unchecked(size).shape) >= 1
    with pytest.raises(RuntimeError, match=r"[Kk]ernel size can't be greater than actual input"):
        unchecked(size - 1)
