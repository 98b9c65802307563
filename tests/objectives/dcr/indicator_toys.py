"""Discs with wrong masks, and a trainer of two small networks on them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from mixseg.data import SliceDataset
from mixseg.engines import MixedSupervisionTrainer, NetworkSet
from mixseg.networks import DualBranchUNet
from mixseg.objectives import DynamicCoRegularization
from mixseg.objectives.dcr import InstanceIndicators, TutorialDataLoader

CLASSES = 3


def make_pictures(
    strong: int, weak: int, missing: Sequence[int] = (), size: int = 16
) -> list[dict[str, Any]]:
    """Pictures with a bright disc and, in it, a brighter core; masks of weak ones are shifted.

    Those of ``missing`` weak ones are background alone.
    """
    rng = np.random.default_rng(0)
    axis = np.arange(size)
    cases = []
    for i in range(strong + weak):
        center, radius = rng.uniform(0.35, 0.65, 2) * size, rng.uniform(0.2, 0.3) * size
        distance = np.hypot(axis[:, None] - center[0], axis[None] - center[1])
        truth = (distance < radius).astype(np.uint8) + (distance < 0.5 * radius)
        image = 0.8 * truth + rng.normal(0, 0.3, (size, size))
        label = truth
        if i >= strong:
            label = np.roll(truth, rng.integers(-1, 2, 2), (0, 1))
            label = np.zeros_like(truth) if i - strong in missing else label
        cases.append(
            {
                "image": torch.from_numpy(image[None]).float(),
                "label": torch.from_numpy(label[None].astype(np.uint8)),
                "reference": torch.from_numpy(truth[None].astype(np.uint8)),
                "supervision": "full" if i < strong else "noisy",
                "case_id": f"{i:03d}",
            }
        )
    return cases


def make_dataset(cases: Sequence[dict[str, Any]], **options: Any) -> SliceDataset:
    options = {"label_keys": ("label", "reference"), "progress": False} | options
    return SliceDataset(cases, num_classes=CLASSES, **options)


def make_trainer(
    folder: Path,
    dataset: SliceDataset,
    *,
    max_epochs: int = 2,
    epoch_length: int = 4,
    batch_size: int = 3,
    lr: float = 0.02,
    features: Sequence[int] = (4, 8),
    seed: int = 0,
    handler: dict[str, Any] | None = None,
    **options: Any,
) -> SimpleNamespace:
    torch.manual_seed(seed)
    objective = DynamicCoRegularization(dataset.supervision, **options)
    network = DualBranchUNet(out_channels=CLASSES, features=features, branches=1, dropout=0.3)
    networks = NetworkSet(network, objective)
    loader = TutorialDataLoader(
        dataset,
        batch_size,
        weights=objective.sampling_weights,
        epoch_length=epoch_length,
        auxiliary=objective.peer,
    )
    arguments = {"interval": 3, "batch_strong": 2, "batch_size": 3, "picture_seconds": 1e9}
    indicators = InstanceIndicators(
        objective, dataset, folder, progress=False, **(arguments | (handler or {}))
    )
    trainer = MixedSupervisionTrainer(
        "cpu",
        max_epochs,
        loader,
        networks,
        torch.optim.SGD(networks.trained_parameters(), lr=lr, momentum=0.9),
        objective,
        train_handlers=[indicators],
    )
    return SimpleNamespace(trainer=trainer, objective=objective, handler=indicators)


def read(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
