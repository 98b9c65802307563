"""Kinds of folders and labels that people have, with the label map that must come of them."""

from __future__ import annotations

import gzip
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from mixseg.data import Datalist, FolderOptions, inspect_folder, prepare_folder
from mixseg.data.checks import validate_datalist
from mixseg.files.reading import open_volume

SHAPE = (6, 5, 4)
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


def image(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, shape).astype(np.int16)


def full(*values: int, dtype: Any = np.uint8) -> np.ndarray:
    """One slab of 20 voxels a value."""
    label = np.zeros(SHAPE, dtype)
    for place, value in enumerate(values):
        label[place + 1] = value
    return label


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def fill(root: Path, labels: list[np.ndarray]) -> Path:
    for i, label in enumerate(labels):
        save(root / "images" / f"c{i}.nii.gz", image(i))
        save(root / "labels" / f"c{i}.nii.gz", label)
    return root


def stored_labels(datalist: Datalist, folder: Path) -> dict[str, np.ndarray]:
    """The label map of each case as training reads it."""
    found = {}
    for _, entry in datalist.resolve(folder).items():
        data = open_volume(str(entry.label)).data
        assert data is not None
        found[entry.case_id] = data
    return found


def sound(datalist: Datalist) -> None:
    assert [str(fault) for fault in validate_datalist(datalist) if fault.level == "error"] == []


# Segmentations of 3D Slicer


def write_seg(
    path: Path,
    layers: np.ndarray,
    segments: list[tuple[str, int, int]],
    offset: tuple[int, int, int] = (0, 0, 0),
) -> None:
    """``layers`` (layer, x, y, z), cropped at ``offset`` of a grid with the affine ``AFFINE``."""
    origin = (AFFINE @ [*offset, 1])[:3] * [-1, -1, 1]
    several = len(layers) > 1
    sizes = layers.shape if several else layers.shape[1:]
    lines = [
        "NRRD0004",
        "type: unsigned char",
        f"dimension: {len(sizes)}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, sizes))}",
        f"space directions: {'none ' if several else ''}(1,0,0) (0,1,0) (0,0,2)",
        f"kinds: {'list ' if several else ''}domain domain domain",
        "encoding: gzip",
        f"space origin: ({','.join(f'{v:g}' for v in origin)})",
    ]
    for number, (name, value, layer) in enumerate(segments):
        key = f"Segment{number}_"
        lines += [f"{key}ID:=Segment_{number + 1}", f"{key}Name:={name}"]
        lines += [f"{key}LabelValue:={value}", f"{key}Layer:={layer}"]
    path.parent.mkdir(parents=True, exist_ok=True)
    values = layers if several else layers[0]
    body = gzip.compress(values.astype(np.uint8).tobytes(order="F"))
    path.write_bytes("\n".join(lines).encode() + b"\n\n" + body)


def test_names_of_segments_decide_the_classes_whatever_their_order(tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / "images" / f"c{i}.nii.gz", image(i))
        names = ["liver", "tumor"] if i % 2 else ["tumor", "liver"]
        value = {name: k + 1 for k, name in enumerate(names)}
        layer = full(value["liver"], value["tumor"])[None]
        write_seg(tmp_path / "segs" / f"c{i}.seg.nrrd", layer, [(n, value[n], 0) for n in names])
    options = FolderOptions(labels=tmp_path / "segs")
    datalist = prepare_folder(tmp_path / "images", tmp_path / "out", options)
    assert datalist.classes == ["background", "tumor", "liver"]
    for label in stored_labels(datalist, tmp_path).values():
        np.testing.assert_array_equal(label, full(2, 1))
    sound(datalist)
    named = FolderOptions(labels=tmp_path / "segs", classes=["bg", "Liver", "Tumor"])
    datalist = prepare_folder(tmp_path / "images", tmp_path / "named", named)
    for label in stored_labels(datalist, tmp_path).values():
        np.testing.assert_array_equal(label, full(1, 2))
    lacking = FolderOptions(labels=tmp_path / "segs", classes=["bg", "liver"])
    faults = inspect_folder(tmp_path / "images", lacking).faults
    assert "its segment 'tumor' is not one of the classes (bg, liver)" in faults[0].problem


