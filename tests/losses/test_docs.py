"""The pages on losses, and names that hide modules."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

import mixseg.losses


@pytest.mark.parametrize("name", ["losses", "losses_compared", "losses_entropy"])
def test_examples_of_the_page_give_what_it_says(name: str) -> None:
    page = Path(__file__).parents[2] / "docs" / f"{name}.md"
    result = doctest.testfile(str(page), module_relative=False)
    assert result.attempted > 5
    assert result.failed == 0


def test_no_function_hides_a_module_of_its_name() -> None:
    # `import mixseg.losses.x as x` would give the function.
    modules = {path.stem for path in Path(mixseg.losses.__path__[0]).glob("*.py")}
    assert modules & set(mixseg.losses.__all__) == set()
