"""The bundles of ACDC with the recipe's network and loss: what an overlay sets, and that it trains.

The network is a DynUNet of 16 to 128 channels with instance normalization.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from torch import Tensor

from mixseg.engines import ForwardStep
from mixseg.losses import image_cross_entropy, last_layer_gradients
from mixseg.networks.features import forward_with_inputs

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
FEATURES = [16, 32, 64, 128, 128]


def dynunet(branches: int, out_channels: str = "@num_classes") -> dict[str, Any]:
    return {
        "_target_": "mixseg.networks.DualBranchDynUNet",
        "spatial_dims": 2,
        "in_channels": "@in_channels",
        "out_channels": out_channels,
        "features": "@features",
        "dropout": "@dropout",
        "norm": "@norm",
        "res_block": False,
        "branches": branches,
    }


#: Of every bundle.
COMMON = {
    "features": FEATURES,
    "dropout": 0.2,
    "norm": "instance",
    "objective#supervised_loss": "dice_cross_entropy",
}
#: Of each bundle beside it.
OVERLAYS: dict[str, dict[str, Any]] = {
    "acdc_lv_confkd": {"network_def": dynunet(2)},
    "acdc_lv_uamt": {"network_def": dynunet(1)},
    "acdc_lv_glmi": {
        "network_def": dynunet(1),
        "layers": ["encoder.blocks.4", "main.blocks.2", "main.blocks.3"],
        "heads": 2,
    },
    "acdc_lv_ssco": {"network_def": dynunet(1)},
    "acdc_lv_entropy_minimization": {
        "network_def#backbone": dynunet(1, "$2 * @num_classes"),
        "encoder_layers": [f"encoder.blocks.{i}" for i in range(5)],
        "class_layer": "encoder.blocks.4",
    },
    "acdc_lv_adversarial": {"network_def": dynunet(1)},
    "acdc_lv_multitask": {
        "network_def": dynunet(1),
        "reconstructor": dynunet(1, "$@num_classes * @in_channels"),
        "training_mode": "joint",
    },
    "acdc_lv_s4gan": {"network_def": dynunet(1), "threshold": 0.0},
    "acdc_lv_dcr": {"network_def": dynunet(1), "feature_layer": "main.head.conv.conv"},
}


def parsed(name: str, **overrides: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(BUNDLES / name / "configs" / "train.yaml"))
    parser.update({"device": "cpu", **COMMON, **OVERLAYS[name], **overrides})
    return parser


def make_groups() -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    groups = {}
    for kind in ("full", "partial", "none", "primary", "auxiliary"):
        groups[kind] = {
            "image": torch.randn(2, 1, 32, 32, generator=generator),
            "label": torch.randint(0, 3, (2, 1, 32, 32), generator=generator),
            "index": torch.arange(2),
        }
    return groups


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_step_reaches_every_part_that_is_trained(name: str) -> None:
    data = {"objective#supervision": ["full", "noisy"]} if name.endswith("_dcr") else {}
    small = {"students": 2} if name.endswith("_ssco") else {}
    parser = parsed(name, **data, **small)
    torch.manual_seed(0)
    networks = parser.get_parsed_content("networks")
    objective = parser.get_parsed_content("objective")
    assert objective.supervised_loss == "dice_cross_entropy"
    step = ForwardStep(networks, objective).train()
    terms = step(make_groups())
    assert set(terms) == set(objective.weights)
    torch.stack([objective.weights[key] * term for key, term in terms.items()]).sum().backward()
    for parameter in networks.trained_parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    trained = {key: value for key, value in networks.items() if key in ("network", "auxiliary")}
    trained |= {key: value for key, value in networks.items() if key.startswith("peer")}
    modules = [module for value in (objective, *trained.values()) for module in value.children()]
    for module in modules:
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        assert not gradients or any(bool(gradient.any()) for gradient in gradients)


def test_layers_of_glmi_have_the_channels_of_the_setting() -> None:
    """Deepest of the encoder, then half and full resolution of the decoder."""
    parser = parsed("acdc_lv_glmi")
    network = parser.get_parsed_content("network_def")
    found: list[tuple[int, ...]] = []
    layers = parser.get_parsed_content("objective#layers")
    for layer in layers:
        network.get_submodule(layer).register_forward_hook(
            lambda module, inputs, output: found.append(tuple(output.shape[1:]))
        )
    network(torch.zeros(1, 1, 32, 32))
    assert found == [(128, 2, 2), (32, 16, 16), (16, 32, 32)]
    assert list(layers.values()) == [128, 32, 16]


def test_levels_of_entropy_minimization() -> None:
    network = parsed("acdc_lv_entropy_minimization").get_parsed_content("network_def")
    output = network(torch.zeros(1, 1, 32, 32), branch="heads")
    shapes = [tuple(part.shape[1:]) for part in output]
    assert shapes[:4] == [(2, 32, 32), (2, 32, 32), (2,), (2,)]
    assert shapes[4:] == [(16, 32, 32), (32, 16, 16), (64, 8, 8), (128, 4, 4), (128, 2, 2)]


def test_indicators_of_dcr_read_the_last_layer() -> None:
    """The gradients that they compare are those of autograd in the layer of the setting."""
    parser = parsed("acdc_lv_dcr")
    layer = parser.get_parsed_content("feature_layer")
    network = parser.get_parsed_content("network_def").eval()
    group = make_groups()["primary"]
    logits, given = forward_with_inputs(network, [layer], group["image"], branch="main")
    found = last_layer_gradients(given[layer], logits, group["label"])
    head = network.get_submodule(layer)
    for k, value in enumerate(image_cross_entropy(logits, group["label"])):
        weight, bias = torch.autograd.grad(value, [head.weight, head.bias], retain_graph=True)
        expected = torch.cat((weight.flatten(1), bias[:, None]), dim=1)
        torch.testing.assert_close(found[k], expected, rtol=1e-4, atol=1e-6)
