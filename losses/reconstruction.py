"""Reconstruction of each class's part of an image."""

from __future__ import annotations

from torch import Tensor

from mixseg.losses._common import prepare_logits


def attention_reconstruction(
    reconstruction: Tensor, image: Tensor, logits: Tensor, *, through_attention: bool = True
) -> Tensor:
    """Mean squared error of reconstructions of the parts that a soft segmentation attends to.

    Chen et al., 'Multi-task attention-based semi-supervised learning for medical image
    segmentation', MICCAI 2019: the target of class c is the image times the probability of c. With
    two classes these are the paper's foreground and background.

    Args:
        reconstruction: (B, C · channels, *spatial), floating point; those of class 0 first.
        image: (B, channels, *spatial).
        logits: (B, C, *spatial), floating point, C >= 2.
        through_attention: let the gradient reach the logits through the target.

    Returns:
        Scalar >= 0, the mean over voxels, channels and classes; float32 for half precision.

    Raises:
        TypeError: logits not floating point.
        ValueError: shapes do not match.

    Examples:
        >>> import torch
        >>> logits = torch.zeros(1, 2, 3)  # undecided: each class's target is half of the image
        >>> attention_reconstruction(torch.zeros(1, 2, 3), torch.full((1, 1, 3), 4), logits).item()
        4.0
    """
    logits = prepare_logits(logits)
    batch, classes, *spatial = logits.shape
    channels = image.shape[1]
    wanted = (batch, classes * channels, *spatial)
    if tuple(reconstruction.shape) != wanted or image.shape != (batch, channels, *spatial):
        raise ValueError(
            f"a reconstruction of images of shape {tuple(image.shape)} with logits of shape "
            f"{tuple(logits.shape)} must have shape {wanted}, got {tuple(reconstruction.shape)}"
        )
    attention = logits.softmax(dim=1)
    if not through_attention:
        attention = attention.detach()
    target = attention[:, :, None] * image.as_subclass(Tensor)[:, None]
    difference = reconstruction.reshape(target.shape).to(target.dtype) - target
    return difference.square().mean()
