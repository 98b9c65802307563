"""``mixseg prepare folder`` from the command line."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from mixseg.cli.main import app
from mixseg.data.datalist import Datalist
from mixseg.data.phantom.dataset import write_phantom

SHAPE = (6, 5, 3)  # 90 voxels


def run(*arguments: str | Path) -> Result:
    # Wide enough that no path is folded in a table.
    return CliRunner(env={"COLUMNS": "600"}).invoke(app, [str(a) for a in arguments])


def cells(output: str, first: str) -> list[str]:
    """The cells of the table row that begins with ``first``."""
    rows = ([c.strip() for c in line.strip("│ ").split("│")] for line in output.splitlines())
    return next(row for row in rows if row[0] == first)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([1.5, 1.5, 8.0, 1.0])), path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six cases in ``mr/`` and ``masks/``; one is scribbled, with 255 for unlabeled."""
    label = np.zeros(SHAPE, np.uint8)
    label[1], label[2, :2] = 1, 2
    for i in range(6):
        image = np.random.default_rng(i).integers(1, 100, SHAPE).astype(np.int16)
        image[0, 0, 0], image[0, 0, 1] = 0, 100 + i
        save(tmp_path / "mr" / f"p{i}.nii.gz", image)
        save(tmp_path / "masks" / f"p{i}_seg.nii.gz", label)
    strokes = np.where(label == 0, 255, label).astype(np.uint8)
    strokes[5, 0] = 0
    save(tmp_path / "masks" / "p5_seg.nii.gz", strokes)
    return tmp_path


def test_the_report_comes_first_and_the_result_validates(root: Path) -> None:
    command = ("prepare", "folder", root / "mr", root / "masks", "--quiet", "--unlabeled", "255")
    dry = run(*command, "--dry-run", "--classes", "background, organ ,tumor")
    assert dry.exit_code == 0, dry.output
    assert "nothing is written (--dry-run)" in dry.output
    assert not (root / "datalist.json").exists()
    # cases, patients, scribble files, training, validation, test: five masks all train.
    assert cells(dry.output, "full masks") == ["full masks", "5", "5", "0", "5", "0", "0"]
    assert "mixseg train BUNDLE --folds 5" in dry.output
    assert cells(dry.output, "scribbles or partly labeled")[1:] == ["1", "1", "0", "1", "0", "0"]
    # 15 and 6 voxels in each case; background 69 in five, 3 in the scribbled one, of 540.
    assert cells(dry.output, "organ") == ["organ", "1", "1", "6", "90", "16.67 %"]
    assert cells(dry.output, "background")[3:] == ["6", "348", "64.44 %"]
    assert cells(dry.output, "(unlabeled)")[1:] == ["255", "255", "1", "66", "12.22 %"]
    assert cells(dry.output, "spacing z, mm") == ["spacing z, mm", "8", "8", "8"]
    assert cells(dry.output, "size x, voxels") == ["size x, voxels", "6", "6", "6"]
    assert cells(dry.output, "greatest intensity")[1:] == ["100", "102.5", "105"]

    result = run(*command, "--classes", "background,organ,tumor")
    assert result.exit_code == 0, result.output
    assert result.output.index("full masks") < result.output.index("wrote ")
    assert f"wrote {root / 'datalist.json'}" in result.output
    assert f"mixseg new my_bundle --datalist {root / 'datalist.json'}" in result.output
    datalist = Datalist.load(root / "datalist.json")
    assert datalist.classes == ["background", "organ", "tumor"]
    assert datalist.training[0].image.startswith("mr/p")
    assert run("validate", root / "datalist.json", "--quiet").exit_code == 0
    again = run(*command)
    assert again.exit_code == 1
    assert f"'{root / 'datalist.json'}' exists; give --overwrite to replace it" in again.output
    assert run(*command, "--overwrite").exit_code == 0


def test_faults_are_listed_and_nothing_is_written(root: Path) -> None:
    image = root / "mr" / "p1.nii.gz"
    image.write_bytes(image.read_bytes()[:-40])
    (root / "mr" / "p2.nii.gz").unlink()
    output = root / "out"
    command = ("prepare", "folder", root / "mr", root / "masks", "--unlabeled", "255")
    result = run(*command, "--output", output, "--quiet")
    assert result.exit_code == 1
    assert f"error: 2 faults in '{root}'; nothing is written:" in result.output
    assert f"{root / 'masks' / 'p2_seg.nii.gz'}: the label has no image; add its" in result.output
    assert f"{image}: the image is not a readable NIfTI file" in result.output
    assert "Traceback" not in result.output
    assert not output.exists()


