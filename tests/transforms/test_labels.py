"""Label conventions: unlabeled values, class selection, unannotated classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from mixseg.transforms import (
    ConvertUnlabeled,
    ConvertUnlabeledd,
    MaskUnannotatedClasses,
    MaskUnannotatedClassesd,
    SelectClasses,
    SelectClassesd,
    label_kind,
)


@pytest.mark.parametrize(
    ("raw", "unlabeled_value"),
    [
        (np.array([[[0, 1, 255], [3, 255, 2]]], dtype=np.uint8), 255),
        (np.array([[[0, 1, 255], [3, 255, 2]]], dtype=np.int16), 255),
        (np.array([[[0, 1, -1], [3, -1, 2]]], dtype=np.int16), -1),
        (np.array([[[0, 1, -1], [3, -1, 2]]], dtype=np.float32), -1),
        (np.array([[[0, 1, 4], [3, 4, 2]]], dtype=np.int64), None),
        (np.array([[[0, 1, 4], [3, 4, 2]]], dtype=np.float64), 4),
        (np.array([[[0, 1, 1000], [3, 1000, 2]]], dtype=np.int32), 1000),
    ],
)
def test_convert_unlabeled(raw: np.ndarray, unlabeled_value: int | None) -> None:
    expected = np.array([[[0, 1, 4], [3, 4, 2]]], dtype=np.uint8)
    convert = ConvertUnlabeled(4, unlabeled_value)
    out = convert(raw)
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out, expected)
    tensor = convert(torch.from_numpy(raw))
    assert tensor.dtype == torch.uint8
    np.testing.assert_array_equal(tensor.numpy(), expected)
    dictionary = ConvertUnlabeledd("label", num_classes=4, unlabeled_value=unlabeled_value)
    np.testing.assert_array_equal(dictionary({"label": raw})["label"], expected)


def test_convert_unlabeled_zero_for_foreground_only_maps() -> None:
    out = ConvertUnlabeled(2, 0)(np.array([[[0, 1, 0]]]))
    np.testing.assert_array_equal(out, [[[2, 1, 2]]])


def test_convert_unlabeled_names_file_values_and_fix() -> None:
    raw = torch.arange(20).reshape(1, 4, 5)
    label = MetaTensor(raw, meta={"filename_or_obj": "/data/case7.nii.gz"})
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the text is compared below)
        ConvertUnlabeled(4, 255)(label)
    assert str(error.value) == (
        "label '/data/case7.nii.gz' holds [4, 5, 6, 7, 8, 9, 10, 11, 12, 13]: neither a class "
        "(0 to 3) nor the value for unlabeled (255). Set unlabeled_value to the value that the "
        "file uses for unlabeled voxels, or correct num_classes or the file"
    )


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            np.array([[[0.0, 0.5, 1.25]]]),
            r"label holds .* whole numbers: \[0.5, 1.25\]; .*near",
        ),
        (np.array([[[0.0, np.nan]]]), r"not whole numbers: \[nan\]"),
        (np.array([[[-1, 2]]]), r"label holds \[-1, 2\]: neither a class \(0 to 1\)"),
        (np.array([[["a"]]]), "dtype <U1; class numbers are integers"),
    ],
)
def test_convert_unlabeled_refuses(raw: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvertUnlabeled(2, 255)(raw)


@pytest.mark.parametrize("num_classes", [1, 256])
def test_num_classes_must_fit_uint8(num_classes: int) -> None:
    with pytest.raises(ValueError, match=f"must be 2 to 255, got {num_classes}"):
        ConvertUnlabeled(num_classes)


ALL = np.array([[[0, 1, 2, 3, 4]]])


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ([3], [0, 0, 0, 1, 2]),
        ([3, 1], [0, 2, 0, 1, 3]),
        ([[2, 3], 1], [0, 2, 1, 1, 3]),
        ([1, 2, 3], [0, 1, 2, 3, 4]),
    ],
)
def test_select_classes(classes: list, expected: list[int]) -> None:
    out = SelectClasses(classes, 4)(ALL)
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out, [[expected]])
    dictionary = SelectClassesd("label", classes=classes, num_classes=4)
    label = MetaTensor(torch.from_numpy(ALL).float(), meta={"filename_or_obj": "x.nii"})
    selected = dictionary({"label": label})["label"]
    assert selected.meta["filename_or_obj"] == "x.nii"
    np.testing.assert_array_equal(selected.numpy(), [[expected]])


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], r"classes must name each class once, got \[\]"),
        ([3, 3], r"each class once, got \[3, 3\]"),
        ([[1, 2], 2], r"each class once, got \[\[1, 2\], 2\]"),
        ([[]], r"each class once"),
        ([0], r"foreground classes, 1 to 3, got \[0\]"),
        ([4], r"foreground classes, 1 to 3, got \[4\]"),
    ],
)
def test_select_classes_refuses(classes: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectClasses(classes, 4)


def test_select_classes_refuses_unknown_values() -> None:
    label = MetaTensor(torch.tensor([[[0, 255]]]), meta={"filename_or_obj": "y.nii"})
    with pytest.raises(ValueError, match=r"'y.nii' holds \[255\], but 4 classes allow 0 to 3"):
        SelectClasses([3], 4)(label)


@pytest.mark.parametrize(
    ("annotated", "expected"),
    [
        ([3], [4, 4, 4, 3, 4]),
        ([1, 3], [4, 1, 4, 3, 4]),
        ([], [4, 4, 4, 4, 4]),
        ([3, 2, 1], [0, 1, 2, 3, 4]),
    ],
)
def test_mask_unannotated_classes(annotated: list[int], expected: list[int]) -> None:
    np.testing.assert_array_equal(MaskUnannotatedClasses(4)(ALL, annotated), [[expected]])
    out = MaskUnannotatedClassesd(num_classes=4)({"label": ALL, "annotated_classes": annotated})
    assert out["label"].dtype == np.uint8
    np.testing.assert_array_equal(out["label"], [[expected]])


def test_mask_unannotated_classes_passes_other_items() -> None:
    transform = MaskUnannotatedClassesd(num_classes=4)
    assert transform({"label": ALL})["label"] is ALL
    assert transform({"label": ALL, "annotated_classes": None})["label"] is ALL


@pytest.mark.parametrize("annotated", [[0, 1], [4]])
def test_mask_unannotated_classes_refuses(annotated: list[int]) -> None:
    with pytest.raises(ValueError, match="annotated_classes of label must be foreground classes"):
        MaskUnannotatedClasses(4)(ALL, annotated)


def test_label_kind() -> None:
    assert label_kind(np.array([[0, 1, 3]]), 4) == "full"
    assert label_kind(torch.tensor([[0.0, 4.0]]), 4) == "partial"
    with pytest.raises(ValueError, match=r"label holds \[9\]"):
        label_kind(np.array([9]), 4)


@pytest.mark.parametrize(
    "transform",
    [
        ConvertUnlabeledd("label", num_classes=2),
        SelectClassesd("label", classes=[1], num_classes=2),
    ],
)
def test_missing_keys(transform) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(KeyError, match="label"):
        transform({"image": 0})
    transform.allow_missing_keys = True
    assert transform({"image": 0}) == {"image": 0}


def test_rounding_of_stored_floats_is_no_fraction() -> None:
    label = np.array([[0.9999995, 2.0000002, 254.9999]], np.float32)
    converted = ConvertUnlabeled(num_classes=3, unlabeled_value=255)(label)
    np.testing.assert_array_equal(converted, [[1, 2, 3]])
