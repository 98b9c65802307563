"""How many threads a run takes on a machine that it shares."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import torch

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def default_threads() -> int:
    """Half of the processors that this process may use, at least one.

    PyTorch's default is one thread a processor: beside another job that computes, each iteration
    then waits for the thread that gets no processor. The number depends on the machine alone, so
    that a resumed run computes to the bit what the interrupted one would have.
    """
    if hasattr(os, "sched_getaffinity"):
        usable: float = len(os.sched_getaffinity(0))
    else:
        usable = os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no control group, or none with a quota
        quota, period = _QUOTA.read_text(encoding="ascii").split()
        usable = min(usable, int(quota) / int(period))
    return max(1, int(usable) // 2)


def share_processors() -> None:
    """Let PyTorch take :func:`default_threads`, unless OMP_NUM_THREADS says how many."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), default_threads()))
