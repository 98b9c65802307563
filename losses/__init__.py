"""Loss terms: pure functions and thin modules, for C >= 2 classes in 2D and 3D."""

from __future__ import annotations

from mixseg.losses.adversarial import feature_matching, labeled_maps, real_or_fake
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
    DiceCrossEntropyLoss,
    PartialCrossEntropyDiceLoss,
    PartialDiceLoss,
    dice_cross_entropy,
    image_dice_cross_entropy,
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
from mixseg.losses.feature_gradients import (
    FeatureGradientLoss,
    feature_gradient_regularization,
    gradient_map,
)
from mixseg.losses.image_class import (
    ClassConsistencyLoss,
    classes_present,
    image_class_cross_entropy,
    low_confidence_consistency,
)
from mixseg.losses.last_layer import image_cross_entropy, last_layer_gradients
from mixseg.losses.mutual_information import (
    MutualInformationLoss,
    joint_distribution,
    mutual_information_of,
    negative_mutual_information,
)
from mixseg.losses.partial import PartialCrossEntropyLoss, partial_cross_entropy
from mixseg.losses.pseudo_label import PseudoLabelCrossEntropyLoss, pseudo_label_cross_entropy
from mixseg.losses.reconstruction import attention_reconstruction
from mixseg.losses.sampling import sample_logits
from mixseg.losses.self_paced import self_paced_weights
from mixseg.losses.sharpening import (
    SharpeningLoss,
    adaptive_temperature,
    sharpened_consistency,
)
from mixseg.losses.soft_targets import (
    certainty_weighted_kl,
    linear_refinement,
    soft_cross_entropy,
)

__all__ = [
    "ClassConsistencyLoss",
    "CoTrainingLoss",
    "DiceCrossEntropyLoss",
    "DistillationLoss",
    "FeatureGradientLoss",
    "GatedConsistencyLoss",
    "MutualInformationLoss",
    "PartialCrossEntropyDiceLoss",
    "PartialCrossEntropyLoss",
    "PartialDiceLoss",
    "PseudoLabelCrossEntropyLoss",
    "ShannonEntropyLoss",
    "SharpeningLoss",
    "SoftmaxMSELoss",
    "TransformationConsistencyLoss",
    "adaptive_temperature",
    "attention_reconstruction",
    "bhattacharyya_distance",
    "certainty_weighted_kl",
    "classes_present",
    "dice_cross_entropy",
    "distillation",
    "entropy_map",
    "entropy_threshold",
    "feature_gradient_regularization",
    "feature_matching",
    "gated_consistency",
    "generalized_jensen_shannon",
    "gradient_map",
    "image_class_cross_entropy",
    "image_cross_entropy",
    "image_dice_cross_entropy",
    "joint_distribution",
    "kl_divergence",
    "labeled_maps",
    "last_layer_gradients",
    "linear_refinement",
    "low_confidence_consistency",
    "mutual_information_of",
    "negative_mutual_information",
    "partial_cross_entropy",
    "partial_cross_entropy_dice",
    "partial_dice",
    "predictive_entropy",
    "pseudo_label_cross_entropy",
    "real_or_fake",
    "sample_logits",
    "self_paced_weights",
    "shannon_entropy",
    "sharpened_consistency",
    "soft_cross_entropy",
    "softmax_mse",
    "transformation_consistency",
    "tsallis_divergence",
]
