"""Loss terms: pure functions and thin modules, for C >= 2 classes in 2D and 3D."""

from __future__ import annotations

from mixseg.losses.divergences import (
    DistillationLoss,
    bhattacharyya_distance,
    distillation,
    kl_divergence,
    tsallis_divergence,
)
from mixseg.losses.entropy import ShannonEntropyLoss, entropy_map, shannon_entropy
from mixseg.losses.partial import PartialCrossEntropyLoss, partial_cross_entropy
from mixseg.losses.pseudo_label import PseudoLabelCrossEntropyLoss, pseudo_label_cross_entropy

__all__ = [
    "DistillationLoss",
    "PartialCrossEntropyLoss",
    "PseudoLabelCrossEntropyLoss",
    "ShannonEntropyLoss",
    "bhattacharyya_distance",
    "distillation",
    "entropy_map",
    "kl_divergence",
    "partial_cross_entropy",
    "pseudo_label_cross_entropy",
    "shannon_entropy",
    "tsallis_divergence",
]
