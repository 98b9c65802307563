"""A training that is ended while it writes; benchmarks/crash_points.py does it at every point."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are forked")
def test_a_resumed_training_leaves_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    from crash_points import crash_points

    found = crash_points(tmp_path, points=10)
    assert len(found) == 10
    assert max(found) >= 60
    assert {point: names for point, names in found.items() if names} == {}
