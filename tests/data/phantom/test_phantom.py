from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from mixseg.data.checks import validate_datalist
from mixseg.data.collections.acdc import prepare_acdc
from mixseg.data.datalist import SPLITS, Datalist
from mixseg.data.phantom.anatomy import GROUPS
from mixseg.data.phantom.dataset import phantom_patient, write_phantom

RIGHT, MYOCARDIUM, LEFT = 1, 2, 3


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Datalist]:
    folder = tmp_path_factory.mktemp("phantom")
    return folder, write_phantom(folder, num_patients=6, num_validation=1, num_test=2)


@pytest.fixture(scope="module")
def volumes() -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Both frames of one patient per group."""
    return [
        [(image, label) for _, image, label in phantom_patient(i, seed=3)[1]] for i in range(1, 6)
    ]


def test_files_have_the_official_names_and_the_datalist_names_them(
    phantom: tuple[Path, Datalist],
) -> None:
    folder, datalist = phantom
    assert sorted(p.name for p in (folder / "patient004").iterdir()) == [
        "Info.cfg",
        "patient004_frame01.nii.gz",
        "patient004_frame01_gt.nii.gz",
        "patient004_frame10.nii.gz",
        "patient004_frame10_gt.nii.gz",
    ]
    info = (folder / "patient004" / "Info.cfg").read_text()
    assert info == "ED: 1\nES: 10\nGroup: NOR\nNbFrame: 25\n"
    assert [len(getattr(datalist, split)) for split in SPLITS] == [6, 2, 4]
    assert Datalist.load(folder / "datalist.json") == datalist
    assert validate_datalist(datalist) == []


def test_the_preparation_of_acdc_reads_it(phantom: tuple[Path, Datalist]) -> None:
    folder, datalist = phantom
    cases = {entry.case_id: entry for _, entry in datalist.items()}
    assert {entry.case_id: entry for _, entry in prepare_acdc(folder).items()} == cases


def test_headers_say_millimeters_and_spacing(phantom: tuple[Path, Datalist]) -> None:
    for name in ("patient001_frame01", "patient001_frame01_gt"):
        image = nib.load(phantom[0] / "patient001" / f"{name}.nii.gz")
        assert image.header.get_zooms() == (1.5, 1.5, 8.0)
        assert image.header.get_xyzt_units()[0] == "mm"
        assert np.array_equal(image.affine, np.diag([1.5, 1.5, 8.0, 1.0]))
        assert len(image.shape) == 3
        assert all(128 <= side <= 160 for side in image.shape[:2])
        assert 6 <= image.shape[2] <= 15


def test_a_patient_depends_on_seed_and_number_alone(
    phantom: tuple[Path, Datalist], tmp_path: Path
) -> None:
    write_phantom(tmp_path, num_patients=3)
    name = Path("patient002") / "patient002_frame10.nii.gz"
    assert (tmp_path / name).read_bytes() == (phantom[0] / name).read_bytes()
    first, again, other = (next(phantom_patient(2, seed)[1])[1] for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_groups_are_dealt_in_turn() -> None:
    assert [phantom_patient(i)[0] for i in range(1, 8)] == [*GROUPS, *list(GROUPS)[:2]]


def test_the_cavity_is_one_piece_inside_the_ring(
    volumes: list[list[tuple[np.ndarray, np.ndarray]]],
) -> None:
    for _, label in (frame for patient in volumes for frame in patient):
        assert set(np.unique(label)) == {0, RIGHT, MYOCARDIUM, LEFT}
        for index in np.flatnonzero((label == LEFT).any((0, 1))):
            cavity = label[:, :, index] == LEFT
            assert ndimage.label(cavity)[1] == 1
            # Every neighbor of the cavity is cavity or myocardium: the ring is closed.
            rim = ndimage.binary_dilation(cavity) & ~cavity
            assert set(np.unique(label[:, :, index][rim])) == {MYOCARDIUM}
            # Papillary muscles are labeled as cavity: no hole is left.
            assert np.array_equal(ndimage.binary_fill_holes(cavity), cavity)


def test_systole_empties_the_cavity_and_keeps_the_muscle(
    volumes: list[list[tuple[np.ndarray, np.ndarray]]],
) -> None:
    for (_, diastole), (_, systole) in volumes:
        ejected = 1 - (systole == LEFT).sum() / (diastole == LEFT).sum()
        assert 0.05 < ejected < 0.85
        kept = (systole == MYOCARDIUM).sum() / (diastole == MYOCARDIUM).sum()
        assert kept == pytest.approx(1.0, abs=0.25)  # whole slices come and go at the base


def test_blood_is_brighter_than_muscle_and_papillary_muscles_are_dark(
    volumes: list[list[tuple[np.ndarray, np.ndarray]]],
) -> None:
    for image, label in (frame for patient in volumes for frame in patient):
        cavity, muscle = image[label == LEFT], image[label == MYOCARDIUM]
        assert np.median(cavity) > 1.4 * np.median(muscle)
        assert np.percentile(cavity, 2) < np.percentile(muscle, 95)


def test_impossible_splits_and_unwritable_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 patients give 0 for training, 1 for validation and 1"):
        write_phantom(tmp_path, num_patients=2)
    with pytest.raises(ValueError, match="every split needs at least one"):
        write_phantom(tmp_path, num_patients=5, num_test=0)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        write_phantom(tmp_path / "file" / "below")
