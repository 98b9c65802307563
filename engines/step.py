"""One training step's forward pass as a module, so that DDP can wrap it whole."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from mixseg.engines.network_set import MAIN, NetworkSet
from mixseg.objectives.base import Objective

Groups = dict[str, dict[str, Tensor]]


class ForwardStep(nn.Module):
    """Batch by supervision kind → named loss terms.

    Args:
        network: returns logits of the branch that it is asked for (``branch=``), or the
            :class:`mixseg.engines.NetworkSet` of a method that has several.
        objective: the method.
        separate_forward: forward each kind as a batch of its own (default). Otherwise the kinds
            share one forward pass and so their batch statistics, by which a network with batch
            normalization learns to tell the kinds apart: dual-branch training then collapses
            (docs/batch_statistics.md).
    """

    def __init__(
        self, network: nn.Module, objective: Objective, separate_forward: bool = True
    ) -> None:
        super().__init__()
        self.networks = NetworkSet.of(network, objective)
        self.objective = objective
        self.separate_forward = separate_forward
        #: What the last pass returned, detached, where a network trains in turn on it.
        self.seen: dict[str, Tensor | tuple[Tensor, ...]] = {}

    def outputs(self, groups: Groups) -> dict[str, Tensor | tuple[Tensor, ...]]:
        """Kind → what the network returns for it; kinds that no term needs are skipped."""
        network = self.networks[MAIN]
        branches = {k: b for k, b in self.objective.branches.items() if k in groups}
        if self.separate_forward or len(branches) < 2:
            return {k: network(groups[k]["image"], branch=b) for k, b in branches.items()}
        images = [groups[kind]["image"] for kind in branches]
        sizes = [len(image) for image in images]
        # All kinds go through every branch: sharing a pass means sharing it whole.
        same = len(set(branches.values())) == 1
        shared = network(
            torch.cat(images), branch=next(iter(branches.values())) if same else "both"
        )
        if isinstance(shared, Tensor):
            return dict(zip(branches, shared.split(sizes), strict=True))
        parts = zip(*(part.split(sizes) for part in shared), strict=True)
        by_kind: dict[str, tuple[Tensor, ...]] = dict(zip(branches, parts, strict=True))
        if same:
            return {**by_kind}
        names = cast(tuple[str, ...], network.branch_names)
        return {
            kind: by_kind[kind] if branch == "both" else by_kind[kind][names.index(branch)]
            for kind, branch in branches.items()
        }

    def forward(self, groups: Groups) -> dict[str, Tensor]:
        """Loss terms by name, unweighted."""
        outputs = self.outputs(groups)
        if self.networks.in_turn:
            self.seen = {
                kind: output.detach()
                if isinstance(output, Tensor)
                else tuple(part.detach() for part in output)
                for kind, output in outputs.items()
            }
        terms: dict[str, Tensor] = self.objective(outputs, groups, self.networks)
        return terms
