"""A network that trains in turn with the one that a method predicts with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from mixseg.engines.network_set import NetworkSet
from mixseg.engines.ranks import averaging_ranks
from mixseg.engines.schedule import load_schedule
from mixseg.objectives.base import Batch, Networks, Objective, Outputs


class _TurnStep(nn.Module):
    """One turn's forward pass as a module, so that DDP can wrap it."""

    def __init__(self, name: str, networks: NetworkSet, objective: Objective) -> None:
        super().__init__()
        self.name = name
        self.network = networks[name]
        # A plain tuple hides the other networks from DDP: this step gives them no gradient.
        self._others = (networks, objective)

    def forward(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        networks, objective = self._others
        # A ModuleDict has what a mapping has, and torch does not say so.
        return objective.turn(self.name, outputs, batch, cast(Networks, networks))


class Turn:
    """Optimizer, schedule and step of one network of :attr:`NetworkSet.in_turn`."""

    def __init__(
        self, name: str, networks: NetworkSet, objective: Objective, device: torch.device
    ) -> None:
        spec = networks.in_turn[name]
        self.name = name
        self.parameters = list(networks[name].parameters())
        self._networks = networks
        self.optimizer = spec.optimizer(self.parameters)
        self.lr_scheduler = spec.lr_scheduler(self.optimizer) if spec.lr_scheduler else None
        with self.alone():
            step = _TurnStep(name, networks, objective)
            self.step_module = averaging_ranks(step, device, find_unused=False)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let this network take gradients, and no other one."""
        others = self._networks.trained_parameters()
        try:
            _require_grad(others, False)
            _require_grad(self.parameters, True)
            yield
        finally:
            _require_grad(self.parameters, False)
            _require_grad(others, True)

    def has_gradient(self) -> bool:
        """Whether its terms were there since gradients were last set to zero."""
        return any(parameter.grad is not None for parameter in self.parameters)

    def state_dict(self) -> dict[str, Any]:
        """State of the optimizer and of the schedule; the network's is with the other networks."""
        state = {"optimizer": self.optimizer.state_dict()}
        if self.lr_scheduler is not None:
            state["lr_scheduler"] = self.lr_scheduler.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo of :meth:`state_dict`.

        Raises:
            ValueError: the state is of a run with a schedule and this one has none, or the reverse.
        """
        stored = "lr_scheduler" in state
        if stored != (self.lr_scheduler is not None):
            raise ValueError(
                f"the checkpoint was written {'with' if stored else 'without'} a schedule of "
                f"{self.name}, this run is set up {'without' if stored else 'with'} it"
            )
        self.optimizer.load_state_dict(state["optimizer"])
        if self.lr_scheduler is not None:
            load_schedule(self.lr_scheduler, state["lr_scheduler"])


def _require_grad(parameters: list[nn.Parameter], required: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(required)
