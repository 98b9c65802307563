from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixseg.data.checks import check_cases, validate_datalist
from mixseg.data.datalist import Datalist, DatalistError
from mixseg.data.file_checks import Fault
from mixseg.data.find import find_datalist
from mixseg.data.subset import select_cases, split_cases

SHAPE = (6, 5, 3)
Make = Callable[..., dict[str, Any]]


def built(folder: Path, training: list[Any], validation: list[Any], **keys: Any) -> Datalist:
    raw = {"classes": ["background", "LV"], "training": training, "validation": validation, **keys}
    return Datalist.model_validate(raw).with_base_dir(folder)


def only_fault(tmp_path: Path, make: Make, entry: dict[str, Any], **keys: Any) -> Fault:
    """The one fault of a datalist whose other cases are sound."""
    faults = validate_datalist(built(tmp_path, [make("good"), entry], [make("val")], **keys))
    assert len(faults) == 1, [str(fault) for fault in faults]
    return faults[0]


def test_sound_data_have_no_fault(tmp_path: Path, make_case: Make) -> None:
    assert validate_datalist(built(tmp_path, [make_case("a")], [make_case("b")])) == []


def image_of(**change: Any) -> np.ndarray:
    image = np.arange(90, dtype=np.float32).reshape(SHAPE)
    image[0, 0, 0] = change.get("value", 0)
    return image


@pytest.mark.parametrize(
    ("name", "keys", "file", "message"),
    [
        ("nan", {"image": image_of(value=np.nan)}, "bad.nii.gz", "1 NaN or infinite voxels"),
        ("inf", {"image": image_of(value=-np.inf)}, "bad.nii.gz", "1 NaN or infinite voxels"),
        ("constant", {"image": np.full(SHAPE, 7, np.int16)}, "bad.nii.gz", "image is constant"),
        (
            "shape",
            {"label": np.zeros((6, 5, 4), np.uint8)},
            "bad_gt.nii.gz",
            r"shape (6, 5, 4) is not the image's (6, 5, 3)",
        ),
        (
            "affine",
            {"affine": np.diag([1.0, 1.0, 2.0, 1.0])},
            "bad_gt.nii.gz",
            "affine differs from the image's by up to 1 mm (tolerance 0.001",
        ),
        (
            "float",
            {"label": np.full(SHAPE, 0.25, np.float32)},
            "bad_gt.nii.gz",
            "values that are not whole numbers, such as 0.25",
        ),
        (
            "nan label",
            {"label": np.full(SHAPE, np.nan, np.float32)},
            "bad_gt.nii.gz",
            "values that are not whole numbers, such as nan",
        ),
        (
            "value",
            {"label": np.full(SHAPE, 3, np.uint8)},
            "bad_gt.nii.gz",
            "label values [3] are outside the classes 0..1 (unlabeled: 2)",
        ),
        (
            "negative",
            {"label": np.full(SHAPE, -1, np.int16)},
            "bad_gt.nii.gz",
            "label values [-1] are outside the classes",
        ),
        (
            "incomplete",
            {"label": np.full(SHAPE, 2, np.uint8)},
            "bad_gt.nii.gz",
            "supervision is 'full', but 90 voxels are unlabeled",
        ),
    ],
)
def test_each_fault_names_its_file(
    tmp_path: Path, make_case: Make, name: str, keys: dict[str, Any], file: str, message: str
) -> None:
    fault = only_fault(tmp_path, make_case, make_case("bad", **keys))
    assert fault.file == str(tmp_path / file)
    assert message in fault.problem
    assert (fault.case_id, fault.split, fault.level) == ("bad", "training", "error")
    assert fault.fix
    assert str(fault).startswith(f"{tmp_path / file} (case bad, training): ")


def test_a_4d_image_is_refused_with_the_way_out(tmp_path: Path, make_case: Make) -> None:
    image = np.arange(180, dtype=np.int16).reshape(*SHAPE, 2)
    entry = make_case("cine", image=image, supervision="none")
    fault = only_fault(tmp_path, make_case, entry)
    assert "the image is 3D with 2 channels, that of good is 3D with 1 channel" in fault.problem
    assert "one frame per file" in fault.fix


@pytest.mark.parametrize("which", ["image", "label"])
def test_missing_files(tmp_path: Path, make_case: Make, which: str) -> None:
    entry = make_case("gone")
    (tmp_path / entry[which]).unlink()
    fault = only_fault(tmp_path, make_case, entry)
    assert fault.problem == f"the {which} file is missing"
    assert fault.file == str(tmp_path / entry[which])


