"""Soft Dice over the labeled voxels, and with the cross-entropy: their mean, their sum."""

from __future__ import annotations

import torch
from monai.losses import DiceLoss
from torch import Tensor, nn

from mixseg.losses._common import prepare_logits, voxel_map
from mixseg.losses.last_layer import image_cross_entropy
from mixseg.losses.partial import partial_cross_entropy


def partial_dice(logits: Tensor, label: Tensor, *, include_background: bool = False) -> Tensor:
    """Soft Dice loss over labeled voxels, 1 - (2 Σ p y + ε) / (Σ p² + Σ y² + ε), mean of classes.

    The form of UA-MT's code (Yu et al., MICCAI 2019): squares in the denominator, sums over the
    whole batch, ε = 1e-5, foreground only; for more than two classes the mean over the foreground
    classes. The softmax comes first and the mask after it: an unlabeled voxel changes neither the
    value nor any gradient. A class that is neither labeled nor predicted at labeled voxels adds
    0; one that is predicted though not labeled adds up to 1.

    Sums over the batch are not the mean over images, nor, under DDP, of the processes' batches:
    each process has the Dice of its own.

    Args:
        logits: (B, C, *spatial), floating point, C >= 2.
        label: (B, 1, *spatial) or (B, *spatial), integer or float dtype holding 0..C-1, or C where
            unlabeled. Other values are refused when data are loaded and not checked here.
        include_background: let class 0 take part in the mean over classes.

    Returns:
        Scalar within [0, 1]; float32 for half-precision logits. 0 with zero gradient, never NaN,
        when no voxel is labeled.

    Raises:
        TypeError: logits not floating point.
        ValueError: shapes do not match.

    Examples:
        >>> import torch
        >>> logits = torch.tensor([[[0.25, 0.5], [0.75, 0.5]]]).log()  # 2 classes, 2 pixels
        >>> label = torch.tensor([[[1, 2]]])  # the second pixel is unlabeled
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
    """½ (cross-entropy + soft Dice) over labeled voxels: UA-MT's supervised loss.

    `partial_cross_entropy`, divided by the labeled voxels, and `partial_dice`, whose arguments it
    takes.

    Returns:
        Scalar >= 0; float32 for half-precision logits. 0 with zero gradient when no voxel is
        labeled.

    Raises:
        TypeError: logits not floating point.
        ValueError: shapes do not match.

    Examples:
        >>> import torch
        >>> logits = torch.tensor([[[0.25, 0.5], [0.75, 0.5]]]).log()  # 2 classes, 2 pixels
        >>> label = torch.tensor([[[1, 2]]])  # the second pixel is unlabeled
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


def dice_cross_entropy(
    logits: Tensor, label: Tensor, *, class_weight: Tensor | None = None
) -> Tensor:
    """Cross-entropy + soft Dice over the labeled voxels of a batch.

    The sum of `partial_cross_entropy`, divided by the labeled voxels, and the mean over the
    foreground classes of 1 - (2 Σ p y + ε) / (Σ p + Σ y + ε), ε = 1e-5, as in nnU-Net (Isensee et
    al., Nature Methods 2021) with its ignore label. The sums run over the labeled voxels of the
    whole batch, so that images without a class do not decide about it. A class that is labeled
    nowhere in the batch is left out of the mean: whatever the network predicts, its Dice would be
    near 1, and cross-entropy already says that it is wrong.

    The softmax comes first and the mask after it: an unlabeled voxel changes neither the value nor
    any gradient. Under DDP the cross-entropy is divided by the labeled voxels of all processes, and
    the Dice is that of each process's own batch.

    Args:
        logits: (B, C, *spatial), floating point, C >= 2.
        label: (B, 1, *spatial) or (B, *spatial), integer or float dtype holding 0..C-1, or C where
            unlabeled. Other values are refused when data are loaded and not checked here.
        class_weight: (C,) factor of each voxel in all sums, by the class that it is labeled with,
            on the device of the logits; None for 1. The cross-entropy is divided by the number of
            labeled voxels nevertheless, see `partial_cross_entropy`.

    Returns:
        Scalar >= 0; float32 for half-precision logits. 0 with zero gradient, never NaN, when no
        voxel is labeled.

    Raises:
        TypeError: logits not floating point.
        ValueError: shapes do not match.

    Examples:
        >>> import torch
        >>> logits = torch.tensor([[[0.25, 0.5], [0.75, 0.5]]]).log()  # 2 classes, 2 pixels
        >>> label = torch.tensor([[[1, 2]]])  # the second pixel is unlabeled
        >>> round(dice_cross_entropy(logits, label).item(), 4)  # -ln ¾ + 1 - 2 · ¾ / (¾ + 1)
        0.4305
        >>> label = torch.tensor([[[0, 2]]])  # no foreground: the cross-entropy alone, -ln ¼
        >>> round(dice_cross_entropy(logits, label).item(), 4)
        1.3863
    """
    cross_entropy = partial_cross_entropy(logits, label, class_weight=class_weight)
    if class_weight is None:
        return cross_entropy + _labeled_dice(logits, label, batch=True)
    return cross_entropy + _weighted_dice(logits, label, class_weight)


