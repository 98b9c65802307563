"""A trainer of two numbers and a validator that reads its scores from a list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixseg.engines import MixedSupervisionTrainer
from mixseg.objectives import ConfKD


class Factors(nn.Module):
    """One factor a branch; logits (B, 2, H, W) = factor · (image, -image)."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Parameter(torch.tensor(0.5))
        self.student = nn.Parameter(torch.tensor(-0.25))

    def forward(self, image: Tensor, branch: str) -> Any:
        pair = [f * torch.cat([image, -image], dim=1) for f in (self.teacher, self.student)]
        return tuple(pair) if branch == "both" else pair[branch == "student"]


class FakeEvaluator:
    """Its n-th run gives the n-th score."""

    def __init__(self, scores: Sequence[float]) -> None:
        self.scores = list(scores)
        self.epochs: list[int] = []
        self.network: nn.Module | None = None
        self.state = SimpleNamespace(epoch=0, metrics={})

    def run(self, epoch: int) -> None:
        self.epochs.append(epoch)
        self.state.epoch = epoch
        self.state.metrics["val_dice_student"] = self.scores[len(self.epochs) - 1]


@pytest.fixture
def fake_evaluator() -> type[FakeEvaluator]:
    return FakeEvaluator


def make_batches(count: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": torch.randn(4, 1, 3, 3, generator=generator),
            "label": torch.randint(0, 2, (4, 1, 3, 3), generator=generator),
            "supervision": ["full", "full", "partial", "partial"],
            "case_id": ["a", "b", "c", "d"],
        }
        for _ in range(count)
    ]


@pytest.fixture
def make_trainer() -> Callable[..., MixedSupervisionTrainer]:
    """Build a trainer over a fixed list of batches, with handlers attached in their order."""

    def make(
        handlers: Sequence[Any] = (),
        *,
        max_epochs: int = 3,
        iterations: int = 2,
        objective: ConfKD | None = None,
        **options: Any,
    ) -> MixedSupervisionTrainer:
        network = Factors()
        return MixedSupervisionTrainer(
            "cpu",
            max_epochs,
            make_batches(iterations),
            network,
            torch.optim.SGD(network.parameters(), lr=0.1),
            objective or ConfKD(0.1, 5.0, 1.0),
            train_handlers=list(handlers),
            **options,
        )

    return make
