"""Processes that end with the command that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from mixseg.configuration.parent import PARENT_VARIABLE

#: Seconds that a process gets to end by itself: after Ctrl-C, which reached it as well, and after
#: SIGTERM.
_AFTER_INTERRUPT, _AFTER_TERMINATE = 20, 10


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM came, which reached this process alone."""


def _raise(number: int, frame: object) -> None:
    raise _TerminatedError


@contextmanager
def child(
    command: Sequence[str], environment: Mapping[str, str], **options: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that does not outlive this one.

    Whatever ends the block ends the process: an error, Ctrl-C, and SIGTERM, which is turned into
    KeyboardInterrupt within the block. A bundle's run ends by itself where this process is killed,
    see :func:`mixseg.configuration.end_with_parent`.
    """
    variables = {**environment, PARENT_VARIABLE: str(os.getpid())}
    # Signals are the main thread's.
    terminable = threading.current_thread() is threading.main_thread()
    if terminable:
        previous = signal.signal(signal.SIGTERM, _raise)
    process = None
    try:
        process = subprocess.Popen(command, env=variables, **options)
        yield process
    except KeyboardInterrupt as interrupt:
        if process is not None and not isinstance(interrupt, _TerminatedError):
            with suppress(subprocess.TimeoutExpired):
                process.wait(_AFTER_INTERRUPT)
        raise
    finally:
        if process is not None and process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_AFTER_TERMINATE)
            process.kill()
            process.wait()
        if terminable:
            signal.signal(signal.SIGTERM, previous)
