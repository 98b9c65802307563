"""Gradients of one training on several devices or machines."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def averaging_ranks(step: nn.Module, device: torch.device, find_unused: bool) -> nn.Module:
    """A step whose gradients are averaged over the processes; the step itself in one process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return step
    return DistributedDataParallel(
        step,
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=find_unused,
    )
