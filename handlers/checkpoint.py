"""Full-state checkpoints, the selected weights, resume and early stop."""

from __future__ import annotations

import logging
import math
import os
import sys
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from mixseg.configuration.start import begin_training, release_run
from mixseg.data.samplers import process_share
from mixseg.files.atomic import write_atomically
from mixseg.files.weights import load_tensors

logger = logging.getLogger(__name__)


class FullCheckpoint:
    """Write everything needed to resume after each epoch, and the best weights for use.

    ``output_dir/checkpoint.pt`` is the full state after the last epoch, with the one before it
    beside it as ``checkpoint_previous.pt``; ``output_dir/model_last.pt`` the last weights, at the
    end, also where a run is resumed whose epochs are all done; ``ckpt_dir/model.pt`` the weights of
    the best validation so far (a plain state dict, for inference and MONAI Label), and so does
    ``output_dir/models/model.pt``. Each file is written under a temporary name, flushed and
    renamed.

    A training of a bundle that has not recorded itself does so when it is run; see
    :func:`mixseg.configuration.begin_training`.

    Attach it after the validator and the other handlers, so that it sees their results.

    Args:
        output_dir: folder of the run.
        ckpt_dir: folder of ``model.pt``.
        evaluator: the validator whose metrics select; None keeps the latest weights.
        key: metric to maximize, e.g. ``"val_dice_student"``.
        interval: epochs between two full checkpoints; the last epoch is always written. A killed
            run repeats at most so many epochs, with the same result.
        patience: stop after so many epochs without a better validation; 0 never stops early.
        resume: resume from ``output_dir/checkpoint.pt`` where it exists.

    Raises:
        ValueError: an interval below 1 or a negative patience; on resume, when the checkpoint
            belongs to a run with other settings, or no checkpoint that is there can be read.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        ckpt_dir: str | os.PathLike[str],
        *,
        evaluator: Engine | None = None,
        key: str = "val_dice_student",
        interval: int = 1,
        patience: int = 0,
        resume: bool = False,
    ) -> None:
        if interval < 1:
            raise ValueError(f"checkpoint_interval must be at least 1, got {interval}")
        if patience < 0:
            raise ValueError(f"patience must not be negative, got {patience}")
        self.path = Path(output_dir) / "checkpoint.pt"
        self.previous = self.path.with_name("checkpoint_previous.pt")
        self.last = self.path.with_name("model_last.pt")
        self.model = Path(ckpt_dir) / "model.pt"
        own = self.path.parent / "models" / "model.pt"
        # The run's folder is a bundle, wherever else its weights are wanted.
        self.models = list(dict.fromkeys((self.model, own)))
        self.evaluator = evaluator
        self.key = key
        self.interval = interval
        self.patience = patience
        self.resume = resume
        self.best = -math.inf
        self.best_epoch = 0

    def attach(self, engine: Any) -> None:
        """Take part in ``engine``, a :class:`mixseg.engines.MixedSupervisionTrainer`."""
        engine.register_state("selection", self)
        engine.before_run += [lambda _: begin_training(anew=False), self._resume]
        engine.when_done.append(self._end)
        engine.after_run.append(lambda _: release_run(self.path.parent))
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        engine.add_event_handler(Events.COMPLETED, self._end)
        engine.add_event_handler(Events.INTERRUPT, self._end)

    def state_dict(self) -> dict[str, Any]:
        """Best score so far and its epoch; ``model.pt`` holds its weights."""
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo of :meth:`state_dict`."""
        self.best, self.best_epoch = state["best"], state["best_epoch"]

    def _is_writer(self) -> bool:
        return process_share()["rank"] == 0

    def _resume(self, engine: Any) -> None:
        if not self.resume:
            return
        unreadable = []
        for path in (self.path, self.previous):
            if not path.is_file():
                continue
            try:
                # The weights go to the network's device when they are copied into it.
                state = load_tensors(path)
            except ValueError as error:
                logger.warning("%s: trying the one before", error)
                unreadable.append(str(path))
                continue
            engine.load_full_state(state)
            if self._is_patience_over(engine.state.epoch):
                engine.state.max_epochs = engine.state.epoch  # it stopped early and is done
            logger.info("resuming %s after epoch %d", path, engine.state.epoch)
            return
        if unreadable:
            raise ValueError(
                f"cannot resume, unreadable: {', '.join(unreadable)}. Remove them to start "
                "from the beginning, or train with --overwrite in the place of --resume"
            )
        logger.info("no checkpoint in %s: starting from the beginning", self.path.parent)

    def _epoch(self, engine: Any) -> None:
        state = engine.state
        score = math.nan
        if self.evaluator is not None and self.evaluator.state.epoch == state.epoch:
            score = self.evaluator.state.metrics.get(self.key, math.nan)
        if score > self.best or self.evaluator is None:
            self.best = max(self.best, score)
            self.best_epoch = state.epoch
            if self._is_writer():
                for path in self.models:
                    self._save(path, engine.inference_network.state_dict())
        if (state.epoch % self.interval == 0 or state.epoch == state.max_epochs) and (
            self._is_writer()
        ):
            content = _canonical(engine.full_state())
            if self.path.is_file():
                os.replace(self.path, self.previous)
            self._save(self.path, content)
        if self._is_patience_over(state.epoch):
            logger.info("no better %s since epoch %d: stopping early", self.key, self.best_epoch)
            engine.terminate()

    def _is_patience_over(self, epoch: int) -> bool:
        return 0 < self.patience <= epoch - self.best_epoch and self.best_epoch > 0

    def _end(self, engine: Any) -> None:
        if not self._is_writer():
            return
        self._save(self.last, engine.inference_network.state_dict())
        if self.best_epoch:
            chosen = "the last" if self.evaluator is None else f"{self.key} {self.best:.4f}"
            logger.info("weights of epoch %d (%s) are in %s", self.best_epoch, chosen, self.model)

    def _save(self, path: Path, content: Any) -> None:
        write_atomically(path, lambda file: torch.save(content, file))


def _canonical(value: Any) -> Any:
    """An equal value whose texts and containers are shared in one way, however it came about.

    Pickle refers to an object that occurs twice. What was loaded from a file is other objects than
    what a process made itself, so that equal states would differ in their bytes.
    """
    if type(value) is str:
        return sys.intern(value)
    if type(value) is dict:
        return {_canonical(key): _canonical(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_canonical, value))
    return value
