from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from mixseg.cli.main import app
from mixseg.data.datalist import Datalist
from mixseg.data.phantom.dataset import write_phantom


def run(*arguments: str | Path) -> Result:
    # Wide enough that no path is folded in a table.
    return CliRunner(env={"COLUMNS": "600"}).invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three phantom patients, which have ACDC's official layout."""
    folder = tmp_path_factory.mktemp("source") / "data"
    write_phantom(folder, num_patients=3)
    (folder / "datalist.json").unlink()
    return folder


def cells(output: str, first: str) -> list[str]:
    """The cells of the table row that begins with ``first``."""
    rows = ([c.strip() for c in line.strip("│ ").split("│")] for line in output.splitlines())
    return next(row for row in rows if row[0] == first)


def test_version_and_help() -> None:
    assert run("--version").stdout == f"mixseg {version('mixseg')}\n"
    bare = run()
    for command in ("prepare", "phantom", "validate"):
        assert command in bare.output


def test_prepare_acdc_writes_relative_paths_and_will_not_overwrite(source: Path) -> None:
    result = run("prepare", "acdc", source)
    assert result.exit_code == 0, result.output
    assert cells(result.output, "training") == ["training", "1", "2", "0"]
    written = source / "datalist.json"
    datalist = Datalist.load(written)
    assert {Path(e.image).parts[0] for _, e in datalist.items()} == {
        "patient001",
        "patient002",
        "patient003",
    }
    before = written.read_bytes()
    refused = run("prepare", "acdc", source, "--seed", "5")
    assert refused.exit_code == 1
    assert f"'{written}' exists; give --overwrite to replace it" in refused.output
    assert written.read_bytes() == before
    assert run("prepare", "acdc", source, "--overwrite").exit_code == 0
    written.unlink()


def test_prepare_acdc_elsewhere_writes_absolute_paths(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "lists" / "acdc.json"
    assert run("prepare", "acdc", source, "--output", output).exit_code == 0
    assert all(e.image.startswith(str(source)) for _, e in Datalist.load(output).items())
    assert not (source / "datalist.json").exists()
    assert run("validate", output, "--quiet").exit_code == 0


def test_prepare_acdc_on_other_folders_and_unwritable_outputs(source: Path, tmp_path: Path) -> None:
    result = run("prepare", "acdc", tmp_path)
    assert result.exit_code == 1
    assert f"error: no ACDC patients found in '{tmp_path}'" in result.output
    (tmp_path / "file").touch()
    blocked = run("prepare", "acdc", source, "--output", tmp_path / "file" / "d.json")
    assert blocked.exit_code == 1
    assert f"error: {tmp_path / 'file' / 'd.json'} could not be written" in blocked.output
    assert "Traceback" not in blocked.output


def test_missing_info_is_noted(source: Path, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        place = tmp_path / f"patient00{number}"
        place.mkdir()
        for name in ("frame01", "frame01_gt"):
            (place / f"patient00{number}_{name}.nii").touch()
    result = run("prepare", "acdc", tmp_path)
    assert result.exit_code == 0
    assert "note: Info.cfg is missing or names no Group for 3 patients" in result.output


def test_phantom_then_validate(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    result = run("phantom", folder, "--patients", "3", "--seed", "2", "--quiet")
    assert result.exit_code == 0, result.output
    assert cells(result.output, "validation") == ["validation", "1", "2", "0"]
    sound = run("validate", folder / "datalist.json", "--quiet")
    assert (sound.exit_code, sound.output.splitlines()[-1]) == (0, "no errors")
    refused = run("phantom", folder, "--patients", "3", "--quiet")
    assert refused.exit_code == 1
    assert "datalist.json' exists; give --overwrite" in refused.output


def test_validate_lists_every_fault(source: Path, tmp_path: Path) -> None:
    listed = tmp_path / "d.json"
    run("prepare", "acdc", source, "--output", listed)
    datalist = Datalist.load(listed)
    missing, damaged = tmp_path / "gone.nii.gz", tmp_path / "damaged.nii.gz"
    damaged.write_bytes(np.random.default_rng(0).bytes(100))
    datalist.training[0].image = str(missing)
    assert datalist.training[1].label is not None
    datalist.training[1].label = str(damaged)
    datalist.save(listed)
    result = run("validate", listed, "--quiet")
    assert result.exit_code == 1
    assert "2 errors" in result.output
    for path, problem in ((missing, "file is missing"), (damaged, "not a readable NIfTI")):
        (row,) = [line for line in result.output.splitlines() if str(path) in line]
        assert problem in row
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    assert "is not valid JSON" in run("validate", broken).output


def test_a_file_in_the_place_of_an_output_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    for place in (tmp_path / "taken", tmp_path / "taken" / "below"):
        result = run("phantom", place, "--quiet")
        assert result.exit_code == 1
        assert "a file is in the place of a folder: choose another" in result.output
        assert (tmp_path / "taken").read_text() == "x"
