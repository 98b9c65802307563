"""Shape checks, compute precision and masked means shared by the loss terms."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


def prepare_logits(logits: Tensor, *, name: str = "logits") -> Tensor:
    """Check logits and bring them to the precision in which losses are computed.

    Args:
        logits: (B, C, *spatial) with C >= 2, floating point.
        name: what error messages call the tensor.

    Returns:
        The same values as a plain tensor: float32 for half precision (so that a term means the
        same inside and outside autocast), otherwise the dtype unchanged.

    Raises:
        TypeError: not floating point.
        ValueError: no spatial axis, or fewer than two classes.
    """
    if not logits.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {logits.dtype}")
    if logits.ndim < 3 or logits.shape[1] < 2:
        raise ValueError(
            f"{name} must be (B, C, *spatial) with C >= 2 and at least one spatial axis, "
            f"got shape {tuple(logits.shape)}"
        )
    if type(logits) is not Tensor:
        # MetaTensor's bookkeeping costs more than the arithmetic and means nothing for a loss.
        logits = logits.as_subclass(Tensor)
    return in_full_precision(logits)


def in_full_precision(values: Tensor) -> Tensor:
    """Half precision as float32."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def check_same_shape(first: Tensor, second: Tensor, names: tuple[str, str]) -> None:
    """Raise ValueError, naming both, where their shapes differ."""
    if first.shape != second.shape:
        raise ValueError(
            f"{names[0]} and {names[1]} must have the same shape, got "
            f"{tuple(first.shape)} and {tuple(second.shape)}"
        )


def voxel_map(values: Tensor, logits: Tensor, *, name: str) -> Tensor:
    """Check a label map or mask against its logits and drop its channel axis.

    Args:
        values: (B, 1, *spatial) or (B, *spatial).
        logits: (B, C, *spatial).
        name: what error messages call the map.

    Returns:
        A plain tensor (B, *spatial), dtype unchanged.

    Raises:
        ValueError: batch or spatial shape differs from that of the logits.
    """
    batch, _, *spatial = logits.shape
    shape = tuple(values.shape)
    if shape not in ((batch, *spatial), (batch, 1, *spatial)):
        raise ValueError(
            f"{name} must have shape {(batch, 1, *spatial)} or {(batch, *spatial)} to match "
            f"logits of shape {tuple(logits.shape)}, got {shape}"
        )
    if type(values) is not Tensor:
        values = values.as_subclass(Tensor)
    return values.reshape(batch, *spatial)


def voxel_mean(values: Tensor, logits: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over voxels of the batch, or over those that a mask selects.

    Args:
        values: (B, *spatial), one number per voxel.
        logits: (B, C, *spatial), against which the mask's shape is checked.
        mask: bool, (B, 1, *spatial) or (B, *spatial); None selects every voxel.

    Returns:
        Scalar. 0 with zero gradient, never NaN, when no voxel is selected.

    Raises:
        TypeError: the mask is not bool (weights are not a mask).
        ValueError: the mask's shape does not match.
    """
    if mask is None:
        return values.sum() / max(values.numel(), 1)
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be bool, got {mask.dtype}")
    selected = voxel_map(mask, logits, name="mask")
    # The count stays on the device: reading it on the host would stall the GPU at every step.
    return torch.where(selected, values, 0).sum() / divisor(selected.sum(), values)


def divisor(count: Tensor, summed: Tensor) -> Tensor:
    """Divisor of a sum over ``count`` voxels: the count, at least 1.

    Under ``torch.distributed`` DDP averages the gradients of the processes. Dividing each sum by
    the mean count of all processes makes that the gradient of the mean over all their voxels, as
    if one process had the whole batch; with its own count a process with few labeled voxels would
    weigh as much as one with many. Without a gradient to average the own count is taken.

    Args:
        count: scalar, voxels summed in this process.
        summed: what is summed; whether it needs a gradient is all that is read.
    """
    if not (dist.is_available() and dist.is_initialized() and summed.requires_grad):
        return count.clamp(min=1)
    everywhere = count.detach().clone()
    dist.all_reduce(everywhere)
    return everywhere.clamp(min=1) / dist.get_world_size()


class LossModule(nn.Module):
    """Base of the module forms of loss terms: ``print`` shows their settings."""

    def extra_repr(self) -> str:
        """Settings in the order in which they were set."""
        settings = {k: v for k, v in vars(self).items() if k != "training" and k[0] != "_"}
        return ", ".join(f"{name}={value!r}" for name, value in settings.items())