def test_names_of_segments_do_not_depend_on_capitals(tmp_path: Path) -> None:
    for i, name in enumerate(["liver", "Liver", "LIVER"]):
        save(tmp_path / "images" / f"c{i}.nii.gz", image(i))
        write_seg(tmp_path / "segs" / f"c{i}.seg.nrrd", full(1)[None], [(name, 1, 0)])
    options = FolderOptions(labels=tmp_path / "segs")
    datalist = prepare_folder(tmp_path / "images", tmp_path / "out", options)
    assert datalist.classes == ["background", "liver"]
    for label in stored_labels(datalist, tmp_path).values():
        np.testing.assert_array_equal(label, full(1))


def test_numbers_beside_names_need_somebody_who_says_what_they_mean(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / "images" / f"c{i}.nii.gz", image(i))
    write_seg(
        tmp_path / "labels" / "c0.seg.nrrd", full(2, 1)[None], [("tumor", 2, 0), ("liver", 1, 0)]
    )
    for i in (1, 2):
        save(tmp_path / "labels" / f"c{i}.nii.gz", full(2, 1))
    faults = inspect_folder(tmp_path).faults
    assert [Path(fault.file).name for fault in faults] == ["c1.nii.gz", "c2.nii.gz"]
    assert "no names for its values 1, 2, as 'c0.seg.nrrd' has" in faults[0].problem
    stated = FolderOptions(classes=["background", "liver", "tumor"])
    datalist = prepare_folder(tmp_path, tmp_path / "out", stated)
    for label in stored_labels(datalist, tmp_path).values():
        np.testing.assert_array_equal(label, full(2, 1))
    write_seg(tmp_path / "labels" / "c0.seg.nrrd", full(1)[None], [("tumor", 1, 0)])
    for i in (1, 2):
        save(tmp_path / "labels" / f"c{i}.nii.gz", full(1))
    assert inspect_folder(tmp_path).faults == []  # of one class there is no order


def test_strokes_on_the_background_are_not_the_untouched_voxels(tmp_path: Path) -> None:
    segments = [("liver", 1, 0), ("Background", 2, 0)]
    for i in range(3):
        save(tmp_path / "images" / f"c{i}.nii.gz", image(i))
        write_seg(tmp_path / "drawn" / f"c{i}.seg.nrrd", full(1, 2)[None], segments)
    options = FolderOptions(labels=tmp_path / "drawn")
    faults = inspect_folder(tmp_path / "images", options).faults
    assert len(faults) >= 3
    for fault in faults[:3]:
        assert "a segment for 'background', and 80 voxels in no segment" in fault.problem
        assert "give --scribbles" in fault.fix
    options = FolderOptions(scribbles=tmp_path / "drawn", allow_unlabeled=True)
    datalist = prepare_folder(tmp_path / "images", tmp_path / "out", options)
    assert (datalist.classes, datalist.unlabeled) == (["background", "liver"], 2)
    for _, entry in datalist.resolve(tmp_path / "out").items():
        drawn = open_volume(str(entry.scribble)).data
        # Slab 1 is the liver, slab 2 the background, all else untouched.
        expected = np.full(SHAPE, 2)
        expected[1], expected[2] = 1, 0
        np.testing.assert_array_equal(drawn, expected)


def test_a_segment_named_as_code_is_a_fault_of_its_folder(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / "images" / f"c{i}.nii.gz", image(i))
        write_seg(tmp_path / "segs" / f"c{i}.seg.nrrd", full(1)[None], [("$print(1)", 1, 0)])
    (fault,) = inspect_folder(tmp_path / "images", FolderOptions(labels=tmp_path / "segs")).faults
    assert "class names ['$print(1)'] begin with a sign" in fault.problem
    assert "rename the classes, segments or files" in fault.fix


