"""The processes of one training on several devices or machines."""

from __future__ import annotations

from datetime import timedelta

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["averaging_ranks", "join_ranks"]


def join_ranks(backend: str, minutes: float = 10.0) -> None:
    """Make the process group of a training that ``torchrun`` started.

    Args:
        backend: ``"nccl"`` on CUDA, ``"gloo"`` on the CPU.
        minutes: that a process waits for another one in a collective operation. After that it
            fails, and torchrun ends the others: a process that was stopped, or hangs, ends the job
            and does not hold its devices for good. A validation, whose shares differ from process
            to process, must be shorter.

    Raises:
        ValueError: the time is not positive.
    """
    if minutes <= 0:
        raise ValueError(f"rank_timeout must be positive, got {minutes}")
    torch.distributed.init_process_group(backend, timeout=timedelta(minutes=minutes))


def averaging_ranks(step: nn.Module, device: torch.device, find_unused: bool) -> nn.Module:
    """A step whose gradients are averaged over the processes; the step itself in one process.

    Args:
        step: its trainable parameters, those that require a gradient now, are averaged.
        device: where it computes.
        find_unused: whether a pass may leave some of them without a gradient.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return step
    return DistributedDataParallel(
        step,
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=find_unused,
    )
