"""The page on metrics and the package's public names."""

from __future__ import annotations

import doctest
from pathlib import Path

import mixseg.metrics


def test_examples_of_the_page_give_what_it_says() -> None:
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    result = doctest.testfile(str(page), module_relative=False)
    assert result.attempted > 5
    assert result.failed == 0


def test_public_names() -> None:
    assert mixseg.metrics.__all__ == [
        "CaseScore",
        "average_symmetric_surface_distance",
        "dice_coefficient",
        "hd95_pooled",
        "pooled_hd95_and_assd",
        "score_case",
        "summarize",
        "surface_distances",
        "surface_voxels",
        "volume_diagonal",
    ]