def test_layers_and_cropped_extents_of_segmentations(tmp_path: Path) -> None:
    """Two overlapping segments in layers of their own, stored from voxel (1, 2, 1) on."""
    expected = np.zeros(SHAPE, np.uint8)
    expected[1:4, 2:4, 1:3] = 1
    expected[2:5, 3:5, 2:4] = 2  # the later one has what both hold
    first, second = (np.zeros(SHAPE, np.uint8) for _ in range(2))
    first[1:4, 2:4, 1:3] = 1
    second[2:5, 3:5, 2:4] = 1
    layers = np.stack([first, second])[:, 1:5, 2:5, 1:4]
    for i in range(3):
        save(tmp_path / "images" / f"c{i}.nii.gz", image(i))
        write_seg(
            tmp_path / "labels" / f"c{i}.seg.nrrd",
            layers,
            [("a", 1, 0), ("b", 1, 1)],
            offset=(1, 2, 1),
        )
    report = inspect_folder(tmp_path)
    assert report.faults == [], [str(fault) for fault in report.faults]
    overlap = int((first & second).sum())
    assert any(f"its segments overlap in {overlap} voxels" in note for note in report.notes)
    datalist = prepare_folder(tmp_path, tmp_path / "out")
    for label in stored_labels(datalist, tmp_path).values():
        np.testing.assert_array_equal(label, expected)
    sound(datalist)


# A mask for each structure


@pytest.mark.parametrize("layout", ["total", "folders"])
def test_a_mask_for_each_structure(tmp_path: Path, layout: str) -> None:
    for i in range(4):
        liver, spleen = full(1), full(0, 1)
        spleen[1, 0] = 1  # both claim it: the later by name has it
        if layout == "total":
            folder = tmp_path / f"s{i:04d}" / "segmentations"
            save(tmp_path / f"s{i:04d}" / "ct.nii.gz", image(i))
        else:
            folder = tmp_path / "labels" / f"s{i:04d}"
            save(tmp_path / "images" / f"s{i:04d}.nii.gz", image(i))
        save(folder / "liver.nii.gz", liver)
        save(folder / "spleen.nii.gz", spleen * 255)
    report = inspect_folder(tmp_path)
    assert report.faults == [], [str(fault) for fault in report.faults]
    datalist = prepare_folder(tmp_path, tmp_path / "out")
    assert datalist.classes == ["background", "liver", "spleen"]
    expected = full(1, 2)
    expected[1, 0] = 2
    labels = stored_labels(datalist, tmp_path)
    assert len(labels) == 4
    for label in labels.values():
        np.testing.assert_array_equal(label, expected)
    sound(datalist)
    save(folder / "liver.nii.gz", full(1), AFFINE + np.diag([0, 0, 1, 0]))
    (fault,) = inspect_folder(tmp_path).faults
    assert "liver.nii.gz has another grid than spleen.nii.gz" in fault.problem
    assert fault.fix == "resample liver.nii.gz"


def test_a_label_that_is_stored_in_another_direction_keeps_its_header(tmp_path: Path) -> None:
    for i, turned in enumerate((True, False, False)):
        save(tmp_path / "images" / f"c{i}.nii.gz", image(i), AFFINE)
        reverse = AFFINE @ np.diag([-1, 1, 1, 1])
        reverse[:3, 3] = AFFINE[:3] @ [SHAPE[0] - 1, 0, 0, 1]
        shifted = AFFINE + np.array([[0, 0, 0, 5]] + [[0] * 4] * 3)
        affine = reverse if turned else shifted
        save(tmp_path / "labels" / f"c{i}.nii.gz", full(1)[::-1] if turned else full(1), affine)
    fixes = {Path(f.file).name: f.fix for f in inspect_folder(tmp_path).faults}
    assert "do not copy the header" in fixes["c0.nii.gz"]
    assert "copy the image's header to the label if" in fixes["c1.nii.gz"]


# Names


def test_numbers_at_the_end_are_channels_only_where_labels_do_not_bear_them(
    tmp_path: Path,
) -> None:
    for i in range(2, 8):
        save(tmp_path / "imagesTr" / f"word_{i:04d}.nii.gz", image(i))
        save(tmp_path / "labelsTr" / f"word_{i:04d}.nii.gz", full(1))
    content = {"labels": {"background": 0, "organ": 1}, "channel_names": {"0": "CT"}}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    by_parts = FolderOptions(labels=tmp_path / "labelsTr")
    for report in (inspect_folder(tmp_path), inspect_folder(tmp_path / "imagesTr", by_parts)):
        assert report.faults == [], [str(fault) for fault in report.faults]
        assert sorted(c.pair.case_id for c in report.cases) == [
            f"word_{i:04d}" for i in range(2, 8)
        ]
    assert inspect_folder(tmp_path).classes is not None


