"""The end of a run whose parent process is gone."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress

#: Environment variable with the process id of the command that started a run.
PARENT_VARIABLE = "MIXSEG_PARENT"
_INTERVAL = 0.5  # seconds between two looks


def end_with_parent() -> None:
    """End this process soon after the command that started it is gone, however that died.

    Nothing is done unless the environment says that a command did, see :data:`PARENT_VARIABLE`.
    The end is that by SIGTERM: a training resumes from its last checkpoint.
    """
    # Set by this process for those that it starts.
    if os.environ.get(PARENT_VARIABLE) == str(os.getpid()):
        return
    # Taken out: what this process starts has another parent.
    parent = os.environ.pop(PARENT_VARIABLE, "")
    if not parent or os.name != "posix":  # on Windows a process keeps the id of a dead parent
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(_INTERVAL)
        with suppress(OSError):  # the reader may be gone, too
            print(f"process {parent}, which started this one, is gone", file=sys.stderr)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()
