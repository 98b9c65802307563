"""docs/weak_labels.md: its examples run, and its table is the committed result's."""

from __future__ import annotations

import doctest
import json
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "weak_labels.md"


def test_examples() -> None:
    result = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert result.attempted > 5
    assert result.failed == 0


def test_table_is_generated_from_the_result_file() -> None:
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "erosion.py"))
    result = json.loads((ROOT / "benchmarks" / "results" / "erosion.json").read_text())
    text = PAGE.read_text(encoding="utf-8")
    shown = text.split(benchmark["BEGIN"])[1].split(benchmark["END"])[0]
    assert shown == benchmark["table"](result)


def test_result_meets_the_promise() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "erosion.json").read_text())
    assert all(rule["bit_equal"] for rule in result["rules"].values())
    assert result["rules"]["kervadec"]["ratio"] >= 5


def test_noisy_masks_are_worse_the_more_they_are_distorted() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "noise.json").read_text())
    for kind in ("ellipse", "stroke", "box", "mixed"):
        rows = [row for row in result["rows"] if row["kind"] == kind]
        levels, means = ([row[key] for row in rows] for key in ("distortion", "mean"))
        assert levels == sorted(levels)
        assert means == sorted(means, reverse=True)
        assert levels[0] == 0
