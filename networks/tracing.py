"""Networks as ``torch.jit.script`` takes them: their trace, whatever the choice of branch."""

from __future__ import annotations

import math

import torch
from monai.utils import ensure_tuple_rep
from torch import Tensor, nn


class Traced(nn.Module):
    """A trace in a module that ``torch.jit.script`` can compile."""

    def __init__(self, trace: nn.Module) -> None:
        super().__init__()
        self.trace = trace

    # Without a type of what it returns: the compiler takes the trace's, a tensor or a tuple.
    def forward(self, image: Tensor):  # type: ignore[no-untyped-def]
        """What the trace returns."""
        return self.trace(image)


def traced(network: nn.Module, in_channels: int, spatial_dims: int) -> Traced:
    """What a network computes in evaluation, for images of any batch and size that it takes.

    The type that its ``forward`` returns depends on the branch, which the compiler of
    ``torch.jit.script`` refuses, and with it ``monai.bundle ckpt_export``. A network returns this
    from ``__prepare_scriptable__``, where ``torch.jit.script`` asks for something to compile.
    """
    parameter = next(network.parameters())
    shape = example_shapes(network, in_channels, spatial_dims)[0]
    image = torch.zeros(shape, device=parameter.device, dtype=parameter.dtype)
    training = network.training
    network.eval()
    try:
        with torch.no_grad():
            trace = torch.jit.trace(network, image, check_trace=False)
    finally:
        network.train(training)
    return Traced(trace)


def example_shapes(network: nn.Module, channels: int, spatial_dims: int) -> list[list[int]]:
    """Shapes of images to trace a network with, and to compare the trace with it.

    Batches and sides of the later ones are others than the first one's. The last one has the sides
    of a training crop: for a divisor of 16, 112×112×80.

    Returns:
        (B, channels, *spatial) of each.
    """
    # One for all axes, or one each where the strides differ.
    divisors = ensure_tuple_rep(getattr(network, "size_divisor", 1), spatial_dims)
    smallest = 0 if getattr(network, "padded", True) else int(network.minimum_size)  # type: ignore[arg-type]
    batches_and_sides = [(2, (2, 3, 4)), (3, (4, 2, 3)), (1, (7, 7, 5))]
    return [
        [
            batch,
            channels,
            *(
                d * (math.ceil(smallest / d) + side)
                for d, side in zip(divisors, sides, strict=False)
            ),
        ]
        for batch, sides in batches_and_sides
    ]
