"""A progress bar over the whole training run."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from tqdm.auto import tqdm


class ProgressBar:
    """One bar for all iterations, with the epoch, the losses and the last validation score.

    Ignite's own bar restarts at 0 after a resume and reads the losses at every iteration, which
    waits for CUDA each time.

    Args:
        every: iterations between two readings of the losses.
        key: metric of the validator to show, e.g. ``"val_dice_student"``.
        evaluator: the validator, None to show losses only.
        enabled: False for a silent run.
    """

    def __init__(
        self, every: int = 10, key: str = "", evaluator: Engine | None = None, enabled: bool = True
    ) -> None:
        self.every = every
        self.key = key
        self.evaluator = evaluator
        self.enabled = enabled
        self._bar: tqdm | None = None

    def attach(self, engine: Engine) -> None:
        """Open the bar when training starts, close it when training ends in any way."""
        if self.enabled:
            engine.add_event_handler(Events.STARTED, self._open)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
            engine.add_event_handler(Events.COMPLETED, self._close)

    def _open(self, engine: Any) -> None:
        # The last to see an error: Ignite tells no handler after the one that raises it again.
        if not engine.has_event_handler(self._raise, Events.EXCEPTION_RAISED):
            engine.add_event_handler(Events.EXCEPTION_RAISED, self._raise)
        total = engine.state.max_epochs * engine.state.epoch_length
        self._bar = tqdm(
            total=total, initial=engine.state.iteration, unit="it", dynamic_ncols=True, leave=True
        )

    def _update(self, engine: Any) -> None:
        assert self._bar is not None
        self._bar.update()
        if engine.state.iteration % self.every == 0:
            # A trainer leaves its losses there, an evaluator images.
            output = engine.state.output[0] if hasattr(engine, "objective") else {}
            shown = {name: f"{value:.3g}" for name, value in output.items()}
            if self.evaluator is not None and self.key in self.evaluator.state.metrics:
                shown["val dice"] = f"{self.evaluator.state.metrics[self.key]:.3f}"
            self._bar.set_description(f"epoch {engine.state.epoch}/{engine.state.max_epochs}")
            self._bar.set_postfix(shown, refresh=False)

    def _close(self, _: Any = None) -> None:
        if self._bar is not None:
            self._bar.close()

    def _raise(self, _: Any, error: BaseException) -> None:
        self._close()
        raise error
