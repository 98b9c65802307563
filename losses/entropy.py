"""Shannon entropy of the predictions."""

from __future__ import annotations

from torch import Tensor, nn

from mixseg.losses._common import prepare_logits, voxel_mean


def entropy_map(logits: Tensor) -> Tensor:
    """Shannon entropy of every voxel's softmax, H(p) = -p^T log p.

    Args:
        logits: (B, C, *spatial), floating point, C >= 2.

    Returns:
        (B, *spatial) in nats, within [0, ln C]; float32 for half-precision logits.

    Raises:
        TypeError: logits not floating point.
        ValueError: no spatial axis, or fewer than two classes.

    Examples:
        >>> import torch
        >>> logits = torch.zeros(1, 4, 1)  # 4 classes, 1 pixel, undecided
        >>> round(entropy_map(logits).item(), 4)  # ln 4
        1.3863
    """
    # p comes from log p, never the reverse: log 0 = -inf would make 0 · log 0 NaN.
    log_p = prepare_logits(logits).log_softmax(dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)


def shannon_entropy(logits: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean Shannon entropy of the predictions: L_ent, which asks the student for confidence.

    Liu et al. (ConfKD, journal version), eq. 4, as a mean over voxels instead of a sum.

    Args:
        logits: (B, C, *spatial), floating point, C >= 2.
        mask: bool, (B, 1, *spatial) or (B, *spatial); voxels to average over, None for all.

    Returns:
        Scalar within [0, ln C] in nats; float32 for half-precision logits. 0 with zero gradient
        when the mask selects nothing.

    Raises:
        TypeError: logits not floating point, or mask not bool.
        ValueError: shapes do not match.

    Examples:
        >>> import torch
        >>> logits = torch.tensor([[[0.0, 50.0], [0.0, 0.0]]])  # 2 pixels: undecided, and sure
        >>> round(shannon_entropy(logits).item(), 4)  # mean of ln 2 and 0
        0.3466
        >>> first = torch.tensor([[True, False]])
        >>> round(shannon_entropy(logits, mask=first).item(), 4)
        0.6931
    """
    return voxel_mean(entropy_map(logits), logits, mask)


class ShannonEntropyLoss(nn.Module):
    """Module form of `shannon_entropy`."""

    def forward(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scalar loss of logits (B, C, *spatial) over the voxels of mask (B, 1, *spatial)."""
        return shannon_entropy(logits, mask=mask)
