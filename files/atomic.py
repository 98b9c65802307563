"""Folders that can be written, known before any work is spent."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["ensure_writable"]


def ensure_writable(
    folders: Iterable[str | os.PathLike[str]], options: str = "--output_dir and --ckpt_dir"
) -> None:
    """Create folders and write a probe into each, before any work is spent.

    Args:
        folders: to create and probe.
        options: of the command that choose them, for the message.

    Raises:
        OSError: naming the folder that cannot be written and what to set instead.
    """
    for folder in map(Path, folders):
        probe = folder / f".probe.{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise OSError(
                f"{folder} cannot be written ({error.strerror or error}): "
                f"choose another folder with {options}"
            ) from error
