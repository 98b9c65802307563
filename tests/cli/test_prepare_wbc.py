"""``mixseg prepare wbc`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from mixseg.cli.main import app
from mixseg.data.datalist import Datalist


def run(*arguments: str | Path) -> Result:
    # Wide enough that no path is folded in a table.
    return CliRunner(env={"COLUMNS": "600"}).invoke(app, [str(a) for a in arguments])


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Six pictures of 8 × 6 pixels with masks of 0, 128 and 255."""
    folder = tmp_path / "segmentation_WBC" / "Dataset 1"
    folder.mkdir(parents=True)
    for number in range(1, 7):
        picture = np.random.default_rng(number).integers(0, 256, (6, 8, 3)).astype(np.uint8)
        mask = np.zeros((6, 8), np.uint8)
        mask[1:5, 1:7] = 128
        mask[2:4, number] = 255
        Image.fromarray(picture).save(folder / f"00{number}.bmp")
        Image.fromarray(mask).save(folder / f"00{number}.png")
    return folder


def test_published_pictures_get_labels_that_validate(published: Path, tmp_path: Path) -> None:
    output = tmp_path / "wbc"
    result = run("prepare", "wbc", published, output, "--quiet")
    assert result.exit_code == 0, result.output
    assert f"wrote {output / 'datalist.json'}" in result.output
    assert (
        "note: 6 label files converted into copies (values 0→0, 128→1, 255→2), such as 001.png"
        in result.output
    )
    datalist = Datalist.load(output / "datalist.json")
    splits = (datalist.training, datalist.validation, datalist.test)
    assert [len(part) for part in splits] == [2, 2, 2]
    for part in splits:
        for entry in part:
            mask = np.asarray(Image.open(output / str(entry.label)))
            assert mask[2, int(entry.case_id)] == 2
            assert (mask == 2).sum() == 2
            assert (mask == 1).sum() == 22
    assert run("validate", output / "datalist.json", "--quiet").exit_code == 0
    again = run("prepare", "wbc", published, output, "--quiet")
    assert again.exit_code == 1
    assert f"error: '{output / 'datalist.json'}' exists; give --overwrite" in again.output
    forced = run("prepare", "wbc", published, output, "--seed", "7", "--overwrite", "--quiet")
    assert forced.exit_code == 0
    assert Datalist.load(output / "datalist.json").test != datalist.test


def test_the_collections_folder_takes_the_datalist(published: Path) -> None:
    result = run("prepare", "wbc", published.parent, "--quiet")
    assert result.exit_code == 0, result.output
    datalist = Datalist.load(published.parent / "datalist.json")
    entry = datalist.test[0]
    assert entry.image == f"Dataset 1/{entry.case_id}.bmp"
    assert entry.label == f"converted_labels/{entry.case_id}.png"


def test_prepared_pictures_get_a_datalist_and_no_copies(tmp_path: Path) -> None:
    folder = tmp_path / "prepared"
    for kind in ("image", "label"):
        (folder / kind).mkdir(parents=True)
        for name in ("001", "002", "003"):
            (folder / kind / f"{name}.png").touch()
    split = {"train": ["002"], "val": ["001"], "test": ["003"]}
    (folder / "split.json").write_text(json.dumps(split))
    seeded = run("prepare", "wbc", folder, "--seed", "0")
    assert seeded.exit_code == 1
    assert f"error: --seed: '{folder}' is split already" in seeded.output
    elsewhere = tmp_path / "lists"
    assert run("prepare", "wbc", folder, elsewhere).exit_code == 0
    assert list(elsewhere.iterdir()) == [elsewhere / "datalist.json"]
    entry = Datalist.load(elsewhere / "datalist.json").training[0]
    assert entry.image == str(folder / "image" / "002.png")
    assert run("prepare", "wbc", folder).exit_code == 0
    assert Datalist.load(folder / "datalist.json").training[0].label == "label/002.png"
    refused = run("prepare", "wbc", folder)
    assert f"'{folder / 'datalist.json'}' exists; give --overwrite" in refused.output


def test_faults_end_with_status_1_and_no_traceback(published: Path) -> None:
    Image.fromarray(np.full((6, 8), 64, np.uint8)).save(published / "002.png")
    result = run("prepare", "wbc", published, "--quiet")
    assert result.exit_code == 1
    assert f"{published / '002'}.png: label values [64] are not a class" in result.output
    assert "Traceback" not in result.output
    (published / "003.png").unlink()
    missing = run("prepare", "wbc", published, "--quiet")
    assert f"{published / '003'}.png, the mask of 003.bmp, is missing" in missing.output
    nothing = run("prepare", "wbc", published.parent / "gone")
    assert nothing.exit_code == 1
    assert "is not a folder: give the one with 001.bmp" in nothing.output