class DiceCrossEntropyLoss(nn.Module):
    """Module form of `dice_cross_entropy`."""

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Scalar loss of logits (B, C, *spatial) and label (B, 1, *spatial) or (B, *spatial)."""
        return dice_cross_entropy(logits, label)


def image_dice_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """`dice_cross_entropy` of each image by itself, for methods that weight images.

    `image_cross_entropy` and the soft Dice of the image's own labeled voxels. A class that is not
    labeled in an image is left out of that image's mean.

    Args:
        logits: (B, C, *spatial), floating point, C >= 2.
        label: (B, 1, *spatial) or (B, *spatial), holding 0..C-1, or C where unlabeled.

    Returns:
        (B,), >= 0; float32 for half-precision logits. 0 with zero gradient for an image without a
        labeled voxel.

    Raises:
        TypeError: logits not floating point.
        ValueError: shapes do not match.

    Examples:
        >>> import torch
        >>> logits = torch.tensor([[[0.25, 0.5], [0.75, 0.5]]]).log()  # 2 classes, 2 pixels
        >>> label = torch.tensor([[[1, 2]], [[0, 2]]])  # foreground in the first image alone
        >>> values = image_dice_cross_entropy(logits.expand(2, 2, 2), label)
        >>> [round(x, 4) for x in values.tolist()]
        [0.4305, 1.3863]
    """
    return image_cross_entropy(logits, label) + _labeled_dice(logits, label, batch=False)


def _labeled_dice(logits: Tensor, label: Tensor, *, batch: bool) -> Tensor:
    """Soft Dice loss, mean of the labeled foreground classes: a scalar, or (B,) by image."""
    logits = prepare_logits(logits)
    num_classes = logits.shape[1]
    target = voxel_map(label, logits, name="label").long().unsqueeze(1)
    loss = DiceLoss(
        softmax=True,
        to_onehot_y=True,
        include_background=False,
        batch=batch,
        reduction="none",
        ignore_index=num_classes,
    )
    # Classes last: (C - 1,) of the batch, (B, C - 1) by image.
    values = loss(logits, target).flatten(0 if batch else 1)
    voxels = target.flatten(0 if batch else 1)
    labeled = torch.stack([(voxels == c).any(dim=-1) for c in range(1, num_classes)], dim=-1)
    mean: Tensor = (values * labeled).sum(dim=-1) / labeled.sum(dim=-1).clamp(min=1)
    return mean


def _weighted_dice(logits: Tensor, label: Tensor, class_weight: Tensor) -> Tensor:
    """`_labeled_dice` of a batch whose voxels weigh as their class does, which MONAI's cannot."""
    logits = prepare_logits(logits)
    target = voxel_map(label, logits, name="label").unsqueeze(1)
    p, axes = logits.softmax(1), (0, *range(2, logits.ndim))
    masks = [target == c for c in range(logits.shape[1])]
    # [k, c]: probability of class c, summed over the voxels that are labeled k. Not by a product of
    # matrices, which autocast would take in half precision.
    sums = torch.stack([torch.where(mask, p, 0).sum(axes) for mask in masks])
    counts = torch.stack([mask.sum() for mask in masks])
    weight = class_weight.to(sums)
    overlap = (weight * sums.diagonal())[1:]
    total = ((weight[:, None] * sums).sum(0) + weight * counts)[1:]
    labeled = counts[1:] > 0
    values = 1 - (2 * overlap + 1e-5) / (total + 1e-5)
    return (values * labeled).sum() / labeled.sum().clamp(min=1)
