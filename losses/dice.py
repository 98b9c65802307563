"""Soft Dice over the labelled voxels, and its mean with the cross-entropy."""

from __future__ import annotations

from monai.losses import DiceLoss
from torch import Tensor, nn

from mixseg.losses._common import prepare_logits, voxel_map
from mixseg.losses.partial import partial_cross_entropy


def partial_dice(logits: Tensor, label: Tensor, *, include_background: bool = False) -> Tensor:
    """Soft Dice loss over labelled voxels, 1 - (2 Σ p y + ε) / (Σ p² + Σ y² + ε), mean of classes.

    The form of UA-MT's code (Yu et al., MICCAI 2019): squares in the denominator, sums over the
    whole batch, ε = 1e-5, foreground only; for more than two classes the mean over the foreground
    classes. The softmax comes first and the mask after it: an unlabelled voxel changes neither the
    value nor any gradient. A class that is neither labelled nor predicted at labelled voxels adds
    0; one that is predicted though not labelled adds up to 1.

    Sums over the batch are no mean of single images, nor, under DDP, of the processes' batches:
    each process has the Dice of its own.

    Args:
        logits: (B, C, *spatial), floating point, C >= 2.
        label: (B, 1, *spatial) or (B, *spatial), integer or float dtype holding 0..C-1, or C where
            unlabelled. Other values are refused when data are loaded and not checked here.
        include_background: let class 0 take part in the mean over classes.

    Returns:
        Scalar within [0, 1]; float32 for half-precision logits. 0 with zero gradient, never NaN,
        when no voxel is labelled.

    Raises:
        TypeError: logits not floating point.
        ValueError: shapes do not match.

    Examples:
        >>> import torch
        >>> logits = torch.tensor([[[0.25, 0.5], [0.75, 0.5]]]).log()  # 2 classes, 2 pixels
        >>> label = torch.tensor([[[1, 2]]])  # the second pixel is unlabelled
        >>> round(partial_dice(logits, label).item(), 4)  # 1 - 2 · ¾ / (¾² + 1)
        0.04
    """
    logits = prepare_logits(logits)
    target = voxel_map(label, logits, name="label").long().unsqueeze(1)
    loss = DiceLoss(
        softmax=True,
        to_onehot_y=True,
        include_background=include_background,
        squared_pred=True,
        batch=True,
        ignore_index=logits.shape[1],
    )
    value: Tensor = loss(logits, target)
    return value


class PartialDiceLoss(nn.Module):
    """Module form of `partial_dice`."""

    def __init__(self, include_background: bool = False) -> None:
        super().__init__()
        self.include_background = include_background

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Scalar loss of logits (B, C, *spatial) and label (B, 1, *spatial) or (B, *spatial)."""
        return partial_dice(logits, label, include_background=self.include_background)

    def extra_repr(self) -> str:
        """Arguments shown by print."""
        return f"include_background={self.include_background}"


def partial_cross_entropy_dice(
    logits: Tensor, label: Tensor, *, include_background: bool = False
) -> Tensor:
    """½ (cross-entropy + soft Dice) over labelled voxels: UA-MT's supervised loss.

    `partial_cross_entropy`, divided by the labelled voxels, and `partial_dice`, whose arguments it
    takes.

    Returns:
        Scalar >= 0; float32 for half-precision logits. 0 with zero gradient when no voxel is
        labelled.

    Raises:
        TypeError: logits not floating point.
        ValueError: shapes do not match.

    Examples:
        >>> import torch
        >>> logits = torch.tensor([[[0.25, 0.5], [0.75, 0.5]]]).log()  # 2 classes, 2 pixels
        >>> label = torch.tensor([[[1, 2]]])  # the second pixel is unlabelled
        >>> round(partial_cross_entropy_dice(logits, label).item(), 4)  # ½ (-ln ¾ + 0.04)
        0.1638
    """
    dice = partial_dice(logits, label, include_background=include_background)
    return 0.5 * (partial_cross_entropy(logits, label) + dice)


class PartialCrossEntropyDiceLoss(PartialDiceLoss):
    """Module form of `partial_cross_entropy_dice`."""

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Scalar loss of logits (B, C, *spatial) and label (B, 1, *spatial) or (B, *spatial)."""
        return partial_cross_entropy_dice(logits, label, include_background=self.include_background)
