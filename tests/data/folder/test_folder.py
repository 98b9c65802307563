"""What a folder of images and labels is taken for, and the datalist that comes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pytest

from mixseg.data import (
    Datalist,
    FolderOptions,
    FolderReport,
    check_cases,
    inspect_folder,
    prepare_folder,
    select_cases,
    split_cases,
)
from mixseg.data.checks import validate_datalist
from mixseg.data.folder.cases import Kind
from mixseg.transforms import LoadVolumed

SHAPE = (6, 5, 3)  # 90 voxels


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1000, SHAPE).astype(np.int16)


def full(*classes: int) -> np.ndarray:
    """One slab of 15 voxels a class, background elsewhere."""
    label = np.zeros(SHAPE, np.uint8)
    for place, value in enumerate(classes):
        label[place + 1] = value
    return label


def scribble(unlabeled: int, *classes: int, dtype: Any = np.uint8) -> np.ndarray:
    """One stroke of 3 voxels a class (0 first), unlabeled elsewhere."""
    label = np.full(SHAPE, unlabeled, dtype)
    for place, value in enumerate((0, *classes)):
        label[place, 0] = value
    return label


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    else:
        itk.imwrite(itk.image_from_array(np.ascontiguousarray(array.T)), str(path))
    return path


def fill(root: Path, labels: dict[str, np.ndarray | None], suffix: str = ".nii.gz") -> None:
    """``images/`` and ``labels/``, a case a name."""
    for seed, (name, label) in enumerate(labels.items()):
        save(root / "images" / (name + suffix), image(seed))
        if label is not None:
            save(root / "labels" / (name + suffix), label)


def kinds(report: FolderReport) -> dict[str, Kind]:
    assert report.faults == [], [str(fault) for fault in report.faults]
    return {case.pair.case_id: case.kind for case in report.cases}


def errors(datalist: Datalist) -> list[str]:
    """Few masks all train, which is a note; what is left are errors."""
    return [str(fault) for fault in validate_datalist(datalist) if fault.level == "error"]


FULL = {f"f{i}": full(1, 2) for i in range(5)}


def test_each_case_is_recognized_by_the_values_of_its_label(tmp_path: Path) -> None:
    fill(tmp_path, FULL | {"s": scribble(3, 1, 2), "u": None})
    options = FolderOptions(classes=["background", "a", "b"], unlabeled=3, allow_unlabeled=True)
    report = inspect_folder(tmp_path, options)
    assert kinds(report) == dict.fromkeys(FULL, "full") | {"s": "partial", "u": "none"}
    voxels = {case.pair.case_id: dict(case.voxels) for case in report.cases}
    assert voxels["f0"] == {0: 60, 1: 15, 2: 15}
    assert voxels["s"] == {0: 3, 1: 3, 2: 3, 3: 81}
    datalist = prepare_folder(tmp_path, tmp_path, options)
    entries = {entry.case_id: entry for _, entry in datalist.items()}
    assert (entries["u"].label, entries["u"].supervision) == (None, "none")
    assert entries["s"].supervision == "partial"
    assert entries["f3"].label == "labels/f3.nii.gz"
    assert datalist.unlabeled == 3
    # Five full masks are too few to set any aside.
    assert [len(datalist.validation), len(datalist.test)] == [0, 0]
    few, without = report.uses
    assert few.startswith("5 patients with full masks: too few to set any aside for validation. A ")
    assert few.endswith("mixseg train BUNDLE --folds 5")
    assert without.startswith("1 case without a label: ")
    assert errors(Datalist.load(tmp_path / "datalist.json")) == []


@pytest.mark.parametrize(("value", "dtype"), [(255, np.uint8), (-1, np.int16)])
def test_one_value_for_unlabeled_is_declared_and_nothing_is_copied(
    tmp_path: Path, value: int, dtype: Any
) -> None:
    fill(tmp_path, FULL | {"s": scribble(value, 1, 2, dtype=dtype)})
    datalist = prepare_folder(tmp_path, tmp_path / "out", FolderOptions(unlabeled=value))
    assert (datalist.unlabeled, datalist.classes) == (value, ["background", "class1", "class2"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["datalist.json"]
    assert errors(datalist) == []


def test_two_values_for_unlabeled_become_one_in_copies(tmp_path: Path) -> None:
    fill(tmp_path, FULL | {"s": scribble(255, 1, 2), "t": scribble(3, 1)})
    before = (tmp_path / "labels" / "s.nii.gz").read_bytes()
    options = FolderOptions(classes=["background", "a", "b"], unlabeled=[255, 3])
    report = inspect_folder(tmp_path, options)
    assert "1 label file converted into copies (unlabeled 255→3), such as s.nii.gz" in report.notes
    datalist = prepare_folder(tmp_path, tmp_path / "out", options)
    assert datalist.unlabeled == 3
    entries = {entry.case_id: entry for entry in datalist.training}
    assert entries["s"].label == "converted_labels/s.nii.gz"
    assert entries["t"].label == str(tmp_path / "labels" / "t.nii.gz")
    copy = nib.load(tmp_path / "out" / "converted_labels" / "s.nii.gz")
    np.testing.assert_array_equal(np.asarray(copy.dataobj), scribble(3, 1, 2))
    assert copy.get_data_dtype() == np.uint8
    assert (tmp_path / "labels" / "s.nii.gz").read_bytes() == before
    assert errors(datalist) == []


def test_values_are_mapped_and_float_masks_stored_as_integers(tmp_path: Path) -> None:
    fill(tmp_path, {f"f{i}": full(128, 255) for i in range(3)} | {"g": full(255)})
    options = FolderOptions(values=[0, 128, 255], classes=["background", "a", "b"])
    datalist = prepare_folder(tmp_path, tmp_path / "out", options)
    copy = nib.load(tmp_path / "out" / "converted_labels" / "f1.nii.gz")
    np.testing.assert_array_equal(np.asarray(copy.dataobj), full(1, 2))
    assert errors(datalist) == []

    fill(tmp_path / "float", {f"f{i}": full(1, 2).astype(np.float32) for i in range(3)})
    report = inspect_folder(tmp_path / "float")
    assert report.notes == [
        "3 label files converted into copies (float32→uint8), such as f0.nii.gz"
    ]
    datalist = prepare_folder(tmp_path / "float", tmp_path / "float")
    assert datalist.training[0].label == f"converted_labels/{datalist.training[0].case_id}.nii.gz"
    # The copies are not labels of a second run.
    again = prepare_folder(tmp_path / "float", tmp_path / "float", overwrite=True)
    assert again.model_dump() == datalist.model_dump()


def test_classes_that_were_not_annotated(tmp_path: Path) -> None:
    fill(tmp_path, FULL | {"p": full(1)})
    report = inspect_folder(tmp_path)
    assert kinds(report)["p"] == "full"
    (note,) = report.notes
    assert note.startswith("1 of 6 full masks hold no 'class2' (p): taken as absent")
    assert "--missing-classes unannotated" in note
    options = FolderOptions(missing_classes="unannotated")
    datalist = prepare_folder(tmp_path, tmp_path, options)
    (entry,) = (entry for entry in datalist.training if entry.case_id == "p")
    assert (entry.supervision, entry.annotated_classes) == ("partial", [1])
    assert errors(datalist) == []


def test_hand_drawn_scribbles_beside_masks(tmp_path: Path) -> None:
    fill(tmp_path, FULL | {"s": None})
    for name in ("f0", "s"):
        # 0 is untouched here: 2 strokes of 3 voxels, of the foreground only.
        drawn = np.where(scribble(9, 1, 2) == 9, 0, scribble(9, 1, 2)).astype(np.uint8)
        save(tmp_path / "drawn" / f"{name}_scribble.nii.gz", drawn)
    options = FolderOptions(scribbles=tmp_path / "drawn", unlabeled=0)
    datalist = prepare_folder(tmp_path, tmp_path / "out", options)
    entries = {entry.case_id: entry for _, entry in datalist.items()}
    assert (entries["s"].label, entries["s"].supervision) == (None, "partial")
    assert entries["f0"].scribble == "converted_scribbles/f0.nii.gz"
    assert entries["f0"].supervision == "full"
    copy = np.asarray(nib.load(tmp_path / "out" / "converted_scribbles" / "s.nii.gz").dataobj)
    # 84 voxels were 0, three of them strokes of background that cannot be told from the others.
    assert [int((copy == v).sum()) for v in range(4)] == [0, 3, 3, 84]
    assert errors(datalist) == []


def test_the_split_is_by_patient_seeded_and_in_proportion(tmp_path: Path) -> None:
    names = [f"p{i:02d}_{frame}" for i in range(10) for frame in "ab"]
    fill(tmp_path, {name: full(1) for name in names})
    (tmp_path / "labels" / "p03_b.nii.gz").unlink()
    save(tmp_path / "labels" / "p03_b.nii.gz", scribble(2, 1))
    options = FolderOptions(
        patient_pattern=r"(p\d+)_", split="50/20/30", classes=["background", "a"], unlabeled=2
    )
    datalist = prepare_folder(tmp_path, tmp_path, options)
    patients = {s: {e.patient_id for e in getattr(datalist, s)} for s in ("validation", "test")}
    # 9 patients are fully labeled: 0.2 · 9 = 1.8 and 0.3 · 9 = 2.7, rounded.
    assert [len(patients["validation"]), len(patients["test"])] == [2, 3]
    assert len(datalist.training) == 2 * (10 - 2 - 3)
    assert "p03" in {entry.patient_id for entry in datalist.training}
    assert errors(datalist) == []
    same = inspect_folder(tmp_path, options).splits["test"]
    assert [case.pair.case_id for case in same] == [entry.case_id for entry in datalist.test]
    other = FolderOptions(
        patient_pattern=r"(p\d+)_",
        split="50/20/30",
        classes=["background", "a"],
        unlabeled=2,
        seed=1,
    )
    assert {c.patient for c in inspect_folder(tmp_path, other).splits["test"]} != patients["test"]


@pytest.mark.parametrize(
    ("masks", "split", "expected"),
    [
        # 0.1 · 11 is one, and a single case is never a split.
        (11, "auto", (7, 2, 2)),
        # Two of ten validate and seven train, so that one is left to test.
        (10, "auto", (7, 2, 1)),
        (9, "auto", (9, 0, 0)),
        (10, "70/10/20", (6, 2, 2)),
        (6, "60/20/20", (2, 2, 2)),
        (30, "auto", (21, 3, 6)),
    ],
)
def test_few_masks_all_train_and_no_single_patient_validates(
    tmp_path: Path, masks: int, split: str, expected: tuple[int, ...]
) -> None:
    fill(tmp_path, {f"f{i:02d}": full(1) for i in range(masks)} | {"s": scribble(2, 1)})
    options = FolderOptions(split=split, classes=["background", "a"], unlabeled=2)
    report = inspect_folder(tmp_path, options)
    numbers = {split: len(cases) for split, cases in report.splits.items()}
    training, validation, test = expected
    assert numbers == {"training": training + 1, "validation": validation, "test": test}
    said = [sentence for sentence in report.uses if sentence.startswith("one patient tests")]
    assert len(said) == (test == 1)


def test_scribbles_alone_train_and_nothing_scores_them(tmp_path: Path) -> None:
    fill(tmp_path, {"s": scribble(2, 1), "t": scribble(2, 1)})
    report = inspect_folder(tmp_path, FolderOptions(classes=["background", "a"], unlabeled=2))
    assert kinds(report) == {"s": "partial", "t": "partial"}
    (sentence,) = report.uses
    assert sentence.startswith("no full mask: too few to set any aside for validation. A training ")
    assert sentence.endswith("label at least three patients completely")


def test_patients_are_suggested_where_names_share_beginnings(tmp_path: Path) -> None:
    fill(tmp_path, {f"p{i}_{frame}": full(1) for i in range(3) for frame in "ab"})
    (note,) = inspect_folder(tmp_path).notes
    assert note.startswith("6 cases have names with 3 beginnings such as 'p0': if these are")
    pattern = note.split("'")[3]
    report = inspect_folder(tmp_path, FolderOptions(patient_pattern=pattern))
    assert {case.pair.case_id: case.patient for case in report.cases} == {
        f"p{i}_{frame}": f"p{i}" for i in range(3) for frame in "ab"
    }


def test_equal_images_stay_in_one_split(tmp_path: Path) -> None:
    fill(tmp_path, {f"f{i}": full(1) for i in range(6)})
    for name in ("f4", "f5"):
        save(tmp_path / "images" / f"{name}.nii.gz", image(2))
    report = inspect_folder(tmp_path)
    patients = {case.pair.case_id: case.patient for case in report.cases}
    assert patients == {"f0": "f0", "f1": "f1", "f2": "f2", "f3": "f3", "f4": "f2", "f5": "f2"}
    assert len(report.notes) == 2
    assert report.notes[0].startswith(
        f"{tmp_path / 'images' / 'f4.nii.gz'}: the image is voxel for voxel that of case 'f2'"
    )


def test_a_split_file_names_cases_or_patients(tmp_path: Path) -> None:
    fill(tmp_path, {f"p{i}_{frame}": full(1) for i in range(4) for frame in "ab"})
    file = tmp_path / "split.json"
    file.write_text(json.dumps({"train": ["p2", "p1_b", "p1_a"], "val": ["p0"], "test": []}))
    options = FolderOptions(patient_pattern="(p.)_", split=str(file))
    report = inspect_folder(tmp_path, options)
    found = {s: [case.pair.case_id for case in cases] for s, cases in report.splits.items()}
    assert found == {
        "training": ["p2_a", "p2_b", "p1_a", "p1_b"],
        "validation": ["p0_a", "p0_b"],
        "test": [],
    }
    assert report.notes == [f"2 cases not named by {file} and left out: p3_a, p3_b"]


def nnunet(root: Path, ending: str = ".nii.gz", **keys: Any) -> Path:
    """Four cases, one scribbled with the ignore label, two of them held out."""
    for i in range(4):
        save(root / "imagesTr" / f"c_{i:03d}_0000{ending}", image(i))
        save(root / "labelsTr" / f"c_{i:03d}{ending}", full(1, 2) if i else scribble(3, 1, 2))
    for i in (7, 8):
        save(root / "imagesTs" / f"c_{i:03d}_0000{ending}", image(i))
    save(root / "labelsTs" / f"c_007{ending}", full(1))
    labels = {"background": 0, "RV": 1, "LV": 2, "ignore": 3}
    content = {"channel_names": {"0": "MR"}, "labels": labels, "file_ending": ending, **keys}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_nnunet(tmp_path: Path, ending: str) -> None:
    root = nnunet(tmp_path / "Dataset001_Heart", ending)
    report = inspect_folder(root)
    assert report.layout == "nnU-Net"
    assert kinds(report) == {
        "c_000": "partial",
        **dict.fromkeys(("c_001", "c_002", "c_003", "c_007"), "full"),
    }
    datalist = prepare_folder(root, root)
    assert (datalist.classes, datalist.unlabeled) == (["background", "RV", "LV"], 3)
    assert [entry.case_id for entry in datalist.test] == ["c_007"]
    # Three full masks are too few to set any aside.
    assert datalist.validation == []
    assert any("1 files of" in note and "imagesTs" in note for note in report.notes)
    assert errors(datalist) == []
    by_parts = inspect_folder(root / "imagesTr", FolderOptions(labels=root / "labelsTr"))
    assert kinds(by_parts) == kinds(report)


def test_nnunet_folds(tmp_path: Path) -> None:
    root = nnunet(tmp_path)
    names = [f"c_{i:03d}" for i in range(4)]
    folds = [
        {"train": names[:3], "val": names[3:]},
        {"train": [*names[:2], "c_003"], "val": ["c_002"]},
    ]
    (root / "splits_final.json").write_text(json.dumps(folds))
    report = inspect_folder(root, FolderOptions(split=f"{root / 'splits_final.json'}:1"))
    assert kinds(report)
    found = {s: [case.pair.case_id for case in cases] for s, cases in report.splits.items()}
    assert found == {
        "training": ["c_000", "c_001", "c_003"],
        "validation": ["c_002"],
        "test": ["c_007"],
    }


def test_nnunet_channels_are_one_image_or_one_is_chosen(tmp_path: Path) -> None:
    root = nnunet(tmp_path, channel_names={"0": "T1", "1": "T2"})
    for i in range(4):
        save(root / "imagesTr" / f"c_{i:03d}_0001.nii.gz", image(20 + i))
    # The held-out cases lack the second channel.
    (fault,) = inspect_folder(root).faults
    assert Path(fault.file).parent.name == "imagesTs"
    assert "the image is 3D with 1 channels, most others are 3D with 2" in fault.problem
    for i in (7, 8):
        save(root / "imagesTs" / f"c_{i:03d}_0001.nii.gz", image(20 + i))
    report = inspect_folder(root)
    assert kinds(report)
    assert any("2 channels, which are one image: 0 (T1), 1 (T2)" in n for n in report.notes)
    datalist = prepare_folder(root, root / "out")
    entry = next(e for e in datalist.training if e.case_id == "c_002")
    assert [Path(path).name for path in entry.image_files] == [
        "c_002_0000.nii.gz",
        "c_002_0001.nii.gz",
    ]
    assert errors(datalist) == []
    (item,) = (i for i in select_cases(datalist, None) if i["case_id"] == "c_002")
    loaded = LoadVolumed("image")({"image": item["image"]})["image"]
    np.testing.assert_array_equal(loaded, np.stack([image(2), image(22)]))
    chosen = inspect_folder(root, FolderOptions(channel=1))
    assert kinds(chosen)
    assert {case.pair.image.name[-12:] for case in chosen.cases} == {"_0001.nii.gz"}


def test_a_decathlon_list(tmp_path: Path) -> None:
    root = tmp_path / "Task09_Spleen"
    for i in range(3):
        save(root / "imagesTr" / f"spleen_{i}.nii.gz", image(i))
        save(root / "labelsTr" / f"spleen_{i}.nii.gz", full(4))
        (root / "labelsTr" / f"._spleen_{i}.nii.gz").write_bytes(b"left by an archive of a Mac")
    content = {
        "labels": {"0": "background", "4": "spleen"},
        "training": [
            {"image": f"./imagesTr/spleen_{i}.nii.gz", "label": f"./labelsTr/spleen_{i}.nii.gz"}
            for i in range(3)
        ],
        "test": ["./imagesTs/spleen_9.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps(content))
    for source in (root, root / "dataset.json"):
        report = inspect_folder(source)
        assert set(kinds(report)) == {"spleen_0", "spleen_1", "spleen_2"}
        assert report.notes == [
            "1 images of dataset.json that it names for validation or test have no label and are "
            "left out: images to predict, not to train on",
            "3 label files converted into copies (values 0→0, 4→1), such as spleen_0.nii.gz",
        ]
    datalist = prepare_folder(root, root)
    copy = nib.load(root / str(datalist.training[0].label))
    np.testing.assert_array_equal(np.asarray(copy.dataobj), full(1))
    assert datalist.classes == ["background", "spleen"]
    assert errors(datalist) == []


@pytest.mark.parametrize("name", ["{}_gt", "{}_mask", "{}-seg", "{}_label", "{}.segmentation"])
def test_labels_beside_images(tmp_path: Path, name: str) -> None:
    for i in range(3):
        save(tmp_path / f"case{i}.nii.gz", image(i))
        save(tmp_path / (name.format(f"case{i}") + ".nii.gz"), full(1))
    report = inspect_folder(tmp_path)
    assert report.layout == "images and labels side by side"
    assert kinds(report) == {f"case{i}": "full" for i in range(3)}


def test_a_folder_a_patient(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / f"p{i}" / "t1.nrrd", image(i))
        save(tmp_path / f"p{i}" / "seg.nrrd", full(1))
    assert kinds(inspect_folder(tmp_path)) == {f"p{i}_t1": "full" for i in range(3)}
    for i in range(3):
        (tmp_path / f"p{i}" / "t1.nrrd").rename(tmp_path / f"p{i}" / "image.nrrd")
    assert kinds(inspect_folder(tmp_path)) == {f"p{i}": "full" for i in range(3)}


def test_two_folders_with_suffixes_and_other_formats(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / "scans" / f"a{i}_0000.nrrd", image(i))
        save(tmp_path / "gt" / f"a{i}_mask.mha", full(1))
    report = inspect_folder(tmp_path / "scans", FolderOptions(labels=tmp_path / "gt"))
    assert kinds(report) == {f"a{i}": "full" for i in range(3)}
    assert report.root == tmp_path


def test_links_below_the_folder_stay_relative(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", FULL)
    for kind in ("images", "labels"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for path in (tmp_path / "elsewhere" / kind).iterdir():
            (tmp_path / "data" / kind / path.name).symlink_to(path)
    datalist = prepare_folder(tmp_path / "data", tmp_path / "data")
    assert {Path(entry.image).parent.as_posix() for _, entry in datalist.items()} == {"images"}
    assert errors(datalist) == []


def test_select_cases_and_check_cases_take_the_result(tmp_path: Path) -> None:
    fill(tmp_path, FULL | {"s": scribble(3, 1, 2), "u": None})
    options = FolderOptions(classes=["background", "a", "b"], unlabeled=3, allow_unlabeled=True)
    datalist = prepare_folder(tmp_path, tmp_path, options)
    cases = select_cases(datalist, tmp_path, num_full=2)
    # Five full masks all train: three of them as partial beside the scribbles.
    assert sorted(case["supervision"] for case in cases) == ["full"] * 2 + ["partial"] * 4
    assert split_cases(datalist, tmp_path, "validation") == []
    assert check_cases(cases, classes=datalist.classes, spatial_dims=3) == []
