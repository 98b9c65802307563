"""Cost of a network, and resources of the machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mixseg.engines.inferers import available_memory
from mixseg.networks import DualBranchDynUNet, DualBranchUNet, DualBranchVNet

#: Floating-point operations a second of one CPU core in the networks' convolutions: between 10 and
#: 60 · 10⁹ were seen. Good for the order of magnitude of a training time.
CORE_FLOPS = 20e9

_RECIPE: Callable[..., nn.Module] = partial(
    DualBranchDynUNet, branches=1, norm="instance", res_block=False
)
#: Method → spatial dimensions → the network of its template.
NETWORKS: dict[str, dict[int, Callable[..., nn.Module]]] = {
    "mixed": {2: _RECIPE, 3: _RECIPE},
    "confkd": {2: DualBranchUNet, 3: DualBranchVNet},
}


@dataclass(frozen=True)
class Machine:
    """Where the bundle is to be trained.

    Attributes:
        cuda: whether on a CUDA device.
        memory: bytes that the training may take there; half of what is free.
        cores: CPU cores.
        host_memory: bytes that the cases may take in the memory of the host.
        seconds: that a training on a CPU should not take much longer than.
    """

    cuda: bool
    memory: float
    cores: int
    host_memory: float
    seconds: float = 5400.0

    def __str__(self) -> str:
        kind = "CUDA device" if self.cuda else f"CPU, {self.cores} cores"
        return f"{kind}, {self.memory / 1e9:.1f} GB for the training"


def this_machine(
    device: str = "auto", memory_gb: float | None = None, minutes: float | None = None
) -> Machine:
    """The machine at hand.

    Args:
        device: ``"cuda"`` or ``"cpu"``, whatever there is; ``"auto"`` is CUDA where there is one.
        memory_gb: memory to plan for, in 10⁹ bytes; None measures half of what is free.
        minutes: time to plan for on a CPU; None is an hour and a half.

    Raises:
        ValueError: the memory of a CUDA device is asked for and there is none to measure.
    """
    there = torch.cuda.is_available()
    cuda = there if device == "auto" else device == "cuda"
    if cuda and not there and memory_gb is None:
        raise ValueError(
            "there is no CUDA device here to measure: say how much memory the other machine's has "
            "with --memory (GB)"
        )
    host = 0.5 * available_memory("cpu")
    memory = host
    if memory_gb is not None:
        memory = memory_gb * 1e9
    elif cuda:
        memory = 0.5 * available_memory("cuda")
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    limit = {} if minutes is None else {"seconds": 60 * minutes}
    return Machine(cuda, memory, cores, host if cuda else memory, **limit)


@dataclass(frozen=True)
class Cost:
    """Of one iteration, for each voxel of the batch, and of the network itself.

    Attributes:
        bytes: activations that are kept for the backward pass, float32.
        flops: operations of forward and backward pass.
        fixed_bytes: weights, gradients and optimizer.
    """

    bytes: float
    flops: float
    fixed_bytes: float


@cache
def network_cost(
    method: str, spatial_dims: int, features: Sequence[int], channels: int, classes: int
) -> Cost:
    """Count what a training step of the bundle's network keeps and computes.

    Counted on the CPU with a tiny image, and the same everywhere: activations grow with the
    voxels, whatever the device.
    """
    options: dict[str, Any] = {"in_channels": channels, "out_channels": classes}
    with torch.random.fork_rng(devices=[]):
        make = NETWORKS[method][spatial_dims]
        network = make(spatial_dims=spatial_dims, features=tuple(features), **options)
        side = 2 ** len(features)
        image = torch.zeros(2, channels, *(side,) * spatial_dims)
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            FlopCounterMode(display=False) as counter,
        ):
            output = network(image)
            branches = (output,) if isinstance(output, torch.Tensor) else output
            torch.stack([logits.square().mean() for logits in branches]).sum().backward()
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    voxels = image.shape[0] * side**spatial_dims
    return Cost(
        bytes=(sum(kept.values()) - weights) / voxels,
        flops=counter.get_total_flops() / voxels,
        fixed_bytes=4 * weights,
    )
