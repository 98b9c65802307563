"""Where an image is pasted onto another: a region of its label, or a random box.

Draws come from torch's global generator on the CPU: a resumed run restores it, and they depend
neither on the device nor, in their number, on the labels.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["draw_boxes", "draw_regions"]


def draw_regions(label: Tensor, num_classes: int) -> Tensor:
    """(B, 1, *spatial) bool: one annotated foreground class of each image; none where it has none.

    Args:
        label: (B, 1, *spatial), 0…C−1 and C = unlabelled.
        num_classes: C.

    Examples:
        >>> label = torch.tensor([[[0, 1, 2]], [[0, 0, 3]]])  # 3 is unlabelled, of C = 3
        >>> draw_regions(torch.where(label == 2, 0, label), 3).int().tolist()
        [[[0, 1, 0]], [[0, 0, 0]]]
    """
    draws = torch.rand(len(label), num_classes - 1).to(label.device)
    classes = torch.arange(1, num_classes, device=label.device)
    there = (label.flatten(1).unsqueeze(1) == classes[:, None]).any(dim=2)
    chosen = 1 + torch.where(there, draws, -1).argmax(dim=1)
    # Without any the argmax is class 1, which the label does not hold.
    return label == chosen.view(-1, *[1] * (label.ndim - 1))


def draw_boxes(label: Tensor) -> Tensor:
    """(B, 1, *spatial) bool: a random box of each image, as CutMix cuts it.

    Its share of the image is 1 - ν with ν from Beta(1, 1), its centre any voxel, and what lies
    beyond the border is cut off.
    """
    size = label.shape[2:]
    share = torch.rand(len(label))
    centres = torch.rand(len(label), len(size))
    inside = torch.ones_like(label, dtype=torch.bool)
    for axis, length in enumerate(size):
        half = (length * share ** (1 / len(size))).floor() // 2
        centre = (centres[:, axis] * length).floor()
        shape = (-1, *[1] * (axis + 1), length, *[1] * (len(size) - axis - 1))
        place = torch.arange(length)
        along = (place >= (centre - half)[:, None]) & (place < (centre + half)[:, None])
        inside &= along.reshape(shape).to(label.device)
    return inside
