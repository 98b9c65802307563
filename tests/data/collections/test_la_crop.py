"""Cropping whole left-atrium scans: what is written, and what decides about the crop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pytest
from monai.transforms import LoadImage

from mixseg.data.collections import la_crop
from mixseg.data.collections.la import find_scans, split_scans
from mixseg.data.collections.la_crop import crop_la
from mixseg.data.datalist import Datalist, DatalistError

# The cases here share a mask, but in the test of that note.
pytestmark = pytest.mark.filterwarnings("ignore:these masks are identical")

SHAPE = (24, 20, 6)
SPACING = (0.625, 0.625, 0.625)
ORIGIN = (-30.0, 12.5, 7.0)  # LPS, mm


def scan_array(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, SHAPE).astype(np.int16)


def mask_array(center: tuple[int, int] = (12, 10), value: int = 255) -> np.ndarray:
    """A block of 4 × 4 voxels in-plane in the middle slices."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[center[0] - 2 : center[0] + 2, center[1] - 2 : center[1] + 2, 2:4] = value
    return mask


def write_itk(
    path: Path,
    array: np.ndarray,
    spacing: tuple[float, ...] = SPACING,
    origin: tuple[float, ...] = ORIGIN,
    direction: np.ndarray | None = None,
) -> Path:
    """Write array[x, y, z] with a geometry in LPS, in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = itk.image_from_array(np.ascontiguousarray(array.T))
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    if direction is not None:
        image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(direction)))
    itk.imwrite(image, str(path), compression=True)
    return path


def official(folder: Path, count: int = 10, suffix: str = ".nrrd", **geometry: Any) -> Path:
    for number in range(count):
        place = folder / f"case{number:02d}"
        write_itk(place / f"lgemri{suffix}", scan_array(number), **geometry)
        write_itk(place / f"laendo{suffix}", mask_array(), **geometry)
    return folder


def record(output: Path) -> dict[str, Any]:
    return json.loads((output / "preparation.json").read_text())


# --- the crop


def test_center_keeps_a_square_of_mm_and_moves_the_origin(tmp_path: Path) -> None:
    source, output = official(tmp_path / "in"), tmp_path / "out"
    datalist = crop_la(source, output, size=5.0)
    # 5 mm of 0.625 mm: voxel centers within 2.5 mm of the center are 4 on each side, 8 in all.
    assert (datalist.base_dir, len(datalist.training)) == (output.resolve(), 7)
    for number in range(10):
        image = nib.load(output / "image" / f"case{number:02d}.nii.gz")
        label = nib.load(output / "label" / f"case{number:02d}.nii.gz")
        np.testing.assert_array_equal(image.dataobj, scan_array(number)[8:16, 6:14, :])
        np.testing.assert_array_equal(label.dataobj, mask_array(value=1)[8:16, 6:14, :])
        assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)
        np.testing.assert_array_equal(image.affine, label.affine)
        # LPS (x, y, z) is RAS (−x, −y, z); the first voxel is 8 and 6 steps further on.
        expected = np.diag([-0.625, -0.625, 0.625, 1.0])
        expected[:3, 3] = [30.0 - 8 * 0.625, -12.5 - 6 * 0.625, 7.0]
        np.testing.assert_allclose(image.affine, expected, atol=1e-5)
        assert image.header.get_xyzt_units()[0] == "mm"
    kept = record(output)["cases"]["case00"]
    assert (kept["start"], kept["stop"], kept["cut_voxels"]) == ([8, 6, 0], [16, 14, 6], 0)
    assert Datalist.load(output / "datalist.json") == datalist


def test_world_coordinates_survive_in_itk_nibabel_and_monai(tmp_path: Path) -> None:
    """One bright voxel of an oblique NRRD lies at the same place of the body after the crop."""
    angle = np.deg2rad(20)
    direction = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    geometry = {"spacing": (0.625, 0.7, 1.25), "direction": direction}
    source = official(tmp_path / "in", 3, **geometry)
    array, index = np.zeros(SHAPE, np.int16), (11, 13, 4)
    array[index] = 500
    file = write_itk(source / "case01" / "lgemri.nrrd", array, **geometry)
    lps = np.array(itk.imread(str(file)).TransformIndexToPhysicalPoint(index))
    output = tmp_path / "out"
    crop_la(source, output, size=8.0)

    written = output / "image" / "case01.nii.gz"
    image = nib.load(written)
    bright = np.argwhere(np.asarray(image.dataobj) == 500)[0]
    assert tuple(bright) != index
    ras = lps * [-1, -1, 1]
    np.testing.assert_allclose((image.affine @ [*bright, 1])[:3], ras, atol=1e-4)
    again = itk.imread(str(written))
    point = again.TransformIndexToPhysicalPoint([int(i) for i in bright])
    np.testing.assert_allclose(point, lps, atol=1e-4)
    for path in (written, file):
        loaded = LoadImage(image_only=True)(str(path))
        place = np.argwhere(np.asarray(loaded) == 500)[0]
        np.testing.assert_allclose((np.asarray(loaded.affine) @ [*place, 1])[:3], ras, atol=1e-4)


def test_nrrd_and_nifti_give_the_same_files(tmp_path: Path) -> None:
    outputs = []
    for suffix in (".nrrd", ".nii.gz", ".mha"):
        output = tmp_path / f"out{suffix}"
        crop_la(official(tmp_path / f"in{suffix}", 4, suffix), output, size=5.0)
        outputs.append(output)
    for file in (
        "datalist.json",
        *(f"{k}/case0{i}.nii.gz" for k in ("image", "label") for i in "0123"),
    ):
        contents = {(output / file).read_bytes() for output in outputs}
        assert len(contents) == 1, file


def test_masks_of_partial_and_test_cases_do_not_touch_the_crop(tmp_path: Path) -> None:
    source = official(tmp_path / "in")
    training = [scan.case_id for scan in split_scans(find_scans(source), seed=0)["training"]]
    write_itk(source / training[1] / "laendo.nrrd", mask_array((15, 10)))
    output = tmp_path / "out"
    crop_la(source, output, crop="full-masks", num_full=2, margin=0.625)
    found = record(output)
    assert found["rule"] == {
        "crop": "full-masks",
        "num_full": 2,
        "margin_mm": 0.625,
        "masks_of": training[:2],
    }
    # Masks at x 10 … 16 (two of them), y 8 … 11, and one voxel of margin.
    assert found["cases"]["case00"]["start"] == [9, 7, 0]
    assert found["cases"]["case00"]["stop"] == [18, 13, 6]

    others = [f"case{i:02d}" for i in range(10) if f"case{i:02d}" not in training[:2]]
    for name in others[:-2]:  # foreground elsewhere
        write_itk(source / name / "laendo.nrrd", mask_array((3, 3)))
    with pytest.warns(UserWarning, match=r"cuts foreground of 6 of 10 scans: .*32 of 32 voxels"):
        crop_la(source, tmp_path / "b", crop="full-masks", num_full=2, margin=0.625)
    assert record(tmp_path / "b")["box_mm"] == found["box_mm"]
    for name in others:  # unreadable: no file of theirs can be cut, the box is the same
        (source / name / "laendo.nrrd").write_bytes(b"NRRD0004\nbroken")
    with pytest.raises(DatalistError, match=r"^8 faults in the LA folder"):
        crop_la(source, tmp_path / "c", crop="full-masks", num_full=2, margin=0.625)
    assert record(tmp_path / "c")["box_mm"] == found["box_mm"]
    assert set(record(tmp_path / "c")["cases"]) == set(training[:2])
    assert not (tmp_path / "c" / "datalist.json").exists()
    with pytest.raises(DatalistError, match=r"laendo\.nrrd: the mask is not a readable"):
        crop_la(source, tmp_path / "d", crop="full-masks", num_full=3)


def test_center_reads_no_mask_for_the_crop(tmp_path: Path) -> None:
    source = official(tmp_path / "in", 4)
    crop_la(source, tmp_path / "a", size=5.0)
    for number in range(4):
        write_itk(source / f"case{number:02d}" / "laendo.nrrd", mask_array((3, 3)))
    with pytest.warns(UserWarning, match="cuts foreground of 4 of 4 scans"):
        crop_la(source, tmp_path / "b", size=5.0)
    for number in range(4):
        name = f"image/case{number:02d}.nii.gz"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_none_keeps_the_whole_scan(tmp_path: Path) -> None:
    crop_la(official(tmp_path / "in", 3), tmp_path / "out", crop="none")
    image = nib.load(tmp_path / "out" / "image" / "case00.nii.gz")
    np.testing.assert_array_equal(image.dataobj, scan_array(0))
    assert record(tmp_path / "out")["box_mm"] is None


def test_values_beyond_int16_stay_as_they_are(tmp_path: Path) -> None:
    source = official(tmp_path / "in", 3)
    fine = np.linspace(0, 1, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    write_itk(source / "case00" / "lgemri.nrrd", fine)
    write_itk(source / "case01" / "lgemri.nrrd", scan_array(1).astype(np.uint16) + 40_000)
    whole = scan_array(2).astype(np.float32)
    write_itk(source / "case02" / "lgemri.nrrd", whole)
    crop_la(source, tmp_path / "out", crop="none")
    for number, expected in enumerate((fine, scan_array(1).astype(float) + 40_000, whole)):
        image = nib.load(tmp_path / "out" / "image" / f"case0{number}.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj), expected)
        assert image.get_data_dtype() == (np.int16 if number == 2 else np.float32)


def test_identical_cases_are_noted(tmp_path: Path) -> None:
    source = official(tmp_path / "in", 3)
    for number in range(3):
        write_itk(source / f"case0{number}" / "laendo.nrrd", mask_array((10 + number, 10)))
    write_itk(source / "case02" / "lgemri.nrrd", scan_array(0))
    with pytest.warns(UserWarning, match=r"^these scans are identical: case0\d \(\w+\), case0\d"):
        crop_la(source, tmp_path / "out", crop="none")


# --- interruption


def test_an_interrupted_run_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, output = official(tmp_path / "in", 5), tmp_path / "out"
    crop_la(source, tmp_path / "whole", size=5.0)
    genuine, seen = la_crop._crop_case, []

    def stop_at_third(scan: Any, *arguments: Any) -> dict[str, Any]:
        seen.append(scan.case_id)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return genuine(scan, *arguments)

    monkeypatch.setattr(la_crop, "_crop_case", stop_at_third)
    monkeypatch.setattr(la_crop, "_MAX_WORKERS", 1)
    with pytest.raises(KeyboardInterrupt):
        crop_la(source, output, size=5.0)
    assert not (output / "datalist.json").exists()
    done = list(record(output)["cases"])
    assert done == seen[:2]

    again: list[str] = []
    monkeypatch.setattr(
        la_crop, "_crop_case", lambda scan, *a: again.append(scan.case_id) or genuine(scan, *a)
    )
    crop_la(source, output, size=5.0)
    assert not set(again) & set(done)
    assert len(again) == 3
    files = sorted(p.relative_to(output) for p in output.rglob("*") if p.is_file())
    assert files == sorted(
        p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*") if p.is_file()
    )
    for file in files:
        assert (output / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_another_rule_does_not_mix_with_what_is_there(tmp_path: Path) -> None:
    source, output = official(tmp_path / "in", 3), tmp_path / "out"
    crop_la(source, output, size=5.0)
    with pytest.raises(DatalistError, match=r"datalist\.json' exists; give --overwrite"):
        crop_la(source, output, size=5.0)
    (output / "datalist.json").unlink()
    with pytest.raises(DatalistError, match="records another crop or seed than asked for"):
        crop_la(source, output, size=7.5)
    crop_la(source, output, size=7.5, overwrite=True)
    assert nib.load(output / "image" / "case00.nii.gz").shape == (12, 12, 6)
    (output / "datalist.json").unlink()
    (output / "preparation.json").write_text("{")
    with pytest.raises(DatalistError, match=r"preparation\.json cannot be read"):
        crop_la(source, output, size=7.5)


# --- bad input


def _four_d(place: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 3, 2), np.int16), np.eye(4)), place / "lgemri.nii.gz")
    (place / "lgemri.nrrd").unlink()


def _truncate(place: Path) -> None:
    file = place / "lgemri.nrrd"
    file.write_bytes(file.read_bytes()[:-200])


def _nan(place: Path) -> None:
    array = scan_array(0).astype(np.float32)
    array[1, 2, 3] = np.nan
    write_itk(place / "lgemri.nrrd", array)


BAD: list[tuple[Any, str]] = [
    (lambda p: (p / "laendo.nrrd").unlink(), r"case01: its mask laendo\.nrrd is missing"),
    (lambda p: (p / "lgemri.nrrd").unlink(), r"case01: its scan lgemri\.nrrd is missing"),
    (
        _truncate,
        r"case01/lgemri\.nrrd: the scan is not a readable image file "
        r"\(its compressed data end early\); it may be truncated",
    ),
    (
        lambda p: (p / "laendo.nrrd").write_bytes(b""),
        r"case01/laendo\.nrrd: the mask is not a readable image file",
    ),
    (_four_d, r"case01/lgemri\.nii\.gz: the scan has 2 channels; store one number per voxel"),
    (
        lambda p: write_itk(p / "laendo.nrrd", mask_array()[:-1]),
        r"case01/laendo\.nrrd: the mask's shape \(23, 20, 6\) is not the scan's \(24, 20, 6\)",
    ),
    (
        lambda p: write_itk(p / "laendo.nrrd", mask_array(), origin=(-30.0, 12.0, 7.0)),
        r"case01/laendo\.nrrd: the mask's affine differs from the scan's by up to 0\.5 mm",
    ),
    (
        lambda p: write_itk(p / "laendo.nrrd", mask_array(value=128)),
        r"case01/laendo\.nrrd: the mask holds 128; expected are 0 \(background\) and 1 or 255",
    ),
    (_nan, r"case01/lgemri\.nrrd: the scan has NaN or infinite voxels"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD)
def test_bad_input_is_named(tmp_path: Path, spoil: Any, message: str) -> None:
    source = official(tmp_path / "in", 3)
    spoil(source / "case01")
    with pytest.raises(DatalistError, match=message):
        crop_la(source, tmp_path / "out", crop="none")
    assert not (tmp_path / "out" / "datalist.json").exists()


def test_all_faults_are_listed_and_fixing_them_finishes(tmp_path: Path) -> None:
    source, output = official(tmp_path / "in", 5), tmp_path / "out"
    good = (source / "case03" / "lgemri.nrrd").read_bytes()
    _truncate(source / "case03")
    write_itk(source / "case01" / "laendo.nrrd", mask_array(value=7))
    with pytest.raises(DatalistError) as caught:
        crop_la(source, output, size=5.0)
    message = str(caught.value)
    assert message.startswith("2 faults in the LA folder")
    assert "case03/lgemri.nrrd" in message
    assert "case01/laendo.nrrd: the mask holds 7" in message
    assert message.endswith("finished scans are kept")
    (source / "case03" / "lgemri.nrrd").write_bytes(good)
    write_itk(source / "case01" / "laendo.nrrd", mask_array())
    crop_la(source, output, size=5.0)
    assert len(record(output)["cases"]) == 5


def test_a_scan_found_twice(tmp_path: Path) -> None:
    official(tmp_path / "in" / "Training Set", 3)
    official(tmp_path / "in" / "Testing Set", 1)
    with pytest.raises(DatalistError, match="the scan 'case00' is found twice below"):
        crop_la(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": "heart"}, "crop is 'heart'; use one of"),
        ({"crop": "full-masks"}, "the crop 'full-masks' needs num_full"),
        ({"num_full": 3}, "num_full is for the crop 'full-masks', not for 'center'"),
        ({"crop": "full-masks", "num_full": 0}, "num_full is 0; at least one mask"),
        (
            {"crop": "full-masks", "num_full": 9},
            "num_full is 9, but the training split has 1 scans",
        ),
        ({"size": 0.0}, "size is 0.0; it is the side of the crop in mm and must be positive"),
        ({"margin": -1.0}, "margin is -1.0; it is a width in mm and cannot be negative"),
    ],
)
def test_options_are_checked(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    source = official(tmp_path / "in", 3)
    with pytest.raises(ValueError, match=message):
        crop_la(source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_empty_masks_give_no_box(tmp_path: Path) -> None:
    source = official(tmp_path / "in", 3)
    for number in range(3):
        write_itk(source / f"case0{number}" / "laendo.nrrd", np.zeros(SHAPE, np.uint8))
    with pytest.raises(DatalistError, match="the masks of the first 1 training scans are empty"):
        crop_la(source, tmp_path / "out", crop="full-masks", num_full=1)