@pytest.mark.parametrize("apart", [True, False])
def test_names_of_lits(tmp_path: Path, apart: bool) -> None:
    for i in range(12):
        save(tmp_path / ("images" if apart else "") / f"volume-{i}.nii", image(i))
        save(tmp_path / ("labels" if apart else "") / f"segmentation-{i}.nii", full(1 + (i == 11)))
    report = inspect_folder(tmp_path)
    assert report.faults == [], [str(fault) for fault in report.faults]
    for case in report.cases:
        assert case.pair.label is not None
        assert case.pair.label.name == case.pair.image.name.replace("volume", "segmentation")


@pytest.mark.parametrize("separator", ["_", "-"])
def test_modalities_of_brats_are_the_channels_of_one_image(tmp_path: Path, separator: str) -> None:
    names = ("flair", "t1", "t1ce", "t2")
    for i in range(3):
        case = f"BraTS20_Training_{i:03d}"
        for k, name in enumerate(names):
            save(tmp_path / case / f"{case}{separator}{name}.nii.gz", image(10 * i + k))
        save(tmp_path / case / f"{case}{separator}seg.nii.gz", full(1, 2, 4))
    options = FolderOptions(values=[0, 1, 2, 4])
    report = inspect_folder(tmp_path, options)
    assert report.faults == [], [str(fault) for fault in report.faults]
    assert any("0 flair, 1 t1, 2 t1ce, 3 t2" in note for note in report.notes)
    datalist = prepare_folder(tmp_path, tmp_path, options)
    assert {e.case_id for _, e in datalist.items()} == {
        f"BraTS20_Training_{i:03d}" for i in range(3)
    }
    entry = next(e for _, e in datalist.resolve().items() if e.case_id.endswith("001"))
    opened = open_volume(entry.image_files)
    assert opened.channels == 4
    np.testing.assert_array_equal(opened.data, np.stack([image(10 + k) for k in range(4)], -1))
    sound(datalist)
    one = inspect_folder(tmp_path, FolderOptions(values=[0, 1, 2, 4], channel=2))
    assert {case.pair.image.name.split(".")[0][-4:] for case in one.cases} == {"t1ce"}
    (tmp_path / "BraTS20_Training_002" / f"BraTS20_Training_002{separator}t2.nii.gz").unlink()
    (fault,) = inspect_folder(tmp_path, options).faults  # and its label is no orphan
    assert "the case 'BraTS20_Training_002' has no channel t2" in fault.problem


def test_bids_labels_belong_to_the_scan_of_their_subject_and_session(tmp_path: Path) -> None:
    for i in range(1, 4):
        anat = Path(f"sub-{i:02d}") / "ses-1" / "anat"
        stem = f"sub-{i:02d}_ses-1"
        save(tmp_path / anat / f"{stem}_T1w.nii.gz", image(i))
        save(tmp_path / anat / f"{stem}_FLAIR.nii.gz", image(10 + i))
        label = f"{stem}_space-T1w_desc-manual_dseg.nii.gz"
        save(tmp_path / "derivatives" / "manual" / anat / label, full(1, 2))
    report = inspect_folder(tmp_path)
    assert report.faults == [], [str(fault) for fault in report.faults]
    assert report.layout == "BIDS"
    assert {c.pair.image.name for c in report.cases} == {
        f"sub-{i:02d}_ses-1_T1w.nii.gz" for i in range(1, 4)
    }
    assert any("3 scans without a label are left out" in note for note in report.notes)
    path = tmp_path / "derivatives/manual/sub-01/ses-1/anat"
    (path / "sub-01_ses-1_space-T1w_desc-manual_dseg.nii.gz").rename(
        path / "sub-01_ses-1_dseg.nii.gz"
    )
    fault = inspect_folder(tmp_path).faults[0]
    assert "its scan cannot be told" in fault.problem
    assert "sub-01_ses-1_FLAIR.nii.gz, sub-01_ses-1_T1w.nii.gz" in fault.problem


