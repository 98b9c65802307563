"""GLMI with this package's networks: where gradients go, what is shared, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mixseg.engines import ForwardStep, NetworkSet
from mixseg.networks import DualBranchUNet, DualBranchVNet
from mixseg.objectives import GLMI

CLASSES = 3
UNET = {"encoder.center": 16, "main.blocks.0": 8, "main.blocks.1": 4}


def unet_step(**options: Any) -> tuple[ForwardStep, dict[str, dict[str, Tensor]]]:
    torch.manual_seed(0)
    network = DualBranchUNet(features=(4, 8, 16), out_channels=CLASSES, branches=1)
    objective = GLMI(**({"layers": UNET, "clusters": 4, "heads": 2} | options))
    groups = {
        "full": {
            "image": torch.randn(2, 1, 8, 8),
            "label": torch.randint(0, CLASSES + 1, (2, 1, 8, 8)),
        },
        "none": {"image": torch.randn(3, 1, 8, 8)},
    }
    return ForwardStep(NetworkSet(network, objective), objective).train(), groups


@pytest.mark.parametrize(
    ("term", "reached"),
    [
        ("ce_full", {"encoder", "decoder", "head"}),
        ("global", {"encoder", "global_head"}),
        ("local", {"encoder", "decoder", "local_heads"}),
        ("consistency", {"encoder", "decoder", "head"}),
    ],
)
def test_gradient_routing(term: str, reached: set[str]) -> None:
    step, groups = unet_step()
    step(groups)[term].backward()
    network = step.networks["network"]
    parts = {
        "encoder": network.encoder,
        "decoder": network.main.blocks,
        "head": network.main.head,
        "global_head": step.objective.global_head,
        "local_heads": step.objective.local_heads,
    }
    found = {
        name
        for name, part in parts.items()
        if any(p.grad is not None and bool(p.grad.any()) for p in part.parameters())
    }
    assert found == reached


def test_images_and_their_transforms_share_a_pass() -> None:
    step, groups = unet_step(max_angle=0.0, flip_probability=1.0)
    seen: list[Tensor] = []
    step.networks["network"].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    step(groups)
    image = groups["none"]["image"]
    assert [len(x) for x in seen] == [2, 6]
    assert torch.equal(seen[1], torch.cat([image, image.flip(2, 3)]))


def test_half_precision() -> None:
    step, groups = unet_step()
    with torch.autocast("cpu", torch.bfloat16):
        terms = step(groups)
    assert {term.dtype for term in terms.values()} == {torch.float32}
    sum(terms.values()).backward()
    for module in (step.networks["network"].encoder, step.objective):
        gradients = [p.grad for p in module.parameters()]
        assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)


def test_volumes() -> None:
    torch.manual_seed(0)
    network = DualBranchVNet(features=(2, 4, 8), out_channels=CLASSES, branches=1)
    layers = {"encoder.blocks.2": 8, "main.blocks.0": 4, "main.blocks.1": 2}
    objective = GLMI(layers=layers, clusters=3, heads=2, padding=(1, 1), spatial_dims=3)
    terms = objective({}, {"none": {"image": torch.randn(2, 1, 8, 12, 4)}}, {"network": network})
    assert set(terms) == {"global", "local", "consistency"}
    assert -np.log(3) / 2 <= terms["global"].item() <= 0
    assert -np.log(3) / 2 <= terms["local"].item() <= 0


def test_optimizer_gets_the_heads() -> None:
    objective = GLMI(layers=UNET, clusters=4, heads=2)
    networks = NetworkSet(DualBranchUNet(features=(4, 8, 16), branches=1), objective)
    trained = {id(p) for p in networks.trained_parameters()}
    assert {id(p) for p in objective.parameters()} < trained
    assert [name for name, _ in objective.named_parameters()] == [
        f"{head}.layer.{kind}"
        for head in ("global_head", "local_heads.0", "local_heads.1")
        for kind in ("weight", "bias")
    ]


LAYERS = {"a": 8, "b": 4, "c": 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambda_global": -1}, "lambda_global must not be negative, got -1"),
        ({"lambda_local": -1}, "lambda_local must not be negative, got -1"),
        ({"lambda_con": -1}, "lambda_con must not be negative, got -1"),
        (
            {"layers": {"a": 8}},
            "layers needs a global layer and at least one local one, got {'a': 8}",
        ),
        (
            {"importance": [1, 1]},
            "importance needs 3 entries for 3 layers, the first of them global, got [1, 1]",
        ),
        (
            {"padding": [1]},
            "padding needs 2 entries for 3 layers, the first of them global, got [1]",
        ),
        (
            {"importance": [0, 0, 0]},
            "importance must not be negative and not 0 altogether, got [0, 0, 0]",
        ),
        ({"padding": [1, -1]}, "padding must not be negative, got [1, -1]"),
        ({"max_angle": 200}, "max_angle must lie in [0, 180] degrees, got 200"),
        ({"flip_probability": 2}, "flip_probability must lie in [0, 1], got 2"),
        ({"clusters": 1}, "clusters must be at least 2, got 1"),
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        GLMI(**({"layers": LAYERS} | options))
    assert str(caught.value) == message


def test_layers_that_do_not_fit_the_network() -> None:
    step, groups = unet_step(layers={**UNET, "main.blocks.1": 5})
    with pytest.raises(ValueError, match=r"^expected features of shape \(B, 5, H, W\), got \(6, 4"):
        step(groups)
    wrong = {"encoder.middle": 16, "main.blocks.1": 4}
    step, groups = unet_step(layers=wrong, padding=[1], importance=[1, 1])
    with pytest.raises(ValueError, match=r"^DualBranchUNet has no module 'encoder\.middle'"):
        step(groups)


def test_parameters_of_table_8() -> None:
    """Table 8 counts the network; the heads are 100 · (1024 + 1 + 128 + 1 + 64 + 1) on top."""
    layers = {"encoder.center": 1024, "main.blocks.2": 128, "main.blocks.3": 64}
    with torch.device("meta"):
        objective = GLMI(layers=layers)
        networks = NetworkSet(DualBranchUNet(branches=1), objective)
    assert sum(p.numel() for p in networks.parameters()) == 31_042_434
    assert sum(p.numel() for p in objective.parameters()) == 121_900
