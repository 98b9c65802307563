"""Logit adjustment: labels whose classes are not as frequent as in a whole image."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["log_prior_ratio"]

#: No class is taken to be more than e³ ≈ 20 times as frequent as elsewhere, nor less than 1/20.
_LIMIT = 3.0


def log_prior_ratio(label: Tensor, reference: Tensor, num_classes: int) -> Tensor:
    """How much more frequent each class is among the labels than in a reference, as a logarithm.

    log π(c) − log π_ref(c), with π the shares of the classes among the labeled voxels of either
    batch, each class counted once more than it occurs. Added to the logits of a network whose
    outputs follow the reference's frequencies, it gives the posterior under those of ``label``
    (Menon et al., Long-tail learning via logit adjustment, ICLR 2021, equation 8): scribbles hold
    far more foreground than an image does, and a network that is fitted to them without this shift
    draws objects too large.

    Args:
        label: integer or float dtype holding 0..C-1, or C where unlabeled, any shape.
        reference: the same, of images whose frequencies are to be learned; any shape.
        num_classes: C, background included.

    Returns:
        (C,) float32, within [-3, 3]; 0 where either has no labeled voxel.

    Examples:
        Half of the labels are foreground, and a quarter of the reference (with one more of each):

        >>> label, reference = torch.tensor([0, 1, 2, 2]), torch.tensor([0, 0, 0, 0, 0, 1])
        >>> [round(value.item(), 3) for value in log_prior_ratio(label, reference, 2).exp()]
        [0.667, 2.0]
    """
    shares = []
    for labels in (label, reference):
        count = torch.bincount(labels.flatten().long(), minlength=num_classes + 1)[:num_classes]
        if not count.any():
            return torch.zeros(num_classes, device=label.device)
        shares.append((count + 1) / (count + 1).sum())
    return (shares[0] / shares[1]).log().clamp(-_LIMIT, _LIMIT)
