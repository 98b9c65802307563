"""Self-paced weights of students that learn from their ensemble."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mixseg.losses.co_training import stacked_log_probabilities


@torch.no_grad()
def self_paced_weights(
    logits: Sequence[Tensor],
    gamma: float,
    *,
    threshold: float = 0.8,
    floor: float = 1e-5,
    unconfident_weight: float = 0.0,
) -> Tensor:
    """Weight of each student at each voxel, w_k = max(1 - KL(y ‖ p_k) / γ, 1e-5): SSCO.

    Wang et al., 'Self-paced and self-consistent co-training for semi-supervised image
    segmentation', MedIA 2021. The target y is the class whose mean probability over all N students
    exceeds the threshold, so that KL(y ‖ p_k) = -log p_k[y]: a student far from a confident
    ensemble is left out until γ, which grows while training, admits it.

    Where no class is that probable there is no y. The authors' code then has an empty target, whose
    KL is 0, and gives such a voxel, the hardest of all, the weight 1. By default it is left out
    (weight 0, see `generalized_jensen_shannon`): no student is taught what the ensemble does not
    know.
    ``unconfident_weight=1`` is the authors' reading, by which the plain Jensen-Shannon divergence
    holds there; a reproduction of their figures needs it.

    Args:
        logits: N >= 2 students' logits (B, C, *spatial) of the same images, in one frame.
        gamma: γ > 0 (authors: 0.2 growing to 8).
        threshold: confidence that a class's mean probability must exceed, in [½, 1), so that at
            most one class does.
        floor: smallest weight of a student at a voxel with a target, in [0, 1].
        unconfident_weight: weight of every student at a voxel without a target, in [0, 1].

    Returns:
        (N, B, *spatial) within [0, 1], without a gradient; float32 for half-precision logits.

    Raises:
        TypeError: logits not floating point.
        ValueError: fewer than two students, shapes differ, or an option out of range.

    Examples:
        Two pixels: the students agree on the first, with mean 0.9, and not on the second.

        >>> first = torch.tensor([[[0.05, 0.1], [0.95, 0.9]]]).log()  # 2 classes, 2 pixels
        >>> second = torch.tensor([[[0.15, 0.9], [0.85, 0.1]]]).log()
        >>> weights = self_paced_weights([first, second], gamma=1.0)
        >>> [round(w, 4) for w in weights.flatten().tolist()]  # 1 + ln 0.95, 0, 1 + ln 0.85, 0
        [0.9487, 0.0, 0.8375, 0.0]
    """
    if not gamma > 0:
        raise ValueError(f"gamma must be positive, got {gamma}")
    if not 0.5 <= threshold < 1:
        raise ValueError(f"threshold must lie in [0.5, 1), got {threshold}")
    for name, value in (("floor", floor), ("unconfident_weight", unconfident_weight)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {value}")
    log_p = stacked_log_probabilities(logits)
    confidence, target = log_p.exp().mean(dim=0).max(dim=1, keepdim=True)
    index = target.expand(len(logits), *target.shape)
    divergence = -log_p.gather(2, index).squeeze(2)
    weights = (1 - divergence / gamma).clamp(min=floor)
    return torch.where(confidence.squeeze(1) > threshold, weights, unconfident_weight)
