"""A tiny mixed data set and trainers on it, small enough for a step in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from mixseg.data import MixedDataLoader, SliceDataset
from mixseg.engines import MixedSupervisionTrainer, NetworkSet
from mixseg.networks import DualBranchUNet
from mixseg.objectives import ConfKD, Objective


def make_cases(size: int = 8) -> list[dict[str, Any]]:
    """One full and two partial volumes of four slices; foreground is where the image is bright."""
    generator = torch.Generator().manual_seed(5)
    cases = []
    for i, kind in enumerate(("full", "partial", "partial")):
        image = torch.rand(1, size, size, 4, generator=generator)
        label = (image > 0.6).to(torch.uint8)
        if kind == "partial":
            keep = torch.rand(label.shape, generator=generator) < 0.3
            label = torch.where((label == 1) & keep, label, 2)
        cases.append({"image": image, "label": label, "supervision": kind, "case_id": f"{kind}{i}"})
    return cases


@dataclass
class Setup:
    """A trainer and the parts that it was built from."""

    trainer: MixedSupervisionTrainer
    network: nn.Module
    optimizer: torch.optim.Optimizer
    objective: Objective
    loader: MixedDataLoader


Factory = Callable[..., Setup]


@pytest.fixture
def make_setup() -> Factory:
    """Build a trainer; equal arguments make equal trainers."""

    def make(
        *,
        seed: int = 0,
        max_epochs: int = 2,
        epoch_length: int | None = 3,
        objective: Objective | None = None,
        network: nn.Module | None = None,
        lr: float = 1e-2,
        slice_transform: Any = None,
        scheduler: bool = False,
        batch: tuple[int, int] = (2, 3),
        cases: Sequence[dict[str, Any]] | None = None,
        handlers: Sequence[Any] = (),
        num_workers: int = 0,
        **options: Any,
    ) -> Setup:
        torch.manual_seed(seed)
        dataset = SliceDataset(
            cases or make_cases(), slice_transform=slice_transform, seed=seed, progress=False
        )
        loader = MixedDataLoader(
            dataset, *batch, epoch_length=epoch_length, seed=seed, num_workers=num_workers
        )
        if network is None:
            network = DualBranchUNet(features=(2, 4), dropout=0.3)
        objective = objective or ConfKD(0.1, 50.0, 1.0)
        networks = NetworkSet(network, objective)
        optimizer = torch.optim.Adam(networks.trained_parameters(), lr=lr)
        schedule = (
            torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=max_epochs, power=0.9)
            if scheduler
            else None
        )
        trainer = MixedSupervisionTrainer(
            "cpu",
            max_epochs,
            loader,
            networks,
            optimizer,
            objective,
            lr_scheduler=schedule,
            train_handlers=list(handlers),
            **options,
        )
        return Setup(trainer, network, optimizer, objective, loader)

    return make
