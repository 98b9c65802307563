"""A learned weight for every instance of the training set."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class InstanceWeights(nn.Module):
    """Dynamic instance indicators γ_k in [0, 1], one for each item of a dataset.

    Pan et al. (AAAI 2022), 'Dynamic Instance Indicator Learning' and Algorithm 1: the weights Γ
    minimize the loss of the strongly annotated instances after training with them. With the
    identity for the Hessian, eq. 3 is ∂L_S/∂γ_k = -g_S · g_k, which Adam descends; the result is
    clipped to [0, 1].

    ``state_dict`` holds the weights and Adam's moments, so that a resumed run takes the same steps.

    Args:
        learned: for each item whether its weight is learned; the others stay at 1.
        lr: of Adam (0.1), whose betas are torch's defaults, as in the paper.
        init: where learned weights start (0.5).

    Raises:
        ValueError: no item, a rate that is not positive, or a start outside [0, 1].

    Examples:
        Adam's first step is the learning rate, whatever the size of the gradient:

        >>> weights = InstanceWeights([False, True, True])
        >>> weights.step(torch.tensor([3.0, -0.01]))  # agrees with the strong instances, does not
        >>> [round(x, 4) for x in weights.gamma.tolist()]
        [1.0, 0.6, 0.4]
    """

    gamma: Tensor
    learned: Tensor

    def __init__(self, learned: Sequence[bool], *, lr: float = 0.1, init: float = 0.5) -> None:
        super().__init__()
        if not len(learned):
            raise ValueError("there is no instance to weigh")
        if not lr > 0:
            raise ValueError(f"indicator_lr must be positive, got {lr}")
        if not 0 <= init <= 1:
            raise ValueError(f"indicator_init must lie in [0, 1], got {init}")
        self.lr = float(lr)
        chosen = torch.as_tensor(list(learned), dtype=torch.bool)
        self.register_buffer("gamma", torch.where(chosen, float(init), 1.0))
        # Follows from the data, and is not what training found.
        self.register_buffer("learned", chosen, persistent=False)
        self._moments: dict[int, dict[str, Tensor]] = {}

    def forward(self, index: Tensor) -> Tensor:
        """Weights (B,) of the items of these indices (B,)."""
        return self.gamma[index]

    @torch.no_grad()
    def step(self, agreement: Tensor) -> None:
        """One step of Adam against -``agreement``, clipped to [0, 1].

        Args:
            agreement: (M,) g_S · g_k of the M learned items, in the order of the dataset.

        Raises:
            ValueError: another number of values, or one that is not finite.
        """
        count = int(self.learned.sum())
        if agreement.shape != (count,):
            raise ValueError(
                f"agreement must be one number for each of {count} learned weights, got shape "
                f"{tuple(agreement.shape)}"
            )
        if not torch.isfinite(agreement).all():
            raise ValueError("agreement of gradients is not finite: the network has diverged")
        weights = self.gamma[self.learned]
        # Built anew, as a buffer that moves to another device is another tensor.
        optimizer = torch.optim.Adam([weights], lr=self.lr)
        # A copy: the step changes moments in place, and a checkpoint may hold the old ones.
        optimizer.load_state_dict(optimizer.state_dict() | {"state": copy.deepcopy(self._moments)})
        weights.grad = -agreement.to(weights)
        optimizer.step()
        self.gamma[self.learned] = weights.clamp_(0, 1)
        self._moments = optimizer.state_dict()["state"]

    def get_extra_state(self) -> dict[str, Any]:
        """Adam's step count and moments; empty before the first step."""
        return {"moments": self._moments}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Undo of :meth:`get_extra_state`."""
        self._moments = state["moments"]
