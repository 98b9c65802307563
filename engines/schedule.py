"""Learning rates that depend on the step alone."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["OneCycleLR"]

_LAST = 1e-4  # share of the highest rate that is left at the end


class OneCycleLR(LambdaLR):
    """One cycle of the learning rate: a linear rise, then half a cosine down to nearly 0.

    Smith, 'A disciplined approach to neural network hyper-parameters', 2018, with the optimizer's
    rate as the highest. torch's own ``OneCycleLR`` takes no training of fewer than 2 / ``warmup``
    steps and stores its length, so that a resumed run could not be made longer.

    Args:
        optimizer: its ``lr`` is the highest rate.
        total_steps: steps of the training; the rate stays at its end after them.
        warmup: share of the steps until the rate is highest.

    Raises:
        ValueError: no step, or a share outside [0, 1).
    """

    def __init__(self, optimizer: Optimizer, total_steps: int, warmup: float = 0.05) -> None:
        if total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, got {total_steps}")
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup must lie in [0, 1), got {warmup}")
        rise = warmup * total_steps

        def factor(step: int) -> float:
            if step < rise:
                return (step + 1) / (rise + 1)
            share = min(1.0, (step - rise) / (total_steps - rise))
            return _LAST + (1 - _LAST) * 0.5 * (1 + math.cos(math.pi * share))

        super().__init__(optimizer, factor)
