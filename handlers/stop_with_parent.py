"""The end of a training whose parent process is gone."""

from __future__ import annotations

import os
from collections.abc import Callable

from ignite.engine import Engine, Events

__all__ = ["StopWithParent"]


class StopWithParent:
    """End a training when the process that started it is gone.

    A server that is killed leaves its training behind, which would keep writing to files that the
    next server's training uses. What was trained since the last full-state checkpoint is repeated
    on resume.

    Args:
        parent: process id of the one that started the training.
        current: tells the parent's process id; on Windows it never changes, and a training whose
            server is gone ends when it writes to its closed log.
    """

    def __init__(self, parent: int, current: Callable[[], int] = os.getppid) -> None:
        self.parent = parent
        self.current = current

    def attach(self, engine: Engine) -> None:
        """Look after every iteration of ``engine``, a trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """End the process where the parent is another one.

        Raises:
            SystemExit: then.
        """
        if self.current() != self.parent:
            raise SystemExit(
                f"the server (process {self.parent}) is gone: training stops at iteration "
                f"{engine.state.iteration} and can be resumed"
            )
