"""How much memory there is left."""

from __future__ import annotations

import math
import os
from pathlib import Path

from monai.utils import optional_import


def free_memory() -> int:
    """Bytes that a process can still have without swapping; 0 where the system does not tell.

    The free memory of the machine (``/proc/meminfo``, or psutil where it is installed, or half of
    what is built in), within the limit of the container (cgroup v2).
    """
    return int(min(_machine_memory(), _container_memory()))


def _machine_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    psutil, installed = optional_import("psutil")
    if installed:
        return int(psutil.virtual_memory().available)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return 0


def _container_memory(folder: Path = Path("/sys/fs/cgroup")) -> int | float:
    """What the container's limit leaves; infinite without one."""
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        if limit == "max":
            return math.inf
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        fields = dict(
            line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines()
        )
        # Cached files are given up before memory runs out.
        return max(0, int(limit) - used + int(fields["inactive_file"]))
    except (OSError, KeyError, ValueError):
        return math.inf
