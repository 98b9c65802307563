"""The page on metrics."""

from __future__ import annotations

import doctest
from pathlib import Path


def test_examples_of_the_page_give_what_it_says() -> None:
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    result = doctest.testfile(str(page), module_relative=False)
    assert result.attempted > 5
    assert result.failed == 0
