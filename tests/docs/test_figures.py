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


def package(root: Path, name: str, **files: str) -> None:
    (root / name).mkdir()
    (root / name / "__init__.py").write_text(f'"""What {name} is for.\n\nMore.\n"""\n')
    for stem, content in files.items():
        (root / name / f"{stem}.py").write_text(content)


def test_imports_point_one_way(tool: Tool) -> None:
    assert tool("draw_architecture").faults(ROOT) == []


def test_the_picture_of_the_architecture_is_up_to_date(tool: Tool) -> None:
    drawn = tool("draw_architecture").draw(ROOT)
    assert_same_drawing(drawn, ROOT / "docs" / "figures" / "architecture.svg")


def test_imports_against_the_rule_are_named(tool: Tool, tmp_path: Path) -> None:
    architecture = tool("draw_architecture")
    package(tmp_path, "losses", terms="import torch\nfrom mixseg.losses import other\n")
    package(tmp_path, "data", cases="from mixseg.losses import terms\n")
    package(tmp_path, "objectives", method="import mixseg.losses.terms\n")
    package(
        tmp_path,
        "engines",
        step="from mixseg.objectives import Objective\nfrom mixseg.objectives import ConfKD\n",
        late="def f():\n    from mixseg.cli import main\n",
    )
    assert architecture.faults(tmp_path) == [
        "data/cases.py:1: data may not import losses",
        "engines/late.py:2: engines may not import cli",
        "engines/step.py:2: engines may know the protocol of objectives, not ConfKD",
    ]
    assert architecture.edges(tmp_path) == [
        ("data", "losses"), ("engines", "cli"), ("engines", "objectives"), ("objectives", "losses"),
    ]  # fmt: skip


def test_the_picture_shows_packages_edges_and_what_bundles_name(tool: Tool, tmp_path: Path) -> None:
    package(tmp_path, "losses")
    package(tmp_path, "objectives", method="from mixseg.losses import terms\n")
    configs = tmp_path / "bundles" / "one" / "configs"
    configs.mkdir(parents=True)
    (configs / "train.yaml").write_text("objective:\n  _target_: mixseg.objectives.ConfKD\n")
    drawing = tool("draw_architecture").draw(tmp_path)
    lines = texts(drawing)
    assert lines[:3] == ["bundles", "configuration only; its entries name parts of", "objectives"]
    assert "losses" in lines
    assert "What objectives is for" in lines
    assert drawing.count("<polygon") == 1  # one import, one arrow head


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
