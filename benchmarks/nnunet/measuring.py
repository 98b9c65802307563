"""What both sides of the comparison are measured by."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
SPLITS = ("validation", "test")


class Clock:
    """Seconds, and those of the processor, between its starts and stops."""

    def __init__(self) -> None:
        self.seconds = self.cpu_seconds = 0.0
        self.start()

    def start(self) -> None:
        """Leave out what was since the last stop."""
        self._begin = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """Add what was since the last start or stop; it continues from here."""
        now = time.perf_counter(), time.process_time()
        self.seconds += now[0] - self._begin[0]
        self.cpu_seconds += now[1] - self._begin[1]
        self._begin = now


class Snapshots:
    """Weights on the disk, with the training time that they took.

    Args:
        folder: of the run.
        clock: of the training, stopped at each snapshot.
    """

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.folder = folder / "snapshots"
        self.clock = clock
        self.list: list[dict[str, Any]] = []
        self.folder.mkdir(parents=True, exist_ok=True)

    def save(self, weights: Mapping[str, Any], iteration: int) -> None:
        """Keep a network's state."""
        name = f"iteration_{iteration}.pt"
        torch.save(weights, self.folder / name)
        times = {"seconds": self.clock.seconds, "cpu_seconds": self.clock.cpu_seconds}
        self.list.append({"file": name, "iteration": iteration, **times})


def curve_of(
    folder: Path, snapshots: list[dict[str, Any]], dice: Callable[[Mapping[str, Any]], float]
) -> list[dict[str, Any]]:
    """Iteration, training time and validation Dice of every snapshot.

    Args:
        folder: of the run.
        snapshots: see :class:`Snapshots`.
        dice: a network's state → its mean Dice.
    """
    curve = []
    for one in snapshots:
        weights = torch.load(folder / "snapshots" / one["file"], "cpu", weights_only=True)
        point = {name: value for name, value in one.items() if name != "file"}
        curve.append({**point, "dice": dice(weights)})
        print(f"after {point['seconds']:.0f} s: {curve[-1]['dice']:.4f}", flush=True)
    return curve


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
