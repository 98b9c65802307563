"""The script that walks journeys of users: its strokes, and what it keeps when interrupted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from journeys import UNLABELED, Walk, dice, strokes
from measured import journeys_block


def test_strokes_lie_on_their_classes_and_away_from_them() -> None:
    mask = np.zeros((60, 60, 9), np.uint8)
    mask[20:40, 20:40, :5] = 1
    mask[26:34, 26:34, :5] = 2
    drawn = strokes(mask, every=4)
    # Slices 2 and 6 of nine are drawn in.
    assert [z for z in range(9) if (drawn[..., z] != UNLABELED).any()] == [2, 6]
    for value in (1, 2):
        assert (drawn == value).any()
        assert (mask[drawn == value] == value).all()
    x, y = np.nonzero(drawn[..., 2] == 0)
    # Distance to the square of rows and columns 20 to 39.
    outside = [np.maximum.reduce([20 - axis, axis - 39, 0 * axis]) for axis in (x, y)]
    distance = np.hypot(*outside)
    assert len(x)
    assert ((distance >= 8) & (distance < 10)).all()
    # A slice without a class gets a stroke of background, and nothing else.
    assert set(np.unique(drawn[..., 6])) == {0, UNLABELED}


def test_dice_of_two_masks() -> None:
    one, other = np.zeros(10, bool), np.zeros(10, bool)
    one[:4], other[2:8] = True, True
    # 2 · 2 / (4 + 6)
    assert dice(one, other) == pytest.approx(0.4)


def walk(folder: Path) -> Walk:
    """An environment with one program, which fails where there is no file 'ready'."""
    program = folder / "environment" / "bin" / "tool"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text("#!/bin/sh\necho $@ >> calls\necho said\ntest -e ready\n")
    program.chmod(0o755)
    return Walk(folder / "walk", folder / "environment", threads=1)


def test_a_finished_command_is_not_run_again_and_an_interrupted_one_resumes(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"'tool train' in .*walk failed:\nsaid"):
        walk(tmp_path).type("tool train", "--resume")
    (tmp_path / "walk" / "ready").touch()
    for _ in range(2):
        again = walk(tmp_path)
        assert again.type("tool train", "--resume") == "said\n"
    calls = (tmp_path / "walk" / "calls").read_text().splitlines()
    assert calls == ["train", "train --resume"]
    (step,) = again.report()["commands"]
    assert (step["command"], step["attempts"]) == ("tool train", 2)
    assert json.loads((tmp_path / "walk" / "journal.json").read_text()).keys() == {"tool train"}


def test_a_folder_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    def broken(folder: Path) -> None:
        (folder / "a").touch()
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        walk(tmp_path).once("data", broken)
    assert not (tmp_path / "walk" / "data").exists()
    made = walk(tmp_path).once("data", lambda folder: (folder / "b").touch())
    assert [path.name for path in made.iterdir()] == ["b"]


def test_the_table_says_what_each_journey_reached(tmp_path: Path) -> None:
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    shared = {"minutes": 12.4, "processor_minutes": 9.6, "peak_memory_mb": 1840, "threads": 1}
    shared |= {"hardware": {"cpu": "a processor"}, "load_before": 0.1, "cases": "some"}
    scored = {"dice": {"LA": 0.8126}, "mean_dice": 0.8126, "cases": 3}
    walks = {
        "volumes": {**shared, "cross_validation": scored, "target": {"mean_dice": 0.75}},
        "pictures": {**shared, "test": scored},
        "fine_tuning": {
            **shared, "steps": 100, "tuned": scored, "from_random": {**scored, "mean_dice": 0.5},
        },
        "dicom": {**shared, "dice": 0.871, "different_voxels": 0, "voxels": 1000},
        "python": {**shared, "LV_dice": 0.915, "array_equals_file": True},
    }  # fmt: skip
    (results / "journeys.json").write_text(json.dumps({"journeys": walks}))
    lines = journeys_block(tmp_path).splitlines()
    took = "| 12 | 10 | 1.8 |"
    assert lines[2:7] == [
        "| Own 3D scans | some | cross-validated Dice [%] LA 81.3 (3 cases; at least 75 wanted) "
        + took,
        f"| Own RGB pictures | some | test Dice [%] LA 81.3 (3 cases) {took}",
        "| Fine-tuning | some | test Dice 81.3 % from shipped weights, 50.0 % from random ones, "
        f"100 steps each {took}",
        f"| DICOM | some | Dice 87.1 %; 0 of 1,000 voxels differ from NIfTI's mask {took}",
        f"| Python | some | Dice of the LV 91.5 %; the mask of an array equals the file's {took}",
    ]
    assert lines[-1] == "a processor, 1 thread."
