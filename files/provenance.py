"""Where a number comes from (versions, commit, hardware), and files that are never half written."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

__all__ = ["environment", "strict_json", "write_atomically", "write_bytes_atomic"]

_DISTRIBUTIONS = ("torch", "monai", "mixseg", "numpy", "scipy")


def environment() -> dict[str, Any]:
    """Versions, commit, hardware and time of this run, for a result file.

    Returns:
        ``versions`` (Python and distributions, None where one is not installed), ``git_commit``
        and ``git_modified`` (None when the running code is not a tracked file of a git checkout),
        ``hardware`` (``cpu`` model, ``cpu_count`` usable by this process, ``torch_threads``,
        ``gpu`` name or None) and ``date`` (UTC, ISO 8601).
    """
    commit, modified = _git_state(Path(__file__).resolve())
    return {
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in _DISTRIBUTIONS},
        },
        "git_commit": commit,
        "git_modified": modified,
        "hardware": {
            "cpu": _cpu_model(),
            "cpu_count": _cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


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


def write_atomically(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that readers, and a crash, see the old content or the new, never a part.

    The content goes to a temporary name in the same folder, is flushed to the disk and renamed.

    Args:
        path: target; missing parent folders are made.
        write: is given the open binary file.

    Raises:
        OSError: if the file cannot be written (disk full, no permission); names the file, and
            leaves what was there before.
    """
    target = Path(path)
    # One name for all writers of the file: what a killed run left is overwritten, not kept.
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except (OSError, RuntimeError) as error:
        # torch.save reports a full disk as a RuntimeError of its zip writer.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(
            f"{target} could not be written, its last version is kept: {error}"
        ) from error


def write_bytes_atomic(path: str | os.PathLike[str], content: bytes) -> None:
    """:func:`write_atomically` of a whole file at once."""
    write_atomically(path, lambda file: file.write(content))


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


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _git_state(source: Path) -> tuple[str | None, bool | None]:
    """Commit that holds `source`, and whether tracked files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(source.parent), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()

    try:
        # An installed copy can lie inside somebody else's checkout, whose commit says nothing.
        git("ls-files", "--error-unmatch", source.name)
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, model = line.partition(":")
        if key.strip() == "model name":
            return model.strip()
    return platform.processor() or platform.machine() or None


def _cpu_count() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()
