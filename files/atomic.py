"""Files that are never half written, and folders that can be written to."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import math
import os
import platform
import re
import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np


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
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise OSError(
                f"{folder} cannot be written ({error.strerror or error}): "
                f"choose another folder with {options}"
            ) from error


def write_atomically(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that readers, and a crash, see the old content or the new, never a part.

    The content goes to a temporary name in the same folder, is flushed to the disk and renamed. No
    two writers share a temporary name, and a link at either name is not followed: the file takes
    the link's place. What a killed writer of the same file left behind is removed.

    Args:
        path: target; missing parent folders are made.
        write: is given the open binary file.

    Raises:
        OSError: if the file cannot be written (disk full, no permission); names the file, and
            leaves what was there before.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{_HOST}-{os.getpid()}-{next(_COUNTER)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        # Exclusive creation fails at any file or link that is there.
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except (OSError, RuntimeError) as error:
        # torch.save reports a full disk as a RuntimeError of its zip writer.
        raise OSError(
            f"{target} could not be written, its last version is kept: {error}"
        ) from error
    finally:
        # After the rename there is none; an interrupt leaves none either.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


#: Tells machines apart that share a folder: process ids alone do not.
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_COUNTER = itertools.count()
_LEFTOVER = re.compile(rf"{_HOST}-(\d+)-\d+\.tmp")


def _remove_leftovers(target: Path) -> None:
    """Remove temporary files of the target that processes of this machine left when killed."""
    prefix = f".{target.name}."
    for name in os.listdir(target.parent):
        found = _LEFTOVER.fullmatch(name, len(prefix)) if name.startswith(prefix) else None
        if found and not _is_alive(int(found[1])):
            with contextlib.suppress(OSError):
                target.with_name(name).unlink()


def _is_alive(process: int) -> bool:
    if os.name != "posix":
        return True  # on Windows, signal 0 would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def write_text_atomic(path: str | os.PathLike[str], text: str) -> None:
    """:func:`write_atomically` for text, in UTF-8.

    A file name that is not UTF-8 stands in it as Python and JSON write it (``\\udce9`` for the byte
    0xe9): the report of a prediction must not fail at the name of an image.

    Raises:
        OSError: if the file cannot be written; names it, and leaves what was there before.
    """
    write_bytes_atomic(path, text.encode("utf-8", "backslashreplace"))


def write_bytes_atomic(path: str | os.PathLike[str], content: bytes) -> None:
    """:func:`write_atomically` of a whole file at once."""
    write_atomically(path, lambda file: file.write(content))


def write_csv(
    path: str | os.PathLike[str],
    rows: Sequence[Mapping[str, Any]],
    columns: Iterable[str] | None = None,
) -> None:
    """Write rows as CSV, atomically; what a row lacks, and None, is an empty cell.

    Args:
        path: target file.
        rows: column → value; floats are written so that they read back to the bit.
        columns: in their order; None for those of the rows, in the order in which they come.
    """
    names = dict.fromkeys(name for row in rows for name in row) if columns is None else columns
    text = io.StringIO()
    table = csv.DictWriter(text, list(names), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text_atomic(path, text.getvalue())


def strict_json(value: Any) -> str:
    """Indented JSON that every parser reads: NaN and infinities become null.

    Args:
        value: nested mappings, sequences, sets and scalars. NumPy scalars and arrays become numbers
            and lists; anything else (paths, devices) becomes its text.

    Returns:
        JSON text that ends with a newline.

    Examples:
        >>> print(strict_json({"dice": float("nan"), "n": np.int64(3)}), end="")
        {
          "dice": null,
          "n": 3
        }
    """
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    return text + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_plain(item) for item in value), key=str)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value)
