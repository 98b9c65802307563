"""The evaluator names probabilities by the branches that its network has."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from torch import Tensor, nn

from mixseg.engines import MixedSupervisionEvaluator


class Named(nn.Module):
    """Branches of any names; the k-th has logits (0, k + 1)."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.branch_names = names
        self.asked: list[str] = []

    def forward(self, image: Tensor, branch: str) -> Tensor | tuple[Tensor, ...]:
        self.asked.append(branch)
        wanted = self.branch_names if branch == "both" else (branch,)
        places = [self.branch_names.index(name) + 1.0 for name in wanted]
        logits = tuple(torch.cat([0 * image, 0 * image + k], dim=1) for k in places)
        return logits if branch == "both" else logits[0]


def evaluated(network: Named, branches: tuple[str, ...] | None) -> dict[str, float]:
    """Branch → probability of the foreground, in the order of the output."""
    found: list[list[dict[str, Tensor]]] = []
    batches = [{"image": torch.zeros(1, 1, 4, 4)}]
    evaluator = MixedSupervisionEvaluator("cpu", batches, network, branches=branches)
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda e: found.append(e.state.output))
    evaluator.run()
    ((item,),) = found
    return {name: item[name][1].unique().item() for name in item}


def sigmoid(z: float) -> float:
    return torch.tensor(z, dtype=torch.float64).sigmoid().item()


@pytest.mark.parametrize(
    ("names", "branches", "asked"),
    [
        (("main",), None, "main"),
        (("main",), ("main",), "main"),
        (("teacher", "student"), None, "both"),
        (("teacher", "student"), ("student", "teacher"), "both"),
        (("teacher", "student"), ("student",), "student"),
        (("left", "right"), ("right", "left"), "both"),
    ],
)
def test_each_branch_has_its_own_probabilities(
    names: tuple[str, ...], branches: tuple[str, ...] | None, asked: str
) -> None:
    network = Named(*names)
    found = evaluated(network, branches)
    expected = {name: sigmoid(names.index(name) + 1) for name in branches or names}
    assert found == pytest.approx(expected, rel=1e-6)
    assert network.asked == [asked]


def test_branches_that_the_network_does_not_have() -> None:
    message = r"^branches must name some of the network's \(main\), got teacher$"
    with pytest.raises(ValueError, match=message):
        evaluated(Named("main"), ("teacher",))
    message = r"^branches must name some of the network's \(teacher, student\), got none$"
    with pytest.raises(ValueError, match=message):
        evaluated(Named("teacher", "student"), ())
