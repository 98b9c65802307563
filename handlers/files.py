"""Files that are either the old one or the new one, whatever happens in between."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

__all__ = ["ensure_writable", "write_atomically"]


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write to a temporary name in the same folder, flush to the disk, then rename.

    Args:
        path: the file.
        write: is given the open binary file.

    Raises:
        OSError: when the file cannot be written (disk full, no permission); names the file, and
            leaves what was there before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # torch.save reports a full disk as a RuntimeError of its zip writer.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(f"{path} could not be written, its last version is kept: {error}") from error


def ensure_writable(folders: Iterable[str | os.PathLike[str]]) -> None:
    """Create folders and write a probe into each, before any work is spent.

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
                "choose another folder with --output_dir and --ckpt_dir"
            ) from error
