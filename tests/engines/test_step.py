"""The forward step: which kinds share a pass, and what reaches the objective."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixseg.engines import ForwardStep
from mixseg.networks import DualBranchUNet
from mixseg.objectives import ConfKD


@pytest.fixture
def groups() -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return {
        kind: {
            "image": torch.randn(count, 1, 4, 4, generator=generator) + shift,
            "label": torch.randint(0, high, (count, 1, 4, 4), generator=generator),
        }
        for kind, count, shift, high in (("full", 2, 0.0, 2), ("partial", 3, 3.0, 3))
    }


def network() -> DualBranchUNet:
    torch.manual_seed(0)
    return DualBranchUNet(features=(2, 3), dropout=0.0).train()


def test_separate_passes_equal_one_pass_a_kind(groups: dict[str, dict[str, Tensor]]) -> None:
    outputs = ForwardStep(network(), ConfKD()).outputs(groups)
    net = network()
    teacher, student = net(groups["full"]["image"], branch="both")
    assert torch.equal(outputs["full"][0], teacher)
    assert torch.equal(outputs["full"][1], student)
    assert torch.equal(outputs["partial"], net(groups["partial"]["image"], branch="student"))


@pytest.mark.parametrize(
    ("objective", "branch"),
    [
        (ConfKD(), "both"),
        (ConfKD(0.1, 0, 1), "both"),  # full needs the teacher, partial the student
        (ConfKD(0.1, 0, 1, weak_branch="teacher"), "teacher"),
    ],
)
def test_shared_pass_equals_one_concatenated_batch(
    groups: dict[str, dict[str, Tensor]], objective: ConfKD, branch: str
) -> None:
    outputs = ForwardStep(network(), objective, separate_forward=False).outputs(groups)
    images = torch.cat([groups["full"]["image"], groups["partial"]["image"]])
    whole = network()(images, branch=branch)
    named = (
        {"teacher": whole}
        if branch == "teacher"
        else dict(zip(("teacher", "student"), whole, strict=True))
    )
    for kind, part in (("full", slice(0, 2)), ("partial", slice(2, 5))):
        wanted = objective.branches[kind]
        expected = [
            named[b][part] for b in (("teacher", "student") if wanted == "both" else (wanted,))
        ]
        found = outputs[kind] if wanted == "both" else (outputs[kind],)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)


def test_the_two_differ_by_their_batch_statistics(groups: dict[str, dict[str, Tensor]]) -> None:
    separate = ForwardStep(network(), ConfKD()).outputs(groups)["partial"]
    shared = ForwardStep(network(), ConfKD(), False).outputs(groups)["partial"]
    assert not torch.allclose(separate, shared, atol=1e-2)


class Recorder(nn.Module):
    """Counts its calls; logits (B, 2, H, W) from the image."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, str]] = []

    def forward(self, image: Tensor, branch: str) -> Any:
        self.calls.append((len(image), branch))
        logits = torch.cat([image, -image], dim=1)
        return (logits, logits) if branch == "both" else logits


def test_kinds_without_a_term_are_not_forwarded(groups: dict[str, dict[str, Tensor]]) -> None:
    for separate in (True, False):
        net = Recorder()
        terms = ForwardStep(net, ConfKD(0, 0, 0), separate)(groups)
        assert net.calls == [(2, "teacher")]
        assert set(terms) == {"ce_full"}


def test_kinds_that_the_objective_does_not_know_are_left_out(
    groups: dict[str, dict[str, Tensor]],
) -> None:
    net = Recorder()
    ForwardStep(net, ConfKD())({**groups, "none": groups["partial"]})
    assert net.calls == [(2, "both"), (3, "student")]
