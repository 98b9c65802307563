"""One writer per folder."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import AcquireReturnProxy, FileLock, Timeout

#: The file in a claimed folder whose lock is held. It stays there, empty, after the release.
LOCK_NAME = ".lock"


def claim(
    folder: str | os.PathLike[str], purpose: str, patience: float = 0.0
) -> AcquireReturnProxy:
    """Claim a folder for one writing process; refuse a second one.

    Use it in a ``with`` statement, or keep what it returns for as long as the folder is written
    to: the claim ends with the block, with that object, and with the process, however it dies. The
    thread that holds a claim may claim the folder again. Of several ranks, only the one that writes
    claims.

    Args:
        folder: created if missing.
        purpose: what is refused to the second one, e.g. ``"this training"``.
        patience: seconds that the second one waits first.

    Raises:
        ValueError: another process or thread holds the folder.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # The same object for the same file: a notebook that runs a cell twice does not refuse itself.
    lock = FileLock(folder / LOCK_NAME, timeout=0, is_singleton=True)
    try:
        return lock.acquire(timeout=patience)
    except Timeout as error:
        raise ValueError(
            f"'{folder}' is in use: another process is running and writes to it (lock "
            f"'{folder / LOCK_NAME}'). Wait until it has ended, or give {purpose} another folder"
        ) from error
