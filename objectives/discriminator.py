"""Base of methods whose discriminator trains in turn with the network."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mixseg.objectives.base import SingleBranchObjective, TurnSpec


class DiscriminatorObjective(SingleBranchObjective):
    """A method with full masks, images without labels and a discriminator of predictions."""

    def __init__(
        self,
        discriminator: nn.Module,
        discriminator_optimizer: Callable[..., Optimizer],
        discriminator_schedule: Callable[..., LRScheduler] | None,
        threshold: float,
        supervised_loss: str,
        **weights: float,
    ) -> None:
        super().__init__(supervised_loss, **weights)
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], got {threshold}")
        self.threshold = float(threshold)
        self._discriminator = TurnSpec(
            discriminator, discriminator_optimizer, discriminator_schedule
        )

    @property
    def branches(self) -> dict[str, str]:
        """The single branch; the discriminator learns from unlabeled images from the start."""
        return {"full": "main", "none": "main"}

    @property
    def networks(self) -> dict[str, TurnSpec]:
        """The discriminator."""
        return {"discriminator": self._discriminator}
