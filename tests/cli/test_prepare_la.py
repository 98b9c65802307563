"""``mixseg prepare la`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from mixseg.cli.main import app
from mixseg.data.datalist import Datalist


def run(*arguments: str | Path) -> Result:
    # Wide enough that no path is folded in a table.
    return CliRunner(env={"COLUMNS": "600"}).invoke(app, [str(a) for a in arguments])


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Five whole scans of 20 × 20 × 4 voxels of 1 mm, the atrium at 8 … 11."""
    mask = np.zeros((20, 20, 4), np.uint8)
    mask[8:12, 8:12, 1:3] = 255
    for number in range(5):
        place = tmp_path / "whole" / f"s{number}"
        place.mkdir(parents=True)
        scan = np.random.default_rng(number).integers(0, 255, mask.shape).astype(np.uint8)
        mask[8, 8, 1] = 255 * (number % 2)
        for name, array in (("lgemri", scan), ("laendo", mask)):
            image = itk.image_from_array(np.ascontiguousarray(array.T))
            itk.imwrite(image, str(place / f"{name}.nrrd"), compression=True)
    return tmp_path / "whole"


@pytest.fixture
def cropped(tmp_path: Path) -> Path:
    folder = tmp_path / "cropped"
    for kind in ("image", "label"):
        (folder / kind).mkdir(parents=True)
        for name in "abc":
            (folder / kind / f"{name}.nii.gz").touch()
    (folder / "split.json").write_text(json.dumps({"train": ["b"], "val": ["a"], "test": ["c"]}))
    return folder


def test_whole_scans_are_cropped_into_a_folder_that_validates(whole: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    result = run("prepare", "la", whole, output, "--size", "10", "--quiet")
    assert result.exit_code == 0, result.output
    assert f"wrote {output / 'datalist.json'}" in result.output
    datalist = Datalist.load(output / "datalist.json")
    assert [len(part) for part in (datalist.training, datalist.validation, datalist.test)] == [
        3,
        1,
        1,
    ]
    assert nib.load(output / datalist.training[0].image).shape == (10, 10, 4)
    assert run("validate", output / "datalist.json", "--quiet").exit_code == 0
    again = run("prepare", "la", whole, output, "--size", "10", "--quiet")
    assert again.exit_code == 1
    assert f"error: '{output / 'datalist.json'}' exists; give --overwrite" in again.output
    assert run("prepare", "la", whole, output, "--overwrite", "--quiet").exit_code == 0


def test_cut_foreground_is_a_note_with_the_cases(whole: Path, tmp_path: Path) -> None:
    result = run("prepare", "la", whole, tmp_path / "out", "--size", "2", "--quiet")
    assert result.exit_code == 0, result.output
    assert "note: the crop cuts foreground of 5 of 5 scans: " in result.output
    # 2 × 2 of 4 × 4 voxels stay in both slices: 24 of 32 are cut, 23 of 31 where one is missing.
    assert "24 of 32 voxels" in result.output
    assert "23 of 31 voxels" in result.output


def test_full_masks_by_number(whole: Path, tmp_path: Path) -> None:
    options = ("--crop", "full-masks", "--num-full", "1", "--margin", "0", "--quiet")
    result = run("prepare", "la", whole, tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    assert nib.load(tmp_path / "out" / "image" / "s0.nii.gz").shape == (4, 4, 4)
    alone = run("prepare", "la", whole, tmp_path / "other", "--crop", "full-masks", "--quiet")
    assert alone.exit_code == 1
    assert "error: the crop 'full-masks' needs num_full" in alone.output


def test_whole_scans_need_an_output_folder(whole: Path) -> None:
    result = run("prepare", "la", whole)
    assert result.exit_code == 1
    assert f"mixseg prepare la {whole} OUTPUT" in result.output


def test_cropped_scans_get_a_datalist_and_no_copies(cropped: Path, tmp_path: Path) -> None:
    result = run("prepare", "la", cropped)
    assert result.exit_code == 0, result.output
    datalist = Datalist.load(cropped / "datalist.json")
    assert datalist.training[0].image == "image/b.nii.gz"
    elsewhere = tmp_path / "lists"
    assert run("prepare", "la", cropped, elsewhere).exit_code == 0
    assert list(elsewhere.iterdir()) == [elsewhere / "datalist.json"]
    entry = Datalist.load(elsewhere / "datalist.json").training[0]
    assert entry.image == str(cropped / "image" / "b.nii.gz")
    refused = run("prepare", "la", cropped)
    assert f"'{cropped / 'datalist.json'}' exists; give --overwrite" in refused.output
    assert run("prepare", "la", cropped, "--overwrite").exit_code == 0
    options = run("prepare", "la", cropped, "--overwrite", "--crop", "none", "--num-full", "3")
    assert options.exit_code == 1
    assert f"error: --crop, --num-full: '{cropped}' is cropped and split already" in options.output


def test_faults_end_with_status_1_and_no_traceback(whole: Path, tmp_path: Path) -> None:
    file = whole / "s2" / "lgemri.nrrd"
    file.write_bytes(file.read_bytes()[:-50])
    result = run("prepare", "la", whole, tmp_path / "out", "--quiet")
    assert result.exit_code == 1
    assert f"{file}: the scan is not a readable image file" in result.output
    assert "Traceback" not in result.output
    nothing = run("prepare", "la", tmp_path / "out" / "image")
    assert nothing.exit_code == 1
    assert "error: no left-atrium scans found in" in nothing.output
    assert (
        "is not a folder: give the one with the scans"
        in run("prepare", "la", tmp_path / "gone").output
    )
