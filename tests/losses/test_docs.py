"""The page on losses and the package's public names."""

from __future__ import annotations

import doctest
from pathlib import Path

import mixseg.losses


def test_examples_of_the_page_give_what_it_says() -> None:
    page = Path(__file__).parents[2] / "docs" / "losses.md"
    result = doctest.testfile(str(page), module_relative=False)
    assert result.attempted > 5
    assert result.failed == 0


def test_public_names() -> None:
    assert mixseg.losses.__all__ == [
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
