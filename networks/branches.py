"""Names of the branches of a network, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

#: Number of branches → their names, in the order in which ``"both"`` returns them.
BRANCH_NAMES = {1: ("main",), 2: ("teacher", "student")}
#: Number of branches → what a network can be asked for.
BRANCHES = {1: ("main",), 2: ("both", "teacher", "student", "ensemble")}


def check_branch(branch: str, choices: Sequence[str]) -> str:
    """``branch``, if it is one of the network's choices; else ValueError is raised."""
    if branch not in choices:
        one_of = f"one of {', '.join(choices)}"
        allowed = one_of if len(choices) > 1 else f"{choices[0]}, the network's only one"
        raise ValueError(f"branch must be {allowed}, got {branch!r}")
    return branch


def ensemble_logits(*logits: Tensor) -> Tensor:
    """Logarithm of the mean of several softmax outputs, so that its softmax is that mean.

    Args:
        logits: one or more, all (B, C, *spatial).

    Returns:
        Log-probabilities (B, C, *spatial).
    """
    stacked = torch.stack([F.log_softmax(one, dim=1) for one in logits])
    return torch.logsumexp(stacked, dim=0) - math.log(len(logits))
