"""Learning from distributions: refined labels of Self-Correcting, guidance of Macro-Micro."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from mixseg.losses._common import check_same_shape, prepare_logits, voxel_mean
from mixseg.losses.divergences import kl_divergence


def linear_refinement(logits: Tensor, ancillary_logits: Tensor, alpha: float) -> Tensor:
    """Labels between a network's and an ancillary's prediction, softmax((l + α l_anc) / (1 + α)).

    The linear self-correction of Ibrahim et al., 'Semi-supervised semantic image segmentation with
    self-correcting networks', CVPR 2020: the distribution q that minimizes
    KL(q‖p) + α KL(q‖p_anc), the normalized geometric mean of p and p_anc with weights 1 and α.

    Args:
        logits: (B, C, *spatial), floating point, C >= 2.
        ancillary_logits: same shape.
        alpha: α >= 0; 0 gives p, a large one p_anc.

    Returns:
        Probabilities (B, C, *spatial), a fixed target without gradient; float32 for half precision.

    Raises:
        TypeError: logits not floating point.
        ValueError: shapes do not match, or alpha is negative.

    Examples:
        >>> import torch
        >>> p = torch.tensor([[[0.9], [0.1]]]).log()  # (1, 2 classes, 1 pixel)
        >>> q = linear_refinement(p, -p, alpha=1)  # as sure of the contrary
        >>> [round(value, 4) for value in q.flatten().tolist()]
        [0.5, 0.5]
    """
    if not alpha >= 0:
        raise ValueError(f"alpha must not be negative, got {alpha}")
    check_same_shape(logits, ancillary_logits, ("logits", "ancillary_logits"))
    own = prepare_logits(logits).detach()
    ancillary = prepare_logits(ancillary_logits, name="ancillary_logits").detach()
    return ((own + alpha * ancillary) / (1 + alpha)).softmax(dim=1)


def soft_cross_entropy(logits: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean cross-entropy with distributions as labels, -Σ_c q_c log p_c.

    Args:
        logits: (B, C, *spatial), floating point, C >= 2.
        target: probabilities q of the same shape, a fixed target.
        mask: bool, (B, 1, *spatial) or (B, *spatial), the voxels that count; None for all.

    Returns:
        Scalar >= 0 in nats; float32 for half-precision logits. 0 with zero gradient where no voxel
        counts.

    Raises:
        TypeError: logits not floating point, or the mask not bool.
        ValueError: shapes do not match.

    Examples:
        >>> import torch
        >>> logits = torch.tensor([[[0.25], [0.75]]]).log()  # (1, 2 classes, 1 pixel)
        >>> target = torch.full_like(logits, 0.5)
        >>> round(soft_cross_entropy(logits, target).item(), 4)  # -½ ln 3/16
        0.837
    """
    check_same_shape(logits, target, ("logits", "target"))
    log_p = prepare_logits(logits).log_softmax(dim=1)
    target = target.as_subclass(Tensor).detach().to(log_p.dtype)
    return voxel_mean(-(target * log_p).sum(dim=1), logits, mask)


def certainty_weighted_kl(guide_logits: Tensor, logits: Tensor) -> Tensor:
    """Mean of w KL(p‖q) over voxels, with the guide's certainty w = 1 - H(p) / ln C.

    After the uncertainty-weighted guidance of Ning et al., 'A macro-micro weakly-supervised
    framework for AS-OCT tissue segmentation', MICCAI 2020; the uncertainty here is the entropy of
    the guide's softmax. An undecided guide counts nothing, and its voxels stay in the divisor.

    Args:
        guide_logits: (B, C, *spatial), floating point, C >= 2: p, a fixed target.
        logits: same shape: q.

    Returns:
        Scalar >= 0 in nats; float32 for half-precision logits.

    Raises:
        TypeError: logits not floating point.
        ValueError: shapes do not match.

    Examples:
        >>> import torch
        >>> guide = torch.tensor([[[0.5, 1.0], [0.5, 1e-9]]]).log()  # 2 pixels: undecided, and sure
        >>> logits = torch.tensor([[[0.1, 0.25], [0.9, 0.75]]]).log()
        >>> round(certainty_weighted_kl(guide, logits).item(), 4)  # (0 + ln 4) / 2
        0.6931
    """
    check_same_shape(guide_logits, logits, ("guide_logits", "logits"))
    guide = prepare_logits(guide_logits, name="guide_logits").detach()
    log_p = F.log_softmax(guide, dim=1)
    log_q = prepare_logits(logits).log_softmax(dim=1)
    certainty = 1 + (log_p.exp() * log_p).sum(dim=1) / math.log(guide.shape[1])
    return voxel_mean(certainty.clamp(min=0) * kl_divergence(log_p, log_q), logits, None)
