"""``torch.jit.script`` of the networks computes what they do, at every size."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import SegResNet
from torch import nn

from mixseg.networks import (
    DualBranchDeepLab,
    DualBranchDynUNet,
    DualBranchUNet,
    DualBranchVNet,
    MeanVarianceNetwork,
    SingleBranchNetwork,
)

SMALL = (2, 4, 4)
NETWORKS: dict[str, tuple[nn.Module, int]] = {
    "U-Net, student": (DualBranchUNet(features=SMALL, branch="student"), 2),
    "U-Net, ensemble": (DualBranchUNet(features=SMALL, branch="ensemble"), 2),
    "U-Net, both": (DualBranchUNet(features=SMALL), 2),
    "V-Net, main": (DualBranchVNet(features=SMALL, branches=1), 3),
    "DynUNet, main": (DualBranchDynUNet(features=SMALL, branches=1, spatial_dims=3), 3),
    "means": (
        MeanVarianceNetwork(
            DualBranchUNet(out_channels=4, features=SMALL, branches=1),
            num_classes=2,
            encoder_layers=["encoder.center"],
            class_layer="encoder.center",
            class_channels=4,
            refine=True,
        ),
        2,
    ),
    "SegResNet": (SingleBranchNetwork(SegResNet(2, 8, out_channels=2), size_divisor=8), 2),
    "DeepLab": (DualBranchDeepLab(branches=1), 2),
}


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_a_script_is_the_network(name: str) -> None:
    network, dims = NETWORKS[name]
    network.train()
    script = torch.jit.script(network)
    assert network.training
    network.eval(), script.eval()
    channels = getattr(network, "in_channels", 1)
    for sides in ((32, 48, 16), (64, 32, 32)):
        image = torch.randn(1, channels, *sides[:dims])
        expected, found = network(image), script(image)
        pair = (expected,) if isinstance(expected, torch.Tensor) else expected
        for a, b in zip(pair, (found,) if isinstance(found, torch.Tensor) else found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
