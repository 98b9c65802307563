"""How far a training is that a MONAI Label server started."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from mixseg.files.atomic import strict_json, write_text_atomic


class TrainingStatus:
    """Keep a file up to date that says how far a training is, in MONAI Label's words.

    3D Slicer reads ``epoch``, ``total_epochs``, ``best_metric`` and, once the training is over,
    ``total_time`` for its bars. A file and not a log, because the server is another process. It
    also says which process trains (``pid``), so that an interrupted training can be told.

    Args:
        evaluator: the validator, None where there is none.
        key: its metric to show.
        interval: least seconds between two writings within an epoch.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        evaluator: Engine | None = None,
        key: str = "",
        *,
        interval: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = Path(path)
        self.evaluator = evaluator
        self.key = key
        self.interval = interval
        self.clock = clock
        self._started = self._written = 0.0
        self._best, self._best_epoch = 0.0, 0

    def attach(self, engine: Any) -> None:
        """Take part in ``engine``, a trainer; attach it after the validator."""
        engine.register_state("status", self)
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        engine.add_event_handler(Events.COMPLETED, self._end)

    def state_dict(self) -> dict[str, Any]:
        """The best score so far."""
        return {"best": self._best, "best_epoch": self._best_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo of :meth:`state_dict`."""
        self._best, self._best_epoch = state["best"], state["best_epoch"]

    def _start(self, engine: Any) -> None:
        self._started = self.clock()
        self._write(engine, "running")

    def _iteration(self, engine: Any) -> None:
        if self.clock() - self._written >= self.interval:
            self._write(engine, "running")

    def _epoch(self, engine: Any) -> None:
        if self.evaluator is not None and self.evaluator.state.epoch == engine.state.epoch:
            score = float(self.evaluator.state.metrics.get(self.key, 0.0))
            if score > self._best:
                self._best, self._best_epoch = score, engine.state.epoch
        self._write(engine, "running")

    def _end(self, engine: Any) -> None:
        self._write(engine, "done")

    def _write(self, engine: Any, status: str) -> None:
        state = engine.state
        self._written = self.clock()
        passed = str(datetime.timedelta(seconds=int(self._written - self._started)))
        losses = state.output[0] if state.output else {}
        content = {
            "status": status,
            "pid": os.getpid(),
            # Epochs that are over: Ignite counts the one that runs.
            "epoch": state.iteration // state.epoch_length,
            "total_epochs": state.max_epochs,
            "iteration": state.iteration,
            "total_iterations": state.max_epochs * state.epoch_length,
            "start_ts": int(self._started),
            "total_time" if status == "done" else "current_time": passed,
            "best_metric": self._best,
            "train": {"metrics": {name: float(value) for name, value in losses.items()}},
        }
        if self.evaluator is not None:
            content["eval"] = {
                "key_metric_name": self.key,
                "best_metric": self._best,
                "best_metric_epoch": self._best_epoch,
            }
        write_text_atomic(self.path, strict_json(content))
