"""Validation while training."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events


class Validation:
    """Run an evaluator every ``interval`` epochs and after the last one.

    MONAI's ``ValidationHandler`` does neither the last epoch nor the network swap: where the
    trainer keeps a moving average of the weights, that is the network to validate. The global
    random state is afterwards what it was before: how often one validates changes no weight.

    Under ``torch.distributed`` every process first takes the batch statistics of the process that
    writes the checkpoints: each has its own since the last step, and all must score one network.
    A process without a case, see :class:`mixseg.data.CaseShare`, scores none and gets the scores of
    the others.

    Args:
        evaluator: a :class:`mixseg.engines.MixedSupervisionEvaluator`.
        interval: epochs between two validations.

    Raises:
        ValueError: when the interval is below 1.
    """

    def __init__(self, evaluator: Any, interval: int = 1) -> None:
        if interval < 1:
            raise ValueError(f"val_interval must be at least 1, got {interval}")
        self.evaluator = evaluator
        self.interval = interval

    def attach(self, engine: Engine) -> None:
        """Validate after epochs of ``engine``, a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Validate, if the epoch is one to validate after."""
        state = engine.state
        if state.epoch % self.interval == 0 or state.epoch == state.max_epochs:
            validate(self.evaluator, engine)


def validate(evaluator: Any, engine: Any) -> None:
    """Score the network of ``engine``, a trainer, as it stands after the trainer's epoch."""
    evaluator.network = engine.inference_network
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    for buffer in evaluator.network.buffers() if distributed else ():
        torch.distributed.broadcast(buffer, src=0)
    epoch = engine.state.epoch
    # A loader draws a seed whenever it is read: training continues as if it had not.
    with torch.random.fork_rng(devices=[]):
        if distributed and not len(evaluator.data_loader):
            # MONAI's evaluator would not start, and the others wait for this one's scores.
            evaluator.state.epoch = epoch
            evaluator.fire_event(Events.EPOCH_STARTED)
            evaluator.fire_event(Events.EPOCH_COMPLETED)
        else:
            evaluator.run(epoch)
