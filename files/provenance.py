"""Where a number comes from: versions, commit, hardware, and the hashes of files."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

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


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    return hash_of(path, "sha256")


def hash_of(path: str | os.PathLike[str], kind: str) -> str:
    """Hexadecimal hash of a file's content, of any kind that :mod:`hashlib` has."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False))
    return digest.hexdigest()
