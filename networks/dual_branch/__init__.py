"""Networks with one encoder and two decoders, the branches ``teacher`` and ``student``."""

from mixseg.networks.dual_branch.base import DualBranchNetwork
from mixseg.networks.dual_branch.deeplab import DualBranchDeepLab
from mixseg.networks.dual_branch.dynunet import DualBranchDynUNet
from mixseg.networks.dual_branch.unet import DualBranchUNet
from mixseg.networks.dual_branch.vnet import DualBranchVNet

__all__ = [
    "DualBranchDeepLab",
    "DualBranchDynUNet",
    "DualBranchNetwork",
    "DualBranchUNet",
    "DualBranchVNet",
]
