"""Losses and validation scores of every epoch, as a table, curves and TensorBoard events."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from mixseg.data.samplers import process_share
from mixseg.files.atomic import strict_json, write_bytes_atomic, write_csv
from mixseg.files.documents import read_object
from mixseg.handlers.scoring import CaseScorer
from mixseg.handlers.validation import validate
from mixseg.report.cases import CasePanel, plot_cases
from mixseg.report.curves import plot_curves
from mixseg.report.page import PAGE_NAME, try_to_write_page

logger = logging.getLogger(__name__)


class History:
    """Keep the mean of every loss term an epoch, its highest rate, and what the validator found.

    Writes ``history.csv`` and TensorBoard events below ``tensorboard/`` after each epoch.
    ``curves.png`` and ``cases.png`` show the last validation: drawn after the first one, then when
    the last drawing is ``picture_seconds`` old, and always when training ends, also early, by an
    interrupt or by an error. A run that is resumed when all epochs are done draws what the process
    before did not live to draw. ``training.json`` says how long each process of the run trained, on
    which device, and how it ended; ``report.html`` shows all of it when training ends.

    Takes part in checkpoints, so the curves of a resumed run have no gap. Attach it after the
    validator and, as Ignite gives an error to the first handler that raises it again alone, before
    any other handler of errors.

    Args:
        output_dir: folder of the run.
        evaluator: the validator, None to record losses only.
        scorer: the validator's scorer, for the pictures.
        tensorboard: write events.
        picture_seconds: least time between two drawings, which can take longer than a validation
            of a small run; 0 draws after every validation.
        clock: seconds on any scale that only goes forward.

    Raises:
        ValueError: when the time is negative.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        evaluator: Engine | None = None,
        scorer: CaseScorer | None = None,
        *,
        tensorboard: bool = True,
        picture_seconds: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if picture_seconds < 0:
            raise ValueError(f"picture_seconds must not be negative, got {picture_seconds}")
        self.output_dir = Path(output_dir)
        self.evaluator = evaluator
        self.scorer = scorer
        self.rows: list[dict[str, float]] = []
        self.tensorboard = tensorboard
        self.picture_seconds = picture_seconds
        self.clock = clock
        self._drawn: float | None = None
        self._pending: Sequence[CasePanel] | None = None
        self._writer: SummaryWriter | None = None
        self._sessions: list[dict[str, Any]] = []
        self._began = 0.0
        self._sums: dict[str, Tensor] = {}
        self._lr = 0.0

    def attach(self, engine: Any) -> None:
        """Record while ``engine``, a trainer, runs; rank 0 only."""
        engine.register_state("history", self)
        if process_share()["rank"] != 0:
            return
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_STARTED, self._see_rate)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)
        engine.add_event_handler(Events.COMPLETED, self._close)
        engine.add_event_handler(Events.INTERRUPT, self._interrupt)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._raise)
        engine.when_done.append(self._catch_up)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo of :meth:`state_dict`."""
        self.rows = list(state["rows"])

    def _begin(self, engine: Any) -> None:
        self._began = self.clock()
        earlier = self._read_sessions()
        session = {"device": str(engine.state.device), "precision": engine.precision}
        self._sessions = [*earlier, {**session, "seconds": 0.0, "ended": "under way"}]

    def _note(self, ended: str) -> None:
        """Write how long this process has trained, and whether and how it ended."""
        if self._sessions:
            seconds = round(self.clock() - self._began, 1)
            self._sessions[-1] |= {"seconds": seconds, "ended": ended}
            self._write_sessions(self._sessions)

    def _read_sessions(self) -> list[dict[str, Any]]:
        """The processes so far; none where a training that starts again has removed the file."""
        path = self.output_dir / "training.json"
        return list(read_object(path, "sessions")["sessions"]) if path.is_file() else []

    def _write_sessions(self, sessions: list[dict[str, Any]]) -> None:
        content = strict_json({"sessions": sessions}).encode()
        write_bytes_atomic(self.output_dir / "training.json", content)

    def _start(self, engine: Any) -> None:
        self._sums, self._lr = {}, 0.0

    def _see_rate(self, engine: Any) -> None:
        self._lr = max(self._lr, float(engine.optimizer.param_groups[0]["lr"]))

    def _add(self, engine: Any) -> None:
        # Summed on the device: reading a value here would wait for CUDA at every iteration.
        for name, value in engine.state.output[0].items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def _finish(self, engine: Any) -> None:
        state = engine.state
        row: dict[str, float] = {"epoch": state.epoch, "iteration": state.iteration, "lr": self._lr}
        for name, total in self._sums.items():
            row[name] = float(total) / state.epoch_length
        for name, weight in engine.objective.weights.items():
            row[f"weight_{name}"] = weight
        validated = False
        if self.evaluator is not None and self.evaluator.state.epoch == state.epoch:
            validated = True
            row |= {k: v for k, v in self.evaluator.state.metrics.items() if isinstance(v, float)}
        self.rows.append(row)
        self._note("under way")
        self._write(validated)

    def _write(self, validated: bool) -> None:
        write_csv(self.output_dir / "history.csv", self.rows)
        if self.tensorboard:
            if self._writer is None:
                self._writer = SummaryWriter(str(self.output_dir / "tensorboard"))
            row = self.rows[-1]
            for name, value in row.items():
                if name not in ("epoch", "iteration"):
                    group = "validation" if name.startswith("val_") else "training"
                    self._writer.add_scalar(f"{group}/{name}", value, int(row["iteration"]))
            self._writer.flush()
        if validated:
            # The scorer starts a new list, so these stay whole whatever the next validation does.
            self._pending = [] if self.scorer is None else self.scorer.panels
            if self._drawn is None or self.clock() - self._drawn >= self.picture_seconds:
                self._draw()

    def _draw(self) -> None:
        """Draw the last validation, unless it is drawn already."""
        if self._pending is None:
            return
        plot_curves(self.rows, self.output_dir / "curves.png")
        if self.scorer is not None and self._pending:
            plot_cases(self._pending, self.output_dir / "cases.png", self.scorer.class_names)
        self._pending = None
        self._drawn = self.clock()

    def _catch_up(self, engine: Any) -> None:
        """Write what the end of the training did not come to: pictures, session, page."""
        table = self.output_dir / "history.csv"
        made = table.stat().st_mtime_ns if table.is_file() else 0
        names = ["curves.png"]
        # Cases can be drawn again only where the last epoch was validated, by one process.
        if (
            self.scorer is not None
            and any(name.startswith("val_") for name in self.rows[-1])
            and not torch.distributed.is_initialized()
        ):
            names.append("cases.png")
        paths = [self.output_dir / name for name in names]
        if not all(_is_since(path, made) for path in paths):
            if len(paths) > 1:
                validate(self.evaluator, engine)
            self._pending = [] if self.scorer is None else self.scorer.panels
            self._draw()
        sessions = self._read_sessions()
        if sessions and sessions[-1]["ended"] == "under way":
            sessions[-1]["ended"] = "completed"
            self._write_sessions(sessions)
        latest = max(path.stat().st_mtime_ns for path in [table, *paths] if path.is_file())
        if not _is_since(self.output_dir / PAGE_NAME, latest):
            try_to_write_page(self.output_dir)

    def _interrupt(self) -> None:
        self._draw()
        self._end("interrupted")

    def _end(self, how: str) -> None:
        self._note(how)
        if self.rows:
            try_to_write_page(self.output_dir)

    def _raise(self, error: BaseException) -> None:
        try:
            self._draw()
        except Exception as problem:
            logger.warning("curves.png and cases.png are out of date: %s", problem)
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        stopped = isinstance(error, KeyboardInterrupt)
        try:
            self._end("interrupted" if stopped else f"ended by {reason}")
        except Exception as problem:
            logger.warning("training.json is out of date: %s", problem)
        raise error

    def _close(self) -> None:
        self._draw()
        self._end("completed")
        if self._writer is not None:
            self._writer.close()


def _is_since(path: Path, moment: int) -> bool:
    """Whether a file was written at that time of the clock, in ns, or later."""
    return path.is_file() and path.stat().st_mtime_ns >= moment
