"""The choice of the measure that orders predictions, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quality

ROOT = Path(__file__).resolve().parents[2]


def rows(values: dict[str, list[float]]) -> list[dict[str, Any]]:
    count = len(next(iter(values.values())))
    return [
        {"case_id": f"c{i}", "dice": i / count, **{name: v[i] for name, v in values.items()}}
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("passes", "chosen"),
    # Of four ranks 1 − 6 Σd² / 60: one swap of neighbors is 1 − 12/60 = 0.8, two are 0.6.
    [([1.0, 2.0, 3.0, 4.0], "passes_agreement"), ([2.0, 1.0, 3.0, 4.0], "expected_dice")],
)
def test_passes_must_gain_to_be_chosen(passes: list[float], chosen: str) -> None:
    part = rows(
        {
            "expected_dice": [1.0, 2.0, 4.0, 3.0],
            "mean_probability": [2.0, 1.0, 4.0, 3.0],
            "passes_agreement": passes,
        }
    )
    found = quality.choice({"heart": {"validation": part, "scribbled": part}})
    assert found["chosen"] == chosen
    means = found["mean_correlation_where_it_was_chosen"]
    assert means["expected_dice"] == pytest.approx(0.8)
    assert means["mean_probability"] == pytest.approx(0.6)


def test_what_is_said_of_the_test_cases() -> None:
    measured = [0.3, 0.1, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    found = quality._test(rows({"expected_dice": measured}), "expected_dice")
    # Ranks differ by 2, −1, −1: 1 − 6 · 6 / 990.
    assert found["spearman"] == pytest.approx(1 - 36 / 990, abs=5e-4)
    assert found["interval_95"][0] <= found["spearman"] <= found["interval_95"][1]
    # True last fifth: c0, c1; of the measure: c1, c2.
    assert found["worst_fifth"] == {"cases": 2, "found": 1}
    difference = np.abs(np.array(measured) - np.arange(10) / 10).mean()
    assert found["mean_absolute_difference"] == pytest.approx(difference, abs=5e-5)


def test_metadata_say_what_the_result_file_says() -> None:
    path = ROOT / "benchmarks" / "results" / "quality.json"
    measured = json.loads(path.read_text())["test"] if path.is_file() else {}
    for metadata in sorted(ROOT.glob("bundles/*/configs/metadata.json")):
        found = json.loads(metadata.read_text(encoding="utf-8")).get("expected_quality")
        result = measured.get(metadata.parents[1].name)
        assert (found is None) == (result is None)
        if found is not None:
            assert {name: found[name] for name in ("n", "spearman", "interval_95")} == {
                name: result[name] for name in ("n", "spearman", "interval_95")
            }
