"""The networks of a method: the one that it predicts with, its peers and moving averages."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mixseg.objectives.base import NetworkSpec, Objective, TurnSpec

#: Name of the network that a method predicts with.
MAIN = "network"


def fresh_copy(network: nn.Module) -> nn.Module:
    """The same architecture with newly drawn weights, from torch's global generator.

    Every module that has ``reset_parameters`` (torch's convention) is asked to draw, parts before
    the whole, so that a network's own initialization comes last.

    Raises:
        ValueError: a module with weights of its own has no ``reset_parameters``.

    Examples:
        >>> network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        >>> peer = fresh_copy(network)
        >>> bool((peer[0].weight == network[0].weight).any())
        False
    """
    fresh = copy.deepcopy(network)
    for name, module in reversed(list(fresh.named_modules())):
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
        elif next(module.parameters(recurse=False), None) is not None:
            raise ValueError(
                f"{type(module).__name__} ({name or 'the network'}) has weights and no "
                "reset_parameters(): peers cannot be drawn from this network"
            )
    return fresh


class NetworkSet(nn.ModuleDict):
    """The networks of an objective, built from one.

    ``"network"`` is the given one. Peers are drawn anew from it (:func:`fresh_copy`), averages
    start as copies of what they follow and are never trained. Networks that train in turn are the
    objective's own; they are frozen but for their turns (:class:`mixseg.engines.turn.Turn`). The
    set is a module: it is moved, wrapped by DistributedDataParallel and checkpointed as one;
    ``state_dict`` also counts the updates, so that a resumed average decays as it would have.

    Args:
        network: of the method, initialized, on its device.
        objective: asks for further networks in :attr:`mixseg.objectives.Objective.networks`, and
            may hold heads, which are trained, too.

    Raises:
        ValueError: an average follows a network that is not there before it.

    Examples:
        >>> from mixseg.objectives import ConfKD
        >>> networks = NetworkSet(nn.Conv2d(1, 2, 3), ConfKD())
        >>> networks.add("average", NetworkSpec(average_of="network", decay=0.9))
        >>> sorted(networks), len(networks.trained_parameters())  # weight and bias of one
        (['average', 'network'], 2)
        >>> networks["network"].bias.data += 1
        >>> networks.update_averages(epoch=1)  # the first update copies
        >>> bool((networks["average"].bias == networks["network"].bias).all())
        True
    """

    def __init__(self, network: nn.Module, objective: Objective) -> None:
        super().__init__({MAIN: network})
        # A plain tuple hides it from the modules: the engine stores and moves it by itself.
        self._objective = (objective,)
        self._averages: dict[str, NetworkSpec] = {}
        #: Name → network that trains in turn with the others.
        self.in_turn: dict[str, TurnSpec] = {}
        self._updates = 0
        for name, spec in objective.networks.items():
            self.add(name, spec)

    @classmethod
    def of(cls, network: nn.Module, objective: Objective) -> NetworkSet:
        """``network`` itself where it is a set already, otherwise the set built from it."""
        return network if isinstance(network, cls) else cls(network, objective)

    def add(self, name: str, spec: NetworkSpec | TurnSpec) -> None:
        """Build one more network.

        Raises:
            ValueError: the name is taken, or the average follows a network that is not there.
        """
        if name in self:
            raise ValueError(f"there is a network named {name!r} already")
        if isinstance(spec, TurnSpec):
            device = next(self[MAIN].parameters()).device
            self[name] = spec.network.requires_grad_(False).to(device)
            self.in_turn[name] = spec
            return
        if spec.average_of is None:
            self[name] = fresh_copy(self[MAIN])
            return
        if spec.average_of not in self:
            raise ValueError(
                f"network {name!r} averages {spec.average_of!r}, which is not among {sorted(self)}"
            )
        self[name] = copy.deepcopy(self[spec.average_of]).requires_grad_(False)
        self._averages[name] = spec

    def trained_parameters(self) -> list[nn.Parameter]:
        """Parameters of the main optimizer: the network, its peers and the objective's heads."""
        networks = [p for p in self.parameters() if p.requires_grad]
        return networks + [p for p in self._objective[0].parameters() if p.requires_grad]

    @torch.no_grad()
    def update_averages(self, epoch: int) -> None:
        """Move every average toward the network that it follows, after an optimizer's step.

        Args:
            epoch: the epoch under way, from 1.
        """
        for name, spec in self._averages.items():
            count = self._updates if spec.per == "iteration" else epoch - 1
            average = get_ema_multi_avg_fn(min(1 - 1 / (count + 1), spec.decay))
            mine, followed = self[name], self[str(spec.average_of)]
            average(list(mine.parameters()), list(followed.parameters()), None)
            if spec.buffers:
                pairs = list(zip(mine.buffers(), followed.buffers(), strict=True))
                averaged = [(a, b) for a, b in pairs if a.is_floating_point()]
                if averaged:
                    average(*map(list, zip(*averaged, strict=True)), None)
                for a, b in pairs:
                    if not a.is_floating_point():
                        a.copy_(b)
        self._updates += 1

    def get_extra_state(self) -> dict[str, int]:
        """Updates so far."""
        return {"updates": self._updates}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Undo of :meth:`get_extra_state`."""
        self._updates = int(state["updates"])