@pytest.mark.parametrize("which", ["image", "label"])
def test_truncated_files(tmp_path: Path, make_case: Make, which: str) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 1000, (40, 40, 3), dtype=np.int16)
    entry = make_case("cut", image=noise, label=rng.integers(0, 2, noise.shape, dtype=np.uint8))
    path = tmp_path / entry[which]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    fault = only_fault(tmp_path, make_case, entry)
    assert f"the {which} is not a readable NIfTI file" in fault.problem
    assert "truncated" in fault.fix
    assert fault.file == str(path)


def test_affines_within_the_tolerance_pass(tmp_path: Path, make_case: Make) -> None:
    affine = np.diag([1.0005, 1.0, 1.0, 1.0])
    datalist = built(tmp_path, [make_case("a", affine=affine)], [make_case("b")])
    assert validate_datalist(datalist) == []


def test_whole_numbers_stored_as_float_pass(tmp_path: Path, make_case: Make) -> None:
    entry = make_case("a", label=np.eye(6, 5, dtype=np.float32)[:, :, None].repeat(3, axis=2))
    assert validate_datalist(built(tmp_path, [entry], [make_case("b")])) == []


def test_a_declared_unlabeled_value_passes(tmp_path: Path, make_case: Make) -> None:
    label = np.full(SHAPE, 255, np.uint8)
    label[0] = 1
    entry = make_case("a", label=label, supervision="partial")
    validation = [make_case("b")]
    assert validate_datalist(built(tmp_path, [entry], validation, unlabeled=255)) == []
    (fault,) = validate_datalist(built(tmp_path, [entry], validation))
    assert "label values [255] are outside" in fault.problem


def test_structure_faults(tmp_path: Path, make_case: Make) -> None:
    one, two = make_case("p1_a", patient_id="p1"), make_case("p1_b", patient_id="p1")
    again = make_case("other") | {"case_id": "p1_a"}
    same = dict(one) | {"case_id": "copy", "patient_id": "p9"}
    datalist = built(tmp_path, [one, again, same], [two])
    problems = [fault.problem for fault in validate_datalist(datalist)]
    assert problems == [
        "case_id 'p1_a' is used twice (also in training)",
        "the image is listed twice (also as case p1_a)",
        "patient 'p1' is in two splits, training and validation",
    ]


def test_empty_splits(tmp_path: Path, make_case: Make) -> None:
    problems = [fault.problem for fault in validate_datalist(built(tmp_path, [], []))]
    # Without a validation the last weights are kept.
    assert problems == ["the training split is empty"]
    datalist = built(tmp_path, [make_case("a")], [])
    assert validate_datalist(datalist, splits=["training"]) == []


def test_validation_and_test_need_complete_masks(tmp_path: Path, make_case: Make) -> None:
    partial = np.full(SHAPE, 2, np.uint8)
    partial[0] = 1
    bare = {"image": make_case("bare")["image"], "case_id": "bare"}
    weak = make_case("weak", label=partial, supervision="partial")
    datalist = built(tmp_path, [make_case("a")], [bare, weak])
    problems = {fault.case_id: fault.problem for fault in validate_datalist(datalist)}
    assert problems == {
        "bare": "the validation case has no label",
        "weak": "the validation case has 75 unlabeled voxels",  # 90 less a slab of 5 × 3
    }
    called_full = make_case("called_full", label=partial)
    (fault,) = validate_datalist(built(tmp_path, [make_case("a")], [called_full]))
    assert "move the case to training as 'partial'" in fault.fix


def test_one_unlabeled_partial_case_is_a_note_all_of_them_an_error(
    tmp_path: Path, make_case: Make
) -> None:
    nothing = np.full(SHAPE, 2, np.uint8)
    something = nothing.copy()
    something[0, 0, 0] = 1
    empty = make_case("empty", label=nothing, supervision="partial")
    drawn = make_case("drawn", label=something, supervision="partial")
    validation = [make_case("val")]
    (note,) = validate_datalist(built(tmp_path, [empty, drawn], validation))
    assert (note.level, note.case_id) == ("note", "empty")
    cases = select_cases(built(tmp_path, [empty], validation))
    with pytest.raises(DatalistError, match="none of the 1 partially labeled cases has a labeled"):
        check_cases(cases, classes=2)