def test_labels_of_the_spinal_cord_toolbox_and_what_else_lies_in_derivatives(
    tmp_path: Path,
) -> None:
    for i in range(1, 4):
        anat = Path(f"sub-{i:02d}") / "anat"
        save(tmp_path / anat / f"sub-{i:02d}_T2w.nii.gz", image(i))
        labels = tmp_path / "derivatives" / "labels" / anat
        save(labels / f"sub-{i:02d}_T2w_lesion-manual.nii.gz", full(1))
        save(labels / f"sub-{i:02d}_T2w_centerline.nii.gz", full(1))
    report = inspect_folder(tmp_path)
    assert report.faults == [], [str(fault) for fault in report.faults]
    assert {c.pair.label.name[7:] for c in report.cases if c.pair.label} == {
        "T2w_lesion-manual.nii.gz"
    }
    assert any("left out, such as sub-01_T2w_centerline.nii.gz" in n for n in report.notes)
    save(labels / "sub-03_T2w_seg-manual.nii.gz", full(1))
    (fault,) = inspect_folder(tmp_path).faults
    assert "has two labels" in fault.problem


def test_an_exact_name_comes_before_a_suffix(tmp_path: Path) -> None:
    for name in ("a", "a_0000", "b_manual", "c"):
        save(tmp_path / "images" / f"{name}.nii.gz", image(len(name)))
        save(tmp_path / "labels" / f"{name}.nii.gz", full(1))
    pairs = {c.pair.image.name: c.pair.label for c in inspect_folder(tmp_path).cases}
    assert {name: label and label.name for name, label in pairs.items()} == {n: n for n in pairs}
    assert len(pairs) == 4
    for i in range(3):
        save(tmp_path / "beside" / f"p{i}_manual.nii.gz", image(i))
        save(tmp_path / "beside" / f"p{i}_manual_mask.nii.gz", full(1))
    report = inspect_folder(tmp_path / "beside")
    assert report.faults == [], [str(fault) for fault in report.faults]
    assert {c.pair.case_id for c in report.cases} == {f"p{i}_manual" for i in range(3)}


