from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from mixseg.apps.label.brush import BrushLabel, segment_names

CLASSES = ["background", "RV", "LV"]  # C = 3: unlabeled is 3, the brush 4


def test_segments_are_the_foreground_and_the_two_extra_names() -> None:
    assert segment_names(CLASSES) == {"rv": 1, "lv": 2, "unlabeled": 3, "background_brush": 4}


def test_a_class_may_not_have_an_extra_name_nor_another_class_name_in_lower_case() -> None:
    with pytest.raises(ValueError, match=r"\['unlabeled'\] occurs more than once"):
        segment_names(["background", "Unlabeled"])
    with pytest.raises(ValueError, match=r"\['lv'\] occurs more than once"):
        segment_names(["background", "LV", "lv"])


@pytest.mark.parametrize(
    ("drawn", "wanted"),
    [
        # No stroke of the brush: 0 is background, a complete mask.
        ([0, 1, 2, 0], [0, 1, 2, 0]),
        # ... and what was marked as unlabeled is.
        ([0, 1, 3, 0], [0, 1, 3, 0]),
        # One stroke: untouched voxels are unlabeled, the stroke is background.
        ([0, 1, 4, 2], [3, 1, 0, 2]),
        ([0, 3, 4, 1], [3, 3, 0, 1]),
        # Nothing at all was drawn: a complete mask of background.
        ([0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_the_table(drawn: list[int], wanted: list[int]) -> None:
    result = BrushLabel(CLASSES)(np.array(drawn, dtype=np.int16))
    assert result.tolist() == wanted
    assert result.dtype == np.uint8


def test_what_was_declared_wins_over_the_strokes() -> None:
    convert = BrushLabel(CLASSES)
    assert convert(np.array([0, 1]), supervision="partial").tolist() == [3, 1]
    assert convert(np.array([0, 1, 4]), supervision="full").tolist() == [0, 1, 0]


def test_segments_are_told_by_position_and_not_by_number() -> None:
    """After 'RV' and 'unlabeled' were deleted, 3D Slicer submits LV as 1, the brush as 2."""
    convert = BrushLabel(CLASSES)
    result = convert(np.array([0, 1, 2]), segments=["LV", "background_brush"])
    assert result.tolist() == [3, 2, 0]
    # The same values, with all segments there, are two classes.
    assert convert(np.array([0, 1, 2])).tolist() == [0, 1, 2]


def test_a_foreign_segment_matters_only_where_something_was_drawn_with_it() -> None:
    convert = BrushLabel(CLASSES)
    names = ["LV", "Segment_2"]
    assert convert(np.array([0, 1]), segments=names).tolist() == [0, 2]
    with pytest.raises(ValueError, match=r"segments \['segment_2'\], which are not among \['rv'"):
        convert(np.array([0, 1, 2]), segments=names)


def test_a_value_without_a_segment_and_a_fraction_are_refused_with_the_file() -> None:
    label = MetaTensor(torch.tensor([0, 7]), meta={"filename_or_obj": "a.nii.gz"})
    with pytest.raises(ValueError, match=r"'a\.nii\.gz' holds \[7\], but only values up to 4"):
        BrushLabel(CLASSES)(label)
    with pytest.raises(ValueError, match="not whole numbers"):
        BrushLabel(CLASSES)(np.array([0.5]))


def test_the_container_and_its_metadata_stay() -> None:
    label = MetaTensor(torch.tensor([[0.0, 4.0]]), affine=2 * torch.eye(4))
    result = BrushLabel(CLASSES)(label)
    assert isinstance(result, MetaTensor)
    assert torch.equal(result.affine, label.affine)
    assert result.tolist() == [[3, 0]]
