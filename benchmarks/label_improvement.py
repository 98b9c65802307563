"""What a model in MONAI Label learns from five scribbled scans, for label_end_to_end.py."""

from __future__ import annotations

from statistics import mean
from typing import Any

import numpy as np
from label_server import Case, Log, Server

SCRIBBLED = 5
#: Epochs of one training, and batches an epoch.
EPOCHS, EPOCH_LENGTH = 6, 50


def dice(mask: np.ndarray, reference: np.ndarray) -> float:
    """Dice in percent; 100 where both are empty."""
    size = int(mask.sum()) + int(reference.sum())
    return 100.0 if size == 0 else 200.0 * int((mask & reference).sum()) / size


def measure(case: Case, references: dict[str, np.ndarray], server: Server, log: Log) -> None:
    """Submit what is drawn in two rounds, train after each, and score the other scans.

    Args:
        case: ``masks`` are submitted first, where there are some, and ``scribbles`` second.
        references: scan → mask, for the scans that are never submitted.
        server: that serves the scans.
        log: gets a line for each round.
    """

    rounds: dict[str, Any] = {}
    case.answers |= {"scored": len(references), "steps": EPOCHS * EPOCH_LENGTH, "rounds": rounds}

    def score(name: str) -> None:
        with log.timed(f"{case.name}, {name}: infer {len(references)} scans"):
            found = {
                scan: dice(server.infer(scan) == 1, reference == 1)
                for scan, reference in references.items()
            }
        rounds[name] = {
            "dice": round(mean(found.values()), 2),
            "lowest": round(min(found.values()), 2),
        }
        log(f"{case.name}, {name}: Dice {rounds[name]['dice']}")

    def train(name: str) -> None:
        with log.timed(f"{case.name}, {name}: training"):
            server.train(EPOCHS)
            server.wait_trained()
        score(name)

    structure = next(n for n, v in case.answers["labels"].items() if v == 1)
    every = [(structure, 1), ("unlabeled", 2), ("background_brush", 3)]
    if case.masks:
        for scan, mask in case.masks.items():
            server.submit(scan, mask, every)
        train("after one mask")
    else:
        score("as shipped")
    for scan, drawn in case.scribbles.items():
        server.submit(scan, np.select([drawn == 1, drawn == 0], [1, 3], 0), every)
    train(f"after {len(case.scribbles)} scribbled scans")
