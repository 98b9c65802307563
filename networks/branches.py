"""Names of the branches of a dual-branch network, and what follows from them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["BRANCHES", "check_branch", "ensemble_logits"]

BRANCHES = ("both", "teacher", "student", "ensemble")


def check_branch(branch: str) -> None:
    """Raise ValueError when ``branch`` is not one of :data:`BRANCHES`."""
    if branch not in BRANCHES:
        raise ValueError(f"branch must be one of {', '.join(BRANCHES)}, got {branch!r}")


def ensemble_logits(*logits: Tensor) -> Tensor:
    """Logarithm of the mean of several softmax outputs, so that its softmax is that mean.

    Args:
        logits: one or more, all (B, C, *spatial).

    Returns:
        Log-probabilities (B, C, *spatial).
    """
    stacked = torch.stack([F.log_softmax(one, dim=1) for one in logits])
    return torch.logsumexp(stacked, dim=0) - math.log(len(logits))
