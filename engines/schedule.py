"""Learning rates that depend on the step alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

_LAST = 1e-4  # share of the highest rate that is left at the end
#: Attributes in which torch's schedules keep their length.
_LENGTHS = ("total_iters", "total_steps", "T_max")


class OneCycleLR(LambdaLR):
    """One cycle of the learning rate: a linear rise, then a fall, as half a cosine to nearly 0.

    Smith, 'A disciplined approach to neural network hyper-parameters', 2018, with the optimizer's
    rate as the highest. torch's own ``OneCycleLR`` takes no training of fewer than 2 / ``warmup``
    steps and stores its length, so that a resumed run could not be made longer.

    Args:
        optimizer: its ``lr`` is the highest rate.
        total_steps: steps of the training; the rate stays at its end after them.
        warmup: share of the steps until the rate is highest; less than one step is none.
        power: of the fall. None for half a cosine, else the highest rate times
            (1 - share of the fall that is done) ** ``power``: 0 keeps it.

    Raises:
        ValueError: no step, a share outside [0, 1), or a negative power.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup: float = 0.05,
        power: float | None = None,
    ) -> None:
        if total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, got {total_steps}")
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup must lie in [0, 1), got {warmup}")
        if power is not None and power < 0:
            raise ValueError(f"power must not be negative, got {power}")
        rise = warmup * total_steps
        rise = rise if rise >= 1 else 0.0

        def factor(step: int) -> float:
            if step < rise:
                return (step + 1) / (rise + 1)
            share = min(1.0, (step - rise) / (total_steps - rise))
            if power is not None:
                return (1 - share) ** power
            return _LAST + (1 - _LAST) * 0.5 * (1 + math.cos(math.pi * share))

        super().__init__(optimizer, factor)


def load_schedule(scheduler: LRScheduler, state: Mapping[str, Any]) -> None:
    """Load a schedule's state, and keep the length that it was made with.

    torch's schedules store their length: a training that is resumed with more epochs would continue
    with the rate at which the shorter one has ended, often 0.

    Args:
        scheduler: of any kind; its optimizer has its state already.
        state: of a scheduler of the same kind.
    """
    own = {name: getattr(scheduler, name) for name in _LENGTHS if hasattr(scheduler, name)}
    scheduler.load_state_dict(dict(state))
    if all(state.get(name, value) == value for name, value in own.items()):
        return
    vars(scheduler).update(own)
    if closed_form := getattr(scheduler, "_get_closed_form_lr", None):
        rates: list[float | Tensor] = [float(rate) for rate in closed_form()]
        for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        scheduler._last_lr = list(rates)
