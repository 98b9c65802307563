"""Rows of one case: the rule for empty masks, unlabeled voxels, both units, and the CSV."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from mixseg.metrics import (
    CaseScore,
    average_symmetric_surface_distance,
    dice_coefficient,
    hd95_pooled,
    score_case,
)

NAMES = ["background", "RV", "LV"]


def _score(prediction: Any, reference: Any, **options: Any) -> list[CaseScore]:
    defaults = {"case_id": "a", "branch": "student", "class_names": NAMES, "num_classes": 3}
    return score_case(np.asarray(prediction), np.asarray(reference), **{**defaults, **options})


def test_each_class_is_scored_as_its_own_mask() -> None:
    generator = np.random.default_rng(0)
    prediction, reference = generator.integers(0, 3, (2, 12, 10, 5))
    spacing = (1.25, 1.25, 8.0)
    rows = _score(prediction, reference, spacing=spacing)
    assert [row.class_name for row in rows] == ["RV", "LV"]
    for label, row in enumerate(rows, start=1):
        pair = prediction == label, reference == label
        assert (row.case_id, row.branch, row.empty) == ("a", "student", "")
        assert row.dice == dice_coefficient(*pair)
        assert row.hd95_vox == hd95_pooled(*pair)
        assert row.assd_vox == average_symmetric_surface_distance(*pair)
        assert row.hd95_mm == hd95_pooled(*pair, spacing)
        assert row.assd_mm == average_symmetric_surface_distance(*pair, spacing)
        assert (row.prediction_voxels, row.reference_voxels) == tuple(m.sum() for m in pair)
        # Sets of positions, as the definitions have them.
        first, second = (set(np.flatnonzero(mask)) for mask in pair)
        assert row.iou == pytest.approx(len(first & second) / len(first | second), rel=1e-14)
        assert row.precision == pytest.approx(len(first & second) / len(first), rel=1e-14)
        assert row.recall == pytest.approx(len(first & second) / len(second), rel=1e-14)


def test_overlap_of_a_hand_made_table() -> None:
    """The table's rows are the reference's background, RV and LV, its columns the prediction's.

    RV: 6 right of 9 predicted and 9 true, 12 in the union. LV: 4 right of 5 predicted and 5 true,
    6 in the union.
    """
    table = [[10, 2, 1], [3, 6, 0], [0, 1, 4]]
    pairs = [(r, p) for r in range(3) for p in range(3) for _ in range(table[r][p])]
    reference, prediction = np.array(pairs).T.reshape(2, 3, 9)
    right, left = _score(prediction, reference)
    assert (right.iou, right.precision, right.recall) == (6 / 12, 6 / 9, 6 / 9)
    assert (left.iou, left.precision, left.recall) == (4 / 6, 4 / 5, 4 / 5)
    # F1, the harmonic mean of precision and recall, is the Dice; Dice = 2·IoU/(1 + IoU).
    assert (right.dice, left.dice) == (pytest.approx(2 / 3), pytest.approx(4 / 5))
    # Too large a prediction costs precision, too small a one recall.
    row, _ = _score([[1, 1, 1, 1, 0]], [[1, 0, 0, 0, 0]])
    assert (row.iou, row.precision, row.recall) == (0.25, 0.25, 1.0)
    row, _ = _score([[1, 0, 0, 0, 0]], [[1, 1, 1, 1, 0]])
    assert (row.iou, row.precision, row.recall) == (0.25, 1.0, 0.25)


def test_f1_of_precision_and_recall_is_the_dice() -> None:
    generator = np.random.default_rng(2)
    for _ in range(20):
        for row in _score(*generator.integers(0, 3, (2, 6, 7))):
            assert row.precision is not None
            assert row.recall is not None
            f1 = 2 * row.precision * row.recall / (row.precision + row.recall)
            assert row.dice == pytest.approx(f1, rel=1e-12)
            assert row.iou == pytest.approx(row.dice / (2 - row.dice), rel=1e-12)


def test_isotropic_millimeters_are_scaled_voxels() -> None:
    generator = np.random.default_rng(1)
    prediction, reference = generator.integers(0, 3, (2, 9, 9, 9))
    for row, label in zip(_score(prediction, reference, spacing=[0.625] * 3), (1, 2), strict=True):
        pair = prediction == label, reference == label
        assert row.hd95_mm == pytest.approx(hd95_pooled(*pair, 0.625), rel=1e-14)
        expected = average_symmetric_surface_distance(*pair, 0.625)
        assert row.assd_mm == pytest.approx(expected, rel=1e-14)


def test_rule_for_empty_masks() -> None:
    # 3 × 4 × 12 voxels: diagonal √(9 + 16 + 144) = 13; with 2 × 1 × 1 mm √(36 + 16 + 144) = 14.
    prediction, reference = np.zeros((2, 3, 4, 12), int)
    prediction[0, 0, 0] = 1
    reference[2, 3, 11] = 2
    rows = _score(prediction, reference, spacing=(2.0, 1.0, 1.0))
    assert [row.empty for row in rows] == ["reference", "prediction"]
    for row in rows:
        assert row.dice == row.iou == row.precision == row.recall == 0.0
        assert row.hd95_vox == row.assd_vox == 13.0
        assert row.hd95_mm == row.assd_mm == 14.0
    assert [(row.prediction_voxels, row.reference_voxels) for row in rows] == [(1, 0), (0, 1)]

    for row in _score(np.zeros((3, 4), int), np.zeros((3, 4), int), spacing=(1.0, 2.0)):
        assert row.empty == "both"
        assert row.dice == row.iou == row.precision == row.recall == 1.0
        assert row.hd95_vox == row.assd_vox == row.hd95_mm == row.assd_mm == 0.0

    (missed, _) = _score(np.zeros((3, 4), int), np.eye(3, 4, dtype=int))
    assert (missed.hd95_vox, missed.hd95_mm, missed.assd_mm) == (5.0, None, None)


def test_unlabeled_voxels_are_in_neither_mask() -> None:
    # Known voxels 0…3: prediction {1, 2}, reference {0, 1}; Dice 2·1/4. Without the unlabeled end,
    # the segments' distances are 1, 0 | 1, 0, so the mean is 0.5 and index 0.95·3 = 2.85 gives 1.
    reference = np.array([[1, 1, 0, 0, 3, 3]])
    for tail in ([0, 0], [1, 1], [2, 1]):
        (row, other) = _score([[0, 1, 1, 0, *tail]], reference)
        assert (row.dice, row.hd95_vox, row.assd_vox) == (0.5, 1.0, 0.5)
        assert (row.iou, row.precision, row.recall) == (1 / 3, 0.5, 0.5)
        assert (row.prediction_voxels, row.reference_voxels) == (2, 2)
        assert other.empty == "both"


@pytest.mark.parametrize(
    ("prediction", "reference", "options", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), {}, r"a: .* differ in shape: \(2, 3\)"),
        (np.zeros((2, 2)), np.zeros((2, 2), int), {}, "a: prediction: .* got float64"),
        (np.zeros((2, 2), int), np.zeros((2, 2), bool), {}, "a: reference: .* got bool"),
        (np.zeros((1, 2, 2, 2), int), np.zeros((1, 2, 2, 2), int), {}, "2D or 3D integer"),
        (np.zeros((0, 2), int), np.zeros((0, 2), int), {}, r"of shape \(0, 2\)"),
        (np.full((2, 2), 3), np.zeros((2, 2), int), {}, r"a: prediction: .* 0…2, found 3…3"),
        (np.zeros((2, 2), int), np.full((2, 2), 4), {}, r"a: reference: .* 0…3, found 4…4"),
        (np.full((2, 2), -1), np.zeros((2, 2), int), {}, "found -1…-1"),
        (np.zeros((2, 2), int), np.zeros((2, 2), int), {"num_classes": 2}, "a: 2 classes, but"),
        (np.zeros((2, 2), int), np.zeros((2, 2), int), {"spacing": (1, 1, 1)}, "one size per axis"),
    ],
)
def test_refusals(prediction: Any, reference: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _score(prediction, reference, **options)


def test_a_volume_of_one_slice_is_measured_in_its_plane() -> None:
    """A disc moved by three pixels; SciPy's distances between the outlines are the reference."""
    rows, columns = np.mgrid[:40, :44]
    discs = [((rows - 20) ** 2 + (columns - c) ** 2 <= 144).astype(np.uint8) for c in (20, 23)]
    edges = [disc.astype(bool) & ~ndimage.binary_erosion(disc) for disc in discs]
    pooled = np.concatenate(
        [
            ndimage.distance_transform_edt(~edges[1])[edges[0]],
            ndimage.distance_transform_edt(~edges[0])[edges[1]],
        ]
    )
    options: dict[str, Any] = {
        "case_id": "picture",
        "branch": "teacher",
        "class_names": ["background", "cell"],
        "num_classes": 2,
    }
    (flat,) = score_case(*discs, **options, spacing=(2.0, 2.0))
    for axis, spacing in ((2, (2.0, 2.0, 7.0)), (0, (7.0, 2.0, 2.0))):
        volumes = [np.expand_dims(disc, axis) for disc in discs]
        (row,) = score_case(*volumes, **options, spacing=spacing)
        assert row == flat
    assert flat.hd95_vox == pytest.approx(np.percentile(pooled, 95))
    assert flat.assd_vox == pytest.approx(pooled.mean())
    assert flat.hd95_mm == pytest.approx(2 * flat.hd95_vox)
    empty = np.zeros_like(discs[0])[..., None]
    (missed,) = score_case(empty, discs[1][..., None], **options)
    assert missed.hd95_vox == pytest.approx(np.hypot(40, 44))
