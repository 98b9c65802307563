"""The tutorial's benchmark: where it puts the pictures, which commands it runs, its table."""

from __future__ import annotations

import importlib
import json
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tutorial(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("tutorial_wbc")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("measured")


def test_masks_become_those_that_are_published(tutorial: ModuleType, tmp_path: Path) -> None:
    picture = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    mask = np.array([[0, 1, 2], [0, 0, 0], [2, 2, 2]], dtype=np.uint8)
    for folder in ("image", "label"):
        (tmp_path / "wbc" / folder).mkdir(parents=True)
    for name in ("001", "002", "003"):
        Image.fromarray(picture).save(tmp_path / "wbc" / "image" / f"{name}.png")
        Image.fromarray(mask).save(tmp_path / "wbc" / "label" / f"{name}.png")
    target = tmp_path / "home" / "Dataset 1"
    assert tutorial.lay_out(tmp_path / "wbc", target, limit=2) == 2
    assert sorted(p.name for p in target.iterdir()) == ["001.bmp", "001.png", "002.bmp", "002.png"]
    written = np.array(Image.open(target / "001.png"))
    np.testing.assert_array_equal(written, [[0, 128, 255], [0, 0, 0], [255, 255, 255]])
    np.testing.assert_array_equal(np.array(Image.open(target / "001.bmp")), picture)


def test_a_downloaded_folder_is_used_as_it_is(tutorial: ModuleType, tmp_path: Path) -> None:
    source, target = tmp_path / "Dataset 1", tmp_path / "home" / "Dataset 1"
    source.mkdir()
    (source / "001.bmp").write_bytes(b"picture")
    assert tutorial.lay_out(source, target) == 1
    assert (target / "001.bmp").resolve() == source / "001.bmp"


def test_a_folder_without_pictures_is_refused(tutorial: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match=r"nothing' holds neither 001\.bmp"):
        tutorial.lay_out(tmp_path / "nothing", tmp_path / "home" / "Dataset 1")


def test_masks_of_other_values_are_refused(tutorial: ModuleType, tmp_path: Path) -> None:
    for folder in ("image", "label"):
        (tmp_path / "wbc" / folder).mkdir(parents=True)
        Image.fromarray(np.full((2, 2), 3, np.uint8)).save(tmp_path / "wbc" / folder / "7.png")
    with pytest.raises(ValueError, match="mask of '7' holds other values than 0, 1 and 2"):
        tutorial.lay_out(tmp_path / "wbc", tmp_path / "home" / "Dataset 1")


def test_made_up_pictures_are_enough_for_the_page(tutorial: ModuleType, tmp_path: Path) -> None:
    target = tmp_path / "home" / "Dataset 1"
    assert tutorial.lay_out(None, target) == tutorial.SHORT
    # 70 % train, of which the page takes 12 and 60.
    assert 0.7 * tutorial.SHORT >= 12 + 60
    mask = np.array(Image.open(target / "005.png"))
    assert np.unique(mask).tolist() == [0, 128, 255]
    assert Image.open(target / "005.bmp").size == (120, 120)
    assert Image.open(target / "005.bmp").mode == "RGB"


def test_the_commands_are_all_those_of_the_page(tutorial: ModuleType) -> None:
    page = (ROOT / "docs" / "tutorial_wbc.md").read_text(encoding="utf-8")
    blocks = tutorial.commands_of_the_page(short=False)
    assert len(blocks) == page.count("```bash\n")
    plain = [b.removeprefix("(\n").removesuffix("\n) && exit 1 || [ $? -eq 1 ]") for b in blocks]
    assert [b for b in plain if f"```bash\n{b}\n```" not in page] == []
    assert sum("--max_epochs 1" in b for b in tutorial.commands_of_the_page(short=True)) == 2


def test_blocks_share_a_shell_and_are_timed(tutorial: ModuleType, tmp_path: Path) -> None:
    blocks = ['mkdir -p a\ncd a\nX="it\'s"', 'sleep 0.2\necho "$X $HOME" > out']
    seconds = tutorial.run(blocks, tmp_path / "home", tmp_path)
    assert (tmp_path / "empty" / "a" / "out").read_text() == f"it's {tmp_path / 'home'}\n"
    assert len(seconds) == 2
    assert seconds[1] >= 0.2
    (other := tmp_path / "other").mkdir()
    with pytest.raises(subprocess.CalledProcessError):
        tutorial.run(["false", "true"], tmp_path, other)


def scores(dice: float, hd95: float) -> dict[str, Any]:
    return {"dice": {"mean": dice, "sd": 0.125, "n": 48}, "hd95_vox": {"mean": hd95, "sd": 1.0}}


def test_the_table_is_what_the_result_file_says(measured: ModuleType, tmp_path: Path) -> None:
    assert measured.tutorial_block(tmp_path) == "Scores: not run.\n"
    runs = {
        "mixed": {
            "scores": {"main": {"cytoplasm": scores(0.5, 4.25), "nucleus": scores(0.75, 2.0)}},
            "configuration": {"num_full": 12, "num_partial": 60},
            "seed": 7,
        },
        "lower_bound": {
            "scores": {"main": {"cytoplasm": scores(0.25, 8.0), "nucleus": scores(1.0, 0.0)}},
            "configuration": {"num_full": 12, "num_partial": 0},
        },
    }
    result = {
        "pictures": 240,
        "runs": runs,
        "seconds": [{"command": "a", "seconds": 90.0}, {"command": "b", "seconds": 30.0}],
        "hardware": {"cpu_count": 2, "cpu": "a processor"},
        "load_before": 0.1,
    }
    path = tmp_path / "benchmarks" / "results" / "tutorial_wbc.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(result))
    assert measured.tutorial_block(tmp_path).splitlines() == [
        "| Labels | cytoplasm | nucleus |",
        "|---|---:|---:|",
        "| 12 masks + 60 scribbles | 50.0 ± 12.5 / 4.2 | 75.0 ± 12.5 / 2.0 |",
        "| 12 masks | 25.0 ± 12.5 / 8.0 | 100.0 ± 12.5 / 0.0 |",
        "",
        "Dice in %, mean ± sd over 48 test pictures of 240 / mean pooled HD95 in pixels; seed 7. "
        "All commands of this page took 2 minutes on 2 cores (a processor).",
    ]
