"""The pages on losses and the package's public names."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

import mixseg.losses


@pytest.mark.parametrize("name", ["losses", "losses_compared"])
def test_examples_of_the_page_give_what_it_says(name: str) -> None:
    page = Path(__file__).parents[2] / "docs" / f"{name}.md"
    result = doctest.testfile(str(page), module_relative=False)
    assert result.attempted > 5
    assert result.failed == 0


def test_public_names() -> None:
    assert mixseg.losses.__all__ == [
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
        "bhattacharyya_distance",
        "certainty_weighted_kl",
        "classes_present",
        "dice_cross_entropy",
        "distillation",
        "entropy_map",
        "entropy_threshold",
        "feature_gradient_regularization",
        "gated_consistency",
        "generalized_jensen_shannon",
        "gradient_map",
        "image_class_cross_entropy",
        "image_cross_entropy",
        "image_dice_cross_entropy",
        "joint_distribution",
        "kl_divergence",
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
        "sample_logits",
        "self_paced_weights",
        "shannon_entropy",
        "sharpened_consistency",
        "soft_cross_entropy",
        "softmax_mse",
        "transformation_consistency",
        "tsallis_divergence",
    ]
    assert all(callable(getattr(mixseg.losses, name)) for name in mixseg.losses.__all__)


def test_no_function_hides_a_module_of_its_name() -> None:
    # `import mixseg.losses.x as x` would give the function.
    modules = {path.stem for path in Path(mixseg.losses.__path__[0]).glob("*.py")}
    assert modules & set(mixseg.losses.__all__) == set()
