"""A sample of the damaged inputs; ``python -m fuzz`` tries as many as there is time for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fuzz.__main__ import main
from fuzz.mutations import change_bytes, change_json


@pytest.mark.slow
def test_damaged_inputs_are_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "fuzz.json"
    words = ["fuzz", "--count", "150", "--seed", "1", "--output", str(output)]
    monkeypatch.setattr("sys.argv", words)
    assert main() == 0, capfd.readouterr().out
    targets = json.loads(output.read_text())["targets"]
    assert set(targets) == {"images", "labels", "datalists", "descriptions"}
    for result in targets.values():
        assert result["inputs"] == 150
        assert result["accepted"] + result["refused"] == 150
    # Some changes leave a sound file, or the program would try nothing but noise.
    assert targets["images"]["accepted"] > 10
    # Libraries say nothing on their own.
    assert capfd.readouterr().err.strip() == ""


def test_the_same_seed_makes_the_same_inputs() -> None:
    content = bytes(range(256)) * 4
    made = [change_bytes(np.random.default_rng([0, n]), content) for n in range(30)]
    assert made == [change_bytes(np.random.default_rng([0, n]), content) for n in range(30)]
    assert len(set(made)) == 30
    assert all(change_bytes(np.random.default_rng(n), content, 1000)[:1000] == content[:1000]
               for n in range(30))  # fmt: skip
    value = {"a": [1, {"b": "c"}]}
    assert change_json(np.random.default_rng(0), value) == change_json(
        np.random.default_rng(0), value
    )
    assert value == {"a": [1, {"b": "c"}]}
