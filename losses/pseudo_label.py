"""Cross-entropy with the network's own hard predictions as labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mixseg.losses._common import prepare_logits, voxel_mean


def pseudo_label_cross_entropy(logits: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean min-entropy, -log max_c p_c: cross-entropy with the argmax as a fixed target.

    Liu et al. (ConfKD, journal version), §3.6: what training on hard pseudo-masks minimizes. It
    bounds the Shannon entropy from below, but its gradient does not vanish for an undecided voxel;
    the alternative to `shannon_entropy` against which the paper argues.

    Args:
        logits: (B, C, *spatial), floating point, C >= 2. On a tie the first class is the target.
        mask: bool, (B, 1, *spatial) or (B, *spatial); voxels to average over, None for all.

    Returns:
        Scalar within [0, ln C] in nats; float32 for half-precision logits. 0 with zero gradient
        when the mask selects nothing.

    Raises:
        TypeError: logits not floating point, or mask not bool.
        ValueError: shapes do not match.

    Examples:
        >>> import torch
        >>> logits = torch.tensor([[[0.25, 0.5], [0.75, 0.5]]]).log()  # 2 classes, 2 pixels
        >>> round(pseudo_label_cross_entropy(logits).item(), 4)  # mean of -ln 0.75 and -ln 0.5
        0.4904
    """
    logits = prepare_logits(logits)
    # An explicit target, not amax: amax would share a tie's gradient, which no hard label does.
    values = F.cross_entropy(logits, logits.argmax(dim=1), reduction="none")
    return voxel_mean(values, logits, mask)


class PseudoLabelCrossEntropyLoss(nn.Module):
    """Module form of `pseudo_label_cross_entropy`."""

    def forward(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scalar loss of logits (B, C, *spatial) over the voxels of mask (B, 1, *spatial)."""
        return pseudo_label_cross_entropy(logits, mask=mask)
