"""Networks with a shared encoder and one decoder a supervision kind."""

from mixseg.networks.branches import BRANCHES, check_branch, ensemble_logits
from mixseg.networks.dual_branch_unet import DualBranchUNet

__all__ = ["BRANCHES", "DualBranchUNet", "check_branch", "ensemble_logits"]
