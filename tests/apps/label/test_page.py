"""The answers on the page are those of the run whose result file is committed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "monai_label_rest.md").read_text(encoding="utf-8")
RESULTS = json.loads((ROOT / "benchmarks/results/label_end_to_end.json").read_text())
BLOCKS = re.findall(r"<!-- answer: (\w+)/([^\n]+) -->\n```json\n(.*?)```", PAGE, re.DOTALL)


def contains(whole: object, part: object) -> bool:
    """``part`` is ``whole``, or ``whole`` with keys left out at any depth."""
    if isinstance(whole, dict) and isinstance(part, dict):
        return all(k in whole and contains(whole[k], v) for k, v in part.items())
    return whole == part


def test_the_page_shows_answers() -> None:
    assert len(BLOCKS) >= 5


@pytest.mark.parametrize(("bundle", "answer", "text"), BLOCKS)
def test_answers_are_those_of_the_run(bundle: str, answer: str, text: str) -> None:
    assert contains(RESULTS["bundles"][bundle][answer], json.loads(text))


def test_predictions_were_equal_to_the_voxel() -> None:
    for bundle in ("acdc_lv_mixed", "la_mixed"):
        for when in ("before training", "after training, no restart"):
            assert RESULTS["bundles"][bundle][f"infer, {when}"]["different"] == 0