def test_labels_of_cases_without_supervision_are_never_opened(
    tmp_path: Path, make_case: Make
) -> None:
    entry = make_case("a", supervision="none")
    (tmp_path / entry["label"]).write_bytes(b"no NIfTI")
    assert validate_datalist(built(tmp_path, [entry], [make_case("b")])) == []


def test_headers_alone_find_missing_files_and_wrong_grids(tmp_path: Path, make_case: Make) -> None:
    entries = [
        make_case("nan", image=image_of(value=np.nan)),
        make_case("shape", label=np.zeros((6, 5, 4), np.uint8)),
    ]
    faults = validate_datalist(built(tmp_path, entries, [make_case("b")]), check_voxels=False)
    assert [fault.case_id for fault in faults] == ["shape"]


def test_all_faults_are_raised_at_once(tmp_path: Path, make_case: Make) -> None:
    gone = make_case("gone")
    (tmp_path / gone["image"]).unlink()
    entries = [
        gone,
        make_case("nan", image=image_of(value=np.nan)),
        make_case("value", label=np.full(SHAPE, 9, np.uint8)),
    ]
    with pytest.raises(DatalistError) as caught:
        check_cases(select_cases(built(tmp_path, entries, [])), classes=2)
    message = str(caught.value)
    assert message.startswith("3 faults in the data; nothing is trained:\n")
    for part in (
        f"{tmp_path / 'gone.nii.gz'} (case gone, training): the image file is missing",
        f"{tmp_path / 'nan.nii.gz'} (case nan, training): the image has 1 NaN",
        f"{tmp_path / 'value_gt.nii.gz'} (case value, training): label values [9]",
    ):
        assert part in message


def test_check_cases_counts_only_the_trained_classes_of_masks_to_erode(
    tmp_path: Path, make_case: Make
) -> None:
    raw = {
        "classes": ["background", "RV", "LV"],
        "training": [make_case("a"), make_case("b")],  # their masks hold class 1 alone
    }
    datalist = Datalist.model_validate(raw).with_base_dir(tmp_path)
    cases = select_cases(datalist, None, num_full=1)
    assert check_cases(cases, classes=3) == []
    stored = [case | {"erode": False} for case in cases]  # there, background counts as labeled
    assert check_cases(stored, classes=3, foreground=[2]) == []
    with pytest.raises(DatalistError, match="none of the 1 partially labeled cases"):
        check_cases(cases, classes=3, foreground=[2])


@pytest.mark.parametrize("partial", [False, True])
def test_complete_needs_unlabeled_voxels_where_the_label_decides(
    partial: bool, tmp_path: Path, make_case: Make
) -> None:
    """The entry does not say what it is; its label may be full after all."""
    label = np.full(SHAPE, 2 if partial else 0, np.uint8)
    label[2:4, 2:4] = 1
    entry = make_case("a", label=label, supervision=None, complete=True)
    if partial:
        datalist = built(tmp_path, [make_case("good"), entry], [make_case("val")])
        assert validate_datalist(datalist) == []
        cases = select_cases(datalist, None, 1, 1)
        assert [case.get("complete") for case in cases] == [None, True]
        assert check_cases(cases, classes=2) == []
    else:
        fault = only_fault(tmp_path, make_case, entry)
        assert fault.file == str(tmp_path / "a_gt.nii.gz")
        assert "no voxel of the label is unlabeled" in fault.problem
        item = {"image": fault.file, "label": fault.file, "case_id": "a", "supervision": "full"}
        with pytest.raises(DatalistError, match="'complete' is about the seeds"):
            check_cases([item | {"complete": True}], classes=2)


def test_check_cases_checks_the_splits_that_are_given(make_case: Make, tmp_path: Path) -> None:
    item = {"image": str(tmp_path / make_case("a")["image"]), "case_id": "a", "supervision": "none"}
    assert check_cases([item], classes=["background", "LV"]) == []
    assert check_cases([item], [], [], classes=2) == []
    with pytest.raises(DatalistError, match="the training split is empty"):
        check_cases([], classes=2)


@pytest.mark.realdata
def test_real_acdc_has_no_fault(acdc_dir: Path) -> None:
    datalist = find_datalist(acdc_dir)
    training = select_cases(datalist, acdc_dir, 3, 15)
    validation = split_cases(datalist, acdc_dir, "validation")
    assert check_cases(training, validation, classes=datalist.classes, foreground=[3]) == []
