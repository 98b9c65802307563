"""docs/weak_labels.md: its examples run, and results are as the text says."""

from __future__ import annotations

import doctest
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "weak_labels.md"


def test_examples() -> None:
    result = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert result.attempted > 5
    assert result.failed == 0


def test_result_meets_the_promise() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "erosion.json").read_text())
    assert all(rule["bit_equal"] for rule in result["rules"].values())
    assert result["rules"]["kervadec"]["ratio"] >= 5


def test_free_negatives_cover_more_and_err_more_the_smaller_the_radius() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "free_negatives.json").read_text())
    for setting in {row["setting"] for row in result["rows"]}:
        rows = [row for row in result["rows"] if row["setting"] == setting]
        rows.sort(key=lambda row: row["radius"])
        assert sum(row["calibrated"] for row in rows) == 1
        for key in ("background_covered", "foreground_wrong", "negatives_wrong"):
            values = [row[key] for row in rows]
            assert values == sorted(values, reverse=True)


def test_noisy_masks_are_worse_the_more_they_are_distorted() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "noise.json").read_text())
    for kind in ("ellipse", "stroke", "box", "mixed"):
        rows = [row for row in result["rows"] if row["kind"] == kind]
        levels, means = ([row[key] for row in rows] for key in ("distortion", "mean"))
        assert levels == sorted(levels)
        assert means == sorted(means, reverse=True)
        assert levels[0] == 0
