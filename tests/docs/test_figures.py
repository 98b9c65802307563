"""The drawn figures: what they show is what the code does, and the files are up to date."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
Tool = Callable[[str], ModuleType]
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def assert_same_drawing(drawn: str, path: Path) -> None:
    """Equal but for the last digit of a coordinate, which may differ between versions."""
    kept = path.read_text(encoding="utf-8")
    hint = f"{path.name} is out of date: run its script in docs/tools"
    assert NUMBER.sub("", drawn) == NUMBER.sub("", kept), hint
    numbers = [np.array(NUMBER.findall(text), dtype=float) for text in (drawn, kept)]
    np.testing.assert_allclose(*numbers, atol=0.15, err_msg=hint)


def texts(drawing: str) -> list[str]:
    """The lines of text of a drawing, in their order."""
    found = ET.fromstring(drawing).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(line.itertext()).replace("\u200b", "") for line in found]


def test_figures_of_the_methods_are_up_to_date(tool: Tool) -> None:
    folder = ROOT / "docs" / "figures" / "methods"
    figures = tool("draw_methods").figures()
    assert sorted(figures) == sorted(path.name for path in folder.iterdir())
    for name, drawn in figures.items():
        assert_same_drawing(drawn, folder / name)


@pytest.mark.parametrize(
    ("method", "terms", "arrows"),
    [
        # Images to encoder, encoder to branches, branches to terms.
        ("lower_bound", ["Ls, eq. 1"], 1 + 1 + 1),
        ("single", ["Ls, eq. 1", "λw · Lw, eq. 2"], 2 + 2 + 2),
        ("decoupled", ["Ls, eq. 1", "λw · Lw, eq. 2"], 2 + 2 + 2),
        ("kl", ["Ls, eq. 1", "λkd · Lkd, eq. 3", "λw · Lw, eq. 2"], 2 + 3 + 4),
        (
            "confkd",
            ["Ls, eq. 1", "λkd · Lkd, eq. 3", "λw · Lw, eq. 2", "λent · Lent, eq. 4"],
            2 + 3 + 5,
        ),
    ],
)
def test_a_method_shows_its_active_terms(
    tool: Tool, method: str, terms: list[str], arrows: int
) -> None:
    methods = tool("draw_methods")
    drawing = methods.flow(*methods.METHODS[method])
    shown = [line for line in texts(drawing) if line.startswith(("λ", "Ls"))]
    assert shown == terms
    assert drawing.count("<polygon") == arrows
    assert ("not computed" in texts(drawing)) == (method in ("lower_bound", "single"))