def test_unicode_forms_fold(tmp_path: Path) -> None:
    for i in range(3):
        name = f"Müller-{i}"
        save(tmp_path / "images" / (unicodedata.normalize("NFD", name) + ".nii.gz"), image(i))
        save(tmp_path / "labels" / (unicodedata.normalize("NFC", name) + ".nii.gz"), full(1))
    split = {"train": ["Müller-0", unicodedata.normalize("NFD", "Müller-1")], "val": ["Müller-2"]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    report = inspect_folder(tmp_path, FolderOptions(split=str(tmp_path / "split.json")))
    assert report.faults == [], [str(fault) for fault in report.faults]
    assert {c.pair.case_id for c in report.cases} == {f"Müller-{i}" for i in range(3)}


def test_linked_folders_are_followed_and_what_is_left_out_is_named(tmp_path: Path) -> None:
    for i in range(4):
        place = tmp_path / ("all" if i < 2 else "store") / f"p{i}"
        save(place / f"p{i}.nii.gz", image(i))
        save(place / f"p{i}_mask.nii.gz", full(1))
        (place / f"._p{i}.nii.gz").write_bytes(b"left by a Mac")
        if i >= 2:
            (tmp_path / "all" / f"p{i}").symlink_to(place)
    (tmp_path / "all" / "circle").symlink_to(tmp_path / "all")
    (tmp_path / "all" / "p9.nii.gz").symlink_to(tmp_path / "annex" / "gone")
    report = inspect_folder(tmp_path / "all")
    assert report.faults == [], [str(fault) for fault in report.faults]
    assert {c.pair.case_id for c in report.cases} == {f"p{i}" for i in range(4)}
    assert any("p9.nii.gz is left out: a link to" in note for note in report.notes)


def test_formats_that_are_not_read_are_named_once_a_kind(tmp_path: Path) -> None:
    fill(tmp_path, [full(1)] * 3)
    for name in ("a.mgz", "b.mgz", "c.nii.bz2", "notes.txt"):
        (tmp_path / "images" / name).write_bytes(b"whatever")
    (tmp_path / "images" / "d.nii.gz").mkdir()
    notes = [note for note in inspect_folder(tmp_path).notes if "left out" in note]
    assert len(notes) == 3
    assert "d.nii.gz is left out: a folder with the name of an image" in notes.pop(0)
    assert "a.mgz is left out: .mgz is a format that is not read, as are 1 more" in notes[0]
    assert "c.nii.bz2 is left out: .nii.bz2 is a format" in notes[1]


def test_a_list_that_was_written_on_windows(tmp_path: Path) -> None:
    fill(tmp_path, [full(1)] * 3)
    entries = [{"image": f"images\\c{i}.nii.gz", "label": f"labels\\c{i}.nii.gz"} for i in range(3)]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": entries}))
    report = inspect_folder(tmp_path / "dataset.json")
    assert report.faults == [], [str(fault) for fault in report.faults]
    assert len(report.cases) == 3


def test_dicom_series_beside_labels(tmp_path: Path, write_series: Callable[..., Path]) -> None:
    for i in range(3):
        write_series(tmp_path / "scans" / f"pt{i}", image(i), uid=f"1.2.826.{i + 1}")
        save(tmp_path / "labels" / f"pt{i}.nii.gz", full(1))
    options = FolderOptions(labels=tmp_path / "labels")
    datalist = prepare_folder(tmp_path / "scans", tmp_path, options)
    assert {entry.image for _, entry in datalist.items()} == {f"scans/pt{i}" for i in range(3)}
    sound(datalist)


# Values


def pictures(root: Path, masks: list[np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i, mask in enumerate(masks):
        picture = rng.integers(0, 255, (*mask.shape, 3)).astype(np.uint8)
        Image.fromarray(picture).save(root / "images" / f"p{i}.png")
        Image.fromarray(mask).save(root / "masks" / f"p{i}.png")


def smoothed(seed: int) -> np.ndarray:
    big = np.zeros((200, 200), np.uint8)
    x = 40 + 10 * seed
    big[30:150, x : x + 60] = 255
    picture = Image.fromarray(big).rotate(10 + seed)
    return np.asarray(picture.resize((48, 48), Image.Resampling.BICUBIC))


def test_smoothed_masks_are_named_and_a_threshold_makes_them_classes(tmp_path: Path) -> None:
    masks = [smoothed(i) for i in range(4)]
    pictures(tmp_path, [*masks, np.zeros((48, 48), np.uint8)])
    faults = inspect_folder(tmp_path).faults
    assert {Path(fault.file).name for fault in faults} == {f"p{i}.png" for i in range(4)}
    for fault in faults:
        assert "gray levels" in fault.problem
        assert "give --threshold 127.5" in fault.fix
    datalist = prepare_folder(tmp_path, tmp_path / "out", FolderOptions(threshold=127.5))
    assert datalist.classes == ["background", "class1"]
    labels = stored_labels(datalist, tmp_path)
    for i, mask in enumerate(masks):
        np.testing.assert_array_equal(labels[f"p{i}"], (mask >= 128).T)
    sound(datalist)


def test_many_classes_are_no_gray_levels(tmp_path: Path) -> None:
    label = np.zeros(SHAPE, np.uint8)
    label.ravel()[: 5 * 20] = np.repeat(np.arange(1, 21), 5)
    report = inspect_folder(fill(tmp_path, [label] * 3))
    assert report.faults == []
    assert report.classes is not None
    assert len(report.classes.names) == 21


def test_classes_that_somebody_states_are_no_gray_levels(tmp_path: Path) -> None:
    """12 classes with 255 for unlabeled; 24 classes whose last ones are the largest."""
    few = np.zeros(SHAPE, np.uint8)
    few.ravel()[: 13 * 5] = np.repeat([*range(1, 13), 255], 5)
    fill(tmp_path / "few", [few] * 3)
    datalist = prepare_folder(tmp_path / "few", tmp_path / "out", FolderOptions(unlabeled=255))
    assert (len(datalist.classes), datalist.unlabeled) == (13, 255)
    for fault in inspect_folder(tmp_path / "few").faults:
        assert "give --unlabeled 255" in fault.fix
        assert "threshold" not in fault.fix
    many = np.zeros(SHAPE, np.uint8)
    many.ravel()[:24] = np.arange(1, 25)
    many.ravel()[24:100] = 24
    fill(tmp_path / "many", [many] * 3)
    names = [f"c{i}" for i in range(25)]
    report = inspect_folder(tmp_path / "many", FolderOptions(classes=names))
    assert report.faults == []
    assert all("name them all" in fault.fix for fault in inspect_folder(tmp_path / "many").faults)


@pytest.mark.parametrize(("value", "dtype"), [(-100, np.int16), (65535, np.uint16), (9, np.uint8)])
def test_both_meanings_of_a_stray_value_are_proposed(
    tmp_path: Path, value: int, dtype: Any
) -> None:
    fill(tmp_path, [full(1, value, dtype=dtype) for _ in range(3)])
    (fault,) = inspect_folder(tmp_path).faults
    assert "a value that means unlabeled goes to --unlabeled" in fault.fix
    named = fault.fix.partition('--values "')[2].partition('"')[0]
    options = FolderOptions(values=[int(part) for part in named.split(",")])
    datalist = prepare_folder(tmp_path, tmp_path / "classes", options)
    for label in stored_labels(datalist, tmp_path).values():
        assert {int(v) for v in np.unique(label)} == {0, 1, 2}
        np.testing.assert_array_equal(label == 0, full(1, 2) == 0)
    datalist = prepare_folder(tmp_path, tmp_path / "unlabeled", FolderOptions(unlabeled=value))
    assert datalist.classes == ["background", "class1"]


def test_a_label_with_nan_gets_no_threshold(tmp_path: Path) -> None:
    label = full(1, dtype=np.float32)
    label[0, 0, 0] = np.nan
    fill(tmp_path, [label] * 3)
    for fault in inspect_folder(tmp_path).faults:
        assert "such as nan" in fault.problem
        assert "threshold" not in fault.fix
        assert "export it again with whole numbers" in fault.fix


def test_each_file_with_another_convention_is_named(tmp_path: Path) -> None:
    fill(tmp_path, [full(1), full(1), full(255), full(1), full(255)])
    (fault,) = inspect_folder(tmp_path).faults
    assert "1 in 3 files (c0.nii.gz, c1.nii.gz, c3.nii.gz)" in fault.problem
    assert "255 in 2 files (c2.nii.gz, c4.nii.gz)" in fault.problem
    assert "give --threshold 1;" in fault.fix
    datalist = prepare_folder(tmp_path, tmp_path / "out", FolderOptions(threshold=1))
    for label in stored_labels(datalist, tmp_path).values():
        np.testing.assert_array_equal(label, full(1))
    sound(datalist)


@pytest.mark.parametrize(("value", "dtype"), [(255, np.uint8), (-1, np.int16)])
def test_customary_values_are_unlabeled_only_where_somebody_says_it(
    tmp_path: Path, value: int, dtype: Any
) -> None:
    labels = [full(1, 2), full(1, 2), full(1, 2), full(1, 2, value, dtype=dtype)]
    fill(tmp_path, labels)
    (fault,) = inspect_folder(tmp_path).faults
    assert fault.file == str(tmp_path / "labels" / "c3.nii.gz")
    assert f"the value {value} is not one of 0, 1, 2 in a row" in fault.problem
    assert f"give --unlabeled {value}" in fault.fix
    report = inspect_folder(tmp_path, FolderOptions(unlabeled=value))
    assert report.faults == []
    assert {c.pair.case_id: c.kind for c in report.cases}["c3"] == "partial"
    named = inspect_folder(tmp_path, FolderOptions(classes=["bg", "a", "b"])).faults
    assert f"label values [{value}] are not a class" in named[0].problem
    assert f"give --unlabeled {value}" in named[0].fix
    content = {"labels": {"background": 0, "a": 1, "b": 2, "ignore": value}}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert inspect_folder(tmp_path).faults == []


def test_values_off_by_rounding_are_whole_numbers(tmp_path: Path) -> None:
    near = full(1, 2).astype(np.float32)
    near[near > 0] += np.float32(1e-5)
    fill(tmp_path, [near, near, full(1, 2), full(1, 2)])
    datalist = prepare_folder(tmp_path, tmp_path / "out")
    for label in stored_labels(datalist, tmp_path).values():
        np.testing.assert_array_equal(label, full(1, 2))
    half = full(1, 2).astype(np.float32) / 2
    save(tmp_path / "labels" / "c1.nii.gz", half)
    (fault,) = inspect_folder(tmp_path).faults
    assert "values that are not whole numbers, such as 0.5" in fault.problem
    assert "--threshold 0.5" in fault.fix


def test_equal_faults_are_listed_once_with_a_count(tmp_path: Path) -> None:
    fill(tmp_path, [full(1)] * 6)
    for i in range(4):
        save(tmp_path / "labels" / f"c{i}.nii.gz", full(1), AFFINE + np.diag([0, 0, 0.1 * i, 0]))
    report = inspect_folder(tmp_path)
    with pytest.raises(ValueError, match="3 faults in") as caught:
        report.check()
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert "c1.nii.gz: the label's affine differs" in lines[1]
    assert "(so 2 other files: c2.nii.gz, c3.nii.gz)" in lines[1]


def test_equal_names_in_a_list_of_faults_come_with_their_folders(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / f"p{i}" / "imaging.nii.gz", image(i))
        save(tmp_path / f"p{i}" / "segmentation.nii.gz", full(1), AFFINE + np.diag([0, 0, 1, 0]))
    with pytest.raises(ValueError, match="3 faults in") as caught:
        inspect_folder(tmp_path).check()
    assert "(so 2 other files: p1/segmentation.nii.gz, p2/segmentation.nii.gz)" in str(caught.value)


def test_labels_and_images_that_do_not_match_are_all_named_and_nothing_else(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / "images" / f"Case{i}.nii.gz", image(i))
        save(tmp_path / "labels" / f"case{i}.nii.gz", full(1))
    faults = [fault.problem for fault in inspect_folder(tmp_path).faults]
    assert faults == ["the label has no image"] * 3 + ["the image has no label"] * 3
    fill(tmp_path / "more", [full(1, 5)] * 3)
    save(tmp_path / "more" / "images" / "extra.nii.gz", image(9))
    odd, extra = inspect_folder(tmp_path / "more").faults
    assert "the labels hold the values 0, 1, 5" in odd.problem
    assert Path(extra.file).name == "extra.nii.gz"
    assert len(inspect_folder(tmp_path / "more", FolderOptions(allow_unlabeled=True)).faults) == 1


def test_files_that_number_the_classes_otherwise_are_named(tmp_path: Path) -> None:
    fill(tmp_path, [full(1, 2), full(128, 255), full(1, 2), full(1, 2)])
    (fault,) = inspect_folder(tmp_path).faults
    assert "128, 255 in 1 file (c1.nii.gz)" in fault.problem
    assert "otherwise than the others must be converted" in fault.fix
    (fault,) = inspect_folder(tmp_path, FolderOptions(classes=["none", "a", "b"])).faults
    assert Path(fault.file).name == "c1.nii.gz"
    assert "store it as the others are" in fault.fix


def test_one_foreground_of_255_may_be_the_unlabeled_voxels(tmp_path: Path) -> None:
    fill(tmp_path, [full(1), full(255), full(1)])
    (fault,) = inspect_folder(tmp_path).faults
    assert fault.fix.endswith("if 255 means unlabeled, --unlabeled 255")
    report = inspect_folder(tmp_path, FolderOptions(unlabeled=255))
    assert report.faults == []
    assert sorted(case.kind for case in report.cases) == ["full", "full", "partial"]
    with pytest.raises(ValueError, match="leaves none for --unlabeled"):
        inspect_folder(tmp_path, FolderOptions(unlabeled=255, threshold=1))


def test_hidden_files_are_counted(tmp_path: Path) -> None:
    fill(tmp_path, [full(1)] * 3)
    (tmp_path / "images" / "._c0.nii.gz").write_bytes(b"left by a Mac")
    report = inspect_folder(tmp_path)
    assert len(report.cases) == 3
    assert f"hidden files named as images, below {tmp_path / 'images'}: 1 left out" in report.notes
