"""Generalized Jensen-Shannon divergence of several students."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mixseg.losses._common import LossModule, prepare_logits, voxel_mean


def stacked_log_probabilities(logits: Sequence[Tensor]) -> Tensor:
    """Log-probabilities (N, B, C, *spatial) of N >= 2 students' logits (B, C, *spatial).

    Raises:
        TypeError: logits not floating point.
        ValueError: fewer than two students, or shapes differ.
    """
    if len(logits) < 2:
        raise ValueError(f"logits of two students or more are needed, got {len(logits)}")
    shapes = [tuple(student.shape) for student in logits]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"logits of all students must have the same shape, got {', '.join(map(str, shapes))}"
        )
    return torch.stack([prepare_logits(student).log_softmax(dim=1) for student in logits])


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must lie in [0, 1], got {alpha}")


def generalized_jensen_shannon(
    logits: Sequence[Tensor],
    weights: Tensor | None = None,
    *,
    alpha: float = 0.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Generalized Jensen-Shannon divergence of N students with an entropy penalty: SSCO's L_co.

    Wang et al., 'Self-paced and self-consistent co-training for semi-supervised image
    segmentation', MedIA 2021, as a mean over voxels of

        H(Σ_k ŵ_k p_k) - (1 - α) · (1/N) Σ_k w_k H(p_k),    ŵ_k = w_k / Σ_l w_l.

    With all weights 1 it is the Jensen-Shannon divergence plus α times the students' mean entropy.
    Normalization per voxel runs over all N students (the authors' code is written for two, for
    which both agree). The second sum takes the weights as they are, as the code does: a voxel where
    every weight is small keeps its first term and asks for confidence. A voxel where every weight
    is exactly 0 adds nothing.

    Args:
        logits: N >= 2 students' logits (B, C, *spatial) of the same images, in one frame (rotated
            back where the students saw rotated images).
        weights: (N, B, *spatial) within [0, 1], of `mixseg.losses.self_paced_weights`; constants
            without a gradient. None is 1 everywhere.
        alpha: α in [0, 1], how much the students' own entropy is asked to shrink.
        mask: bool, (B, 1, *spatial) or (B, *spatial); voxels to average over, None for all.

    Returns:
        Scalar within [0, ln C] in nats up to rounding; float32 for half-precision logits. 0 with
        zero gradient when the mask selects nothing.

    Raises:
        TypeError: logits not floating point, or mask not bool.
        ValueError: shapes do not match, fewer than two students, or alpha out of range.

    Examples:
        >>> first = torch.tensor([[[0.25], [0.75]]]).log()  # (1, 2 classes, 1 pixel)
        >>> second = first.flip(1)
        >>> round(generalized_jensen_shannon([first, second]).item(), 4)  # ln 2 - H(¼, ¾)
        0.1308
        >>> round(generalized_jensen_shannon([first, first], alpha=0.5).item(), 4)  # ½ H(¼, ¾)
        0.2812
    """
    _check_alpha(alpha)
    log_p = stacked_log_probabilities(logits)
    entropies = -(log_p.exp() * log_p).sum(dim=2)
    if weights is None:
        log_mixture = log_p.logsumexp(dim=0) - math.log(len(logits))
        own = entropies.mean(dim=0)
    else:
        expected = (len(logits), *entropies.shape[1:])
        if tuple(weights.shape) != expected:
            raise ValueError(
                f"weights must have shape {expected} to match {len(logits)} logits of shape "
                f"{tuple(logits[0].shape)}, got {tuple(weights.shape)}"
            )
        weights = weights.detach().as_subclass(Tensor).to(log_p.dtype)
        log_weights = weights.clamp(min=torch.finfo(log_p.dtype).tiny).log()
        log_mixture = (log_p + log_weights.log_softmax(dim=0).unsqueeze(2)).logsumexp(dim=0)
        own = (weights * entropies).mean(dim=0)
    values = -(log_mixture.exp() * log_mixture).sum(dim=1) - (1 - alpha) * own
    if weights is not None:
        values = torch.where((weights > 0).any(dim=0), values, 0)
    return voxel_mean(values, logits[0], mask)


class CoTrainingLoss(LossModule):
    """Module form of `generalized_jensen_shannon`.

    Args:
        alpha: α in [0, 1]; an attribute, so that it can be ramped while training.

    Raises:
        ValueError: alpha out of range.
    """

    def __init__(self, alpha: float = 0.0) -> None:
        super().__init__()
        _check_alpha(alpha)
        self.alpha = alpha

    def forward(
        self, logits: Sequence[Tensor], weights: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Scalar loss of N logits (B, C, *spatial) and weights (N, B, *spatial)."""
        return generalized_jensen_shannon(logits, weights, alpha=self.alpha, mask=mask)