def test_an_output_that_cannot_be_written_is_a_fault_too(root: Path) -> None:
    (root / "file").touch()
    output = root / "file" / "datalist.json"
    result = run("prepare", "folder", root / "mr", root / "masks", "--output", output, "--quiet")
    assert result.exit_code == 1
    message = f"{output}: the datalist cannot be written: '{root / 'file'}' is not a folder"
    assert message in result.output


def test_folders_in_two_places_need_an_output(root: Path, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (root / "masks").rename(tmp_path / "far" / "masks")
    command = ("prepare", "folder", root / "mr", tmp_path / "far" / "masks", "--quiet")
    command += ("--unlabeled", "255")
    result = run(*command)
    assert result.exit_code == 1
    assert "are in different places: give --output, the datalist to write" in result.output
    assert run(*command, "--output", tmp_path / "lists").exit_code == 0
    entry = Datalist.load(tmp_path / "lists" / "datalist.json").training[0]
    assert Path(entry.image).is_absolute()


def test_converted_copies_are_counted(root: Path) -> None:
    command = ("prepare", "folder", root / "mr", root / "masks", "--unlabeled", "255")
    result = run(*command, "--values", "0,2,1", "--quiet")
    assert result.exit_code == 0, result.output
    assert "5 label files converted into copies (values 0→0, 2→1, 1→2), such as" in result.output
    assert f"wrote 6 converted labels in {root}" in result.output
    copy = nib.load(root / "converted_labels" / "p5.nii.gz")
    # 15 voxels were 1, 6 were 2, 3 were 0 and 66 unlabeled, which is 3 now.
    assert np.bincount(np.asarray(copy.dataobj).ravel()).tolist() == [3, 6, 15, 66]
    words = run(*command, "--values", "a,b", "--quiet")
    assert "error: --values 'a,b' must be whole numbers, such as 0,128" in words.output


def test_known_collections_go_to_their_own_commands(tmp_path: Path) -> None:
    folder = tmp_path / "acdc"
    write_phantom(folder, num_patients=3)
    (folder / "datalist.json").unlink()
    dry = run("prepare", "folder", folder, "--dry-run")
    assert dry.exit_code == 0
    assert f"This is ACDC; the same as: mixseg prepare acdc {folder}" in dry.output
    refused = run("prepare", "folder", folder, "--split", "60/20/20", "--allow-unlabeled")
    assert refused.exit_code == 1
    assert "so --allow-unlabeled, --split cannot be given: mixseg prepare acdc" in refused.output
    assert not (folder / "datalist.json").exists()
    assert run("prepare", "folder", folder).exit_code == 0
    assert Datalist.load(folder / "datalist.json").classes == [
        "background",
        "RV",
        "myocardium",
        "LV",
    ]

    scans = tmp_path / "la"
    (scans / "a1").mkdir(parents=True)
    for name in ("lgemri.nrrd", "laendo.nrrd"):
        (scans / "a1" / name).touch()
    result = run("prepare", "folder", scans)
    assert result.exit_code == 1
    assert f"mixseg prepare la {scans} OUTPUT" in result.output


def test_help_shows_examples() -> None:
    shown = run("prepare", "folder", "--help").output
    assert "mixseg prepare folder pictures masks --values 0,128,255" in shown


@pytest.mark.realdata
def test_real_acdc_as_a_plain_folder(acdc_dir: Path, tmp_path: Path) -> None:
    result = run(
        *("prepare", "folder", acdc_dir / "image", acdc_dir / "label", "--quiet"),
        *("--scribbles", acdc_dir / "scribble", "--patient-pattern", r"(patient\d+)"),
        *("--classes", "background,RV,myocardium,LV", "--unlabeled", "4", "--output", tmp_path),
    )
    assert result.exit_code == 0, result.output
    assert cells(result.output, "full masks")[1:4] == ["160", "79", "160"]
    # Two patients of this copy share their images: they count as one.
    assert "patient076_frame01.nii.gz: the image is voxel for voxel that of case" in result.output
    assert run("validate", tmp_path / "datalist.json", "--quiet").exit_code == 0
