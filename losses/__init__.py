"""Loss terms: pure functions and thin modules, for C >= 2 classes in 2D and 3D."""

from __future__ import annotations

from mixseg.losses.co_training import CoTrainingLoss, generalized_jensen_shannon
from mixseg.losses.consistency import (
    GatedConsistencyLoss,
    SoftmaxMSELoss,
    TransformationConsistencyLoss,
    entropy_threshold,
    gated_consistency,
    predictive_entropy,
    softmax_mse,
    transformation_consistency,
)
from mixseg.losses.dice import (
    PartialCrossEntropyDiceLoss,
    PartialDiceLoss,
    partial_cross_entropy_dice,
    partial_dice,
)
from mixseg.losses.divergences import (
    DistillationLoss,
    bhattacharyya_distance,
    distillation,
    kl_divergence,
    tsallis_divergence,
)
from mixseg.losses.entropy import ShannonEntropyLoss, entropy_map, shannon_entropy
from mixseg.losses.mutual_information import (
    MutualInformationLoss,
    joint_distribution,
    mutual_information_of,
    negative_mutual_information,
)
from mixseg.losses.partial import PartialCrossEntropyLoss, partial_cross_entropy
from mixseg.losses.pseudo_label import PseudoLabelCrossEntropyLoss, pseudo_label_cross_entropy
from mixseg.losses.self_paced import self_paced_weights

__all__ = [
    "CoTrainingLoss",
    "DistillationLoss",
    "GatedConsistencyLoss",
    "MutualInformationLoss",
    "PartialCrossEntropyDiceLoss",
    "PartialCrossEntropyLoss",
    "PartialDiceLoss",
    "PseudoLabelCrossEntropyLoss",
    "ShannonEntropyLoss",
    "SoftmaxMSELoss",
    "TransformationConsistencyLoss",
    "bhattacharyya_distance",
    "distillation",
    "entropy_map",
    "entropy_threshold",
    "gated_consistency",
    "generalized_jensen_shannon",
    "joint_distribution",
    "kl_divergence",
    "mutual_information_of",
    "negative_mutual_information",
    "partial_cross_entropy",
    "partial_cross_entropy_dice",
    "partial_dice",
    "predictive_entropy",
    "pseudo_label_cross_entropy",
    "self_paced_weights",
    "shannon_entropy",
    "softmax_mse",
    "transformation_consistency",
    "tsallis_divergence",
]
