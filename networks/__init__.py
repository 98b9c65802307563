"""Networks with a shared encoder and one decoder a supervision kind, and heads for features."""

from mixseg.networks.branches import BRANCH_NAMES, BRANCHES, check_branch, ensemble_logits
from mixseg.networks.discriminators import ImageDiscriminator, VoxelDiscriminator
from mixseg.networks.dual_branch.base import DualBranchNetwork
from mixseg.networks.dual_branch.deeplab import DualBranchDeepLab
from mixseg.networks.dual_branch.dynunet import DualBranchDynUNet
from mixseg.networks.dual_branch.unet import DualBranchUNet
from mixseg.networks.dual_branch.vnet import DualBranchVNet
from mixseg.networks.exported import ExportedNetwork
from mixseg.networks.mean_variance import MeanVarianceNetwork
from mixseg.networks.projection import GlobalProjectionHead, LocalProjectionHead
from mixseg.networks.single_branch import SingleBranchNetwork

__all__ = [
    "BRANCHES",
    "BRANCH_NAMES",
    "DualBranchDeepLab",
    "DualBranchDynUNet",
    "DualBranchNetwork",
    "DualBranchUNet",
    "DualBranchVNet",
    "ExportedNetwork",
    "GlobalProjectionHead",
    "ImageDiscriminator",
    "LocalProjectionHead",
    "MeanVarianceNetwork",
    "SingleBranchNetwork",
    "VoxelDiscriminator",
    "check_branch",
    "ensemble_logits",
]
