"""Free negatives: cases by hand, brute-force distances in float64, and what must not change."""

from __future__ import annotations

import logging
import math
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from mixseg.transforms import (
    FreeNegatives,
    FreeNegativesd,
    SelectClassesd,
    calibrate_radius,
    free_negatives,
    negative_radius,
    scribble_by_erosion,
)


def nearest(seeds: np.ndarray) -> np.ndarray:
    """Distance of every voxel to the nearest seed, pair by pair; infinite without seeds."""
    voxels = np.argwhere(np.ones(seeds.shape, dtype=bool)).astype(np.float64)
    points = np.argwhere(seeds).astype(np.float64)
    if not len(points):
        return np.full(seeds.shape, np.inf)
    squares = ((voxels[:, None] - points[None]) ** 2).sum(axis=-1)
    return np.sqrt(squares.min(axis=1)).reshape(seeds.shape)


def reference(
    label: np.ndarray,
    num_classes: int,
    radius: float,
    complete: bool,
    axis: int | None,
    distance: str,
) -> np.ndarray:
    """Voxel by voxel."""
    seeds = (label != 0) & (label != num_classes)
    out = label.copy()
    for voxel in product(*map(range, label.shape)):
        if label[voxel] != num_classes:
            continue
        unit: Any = ...
        if axis is not None:
            unit = tuple(voxel[a] if a == axis else slice(None) for a in range(label.ndim))
        if not seeds[unit].any():
            out[voxel] = 0 if complete else num_classes
            continue
        points = np.argwhere(seeds).astype(np.float64)
        if axis is not None and distance == "slice":
            points = points[points[:, axis] == voxel[axis]]
        away = np.sqrt(((points - np.array(voxel, dtype=np.float64)) ** 2).sum(axis=1)).min()
        out[voxel] = 0 if away > radius else num_classes
    return out


def seeds_of(seed: int, shape: tuple[int, ...], num_classes: int) -> np.ndarray:
    """A few seeds at random; some slices across any axis hold none."""
    rng = np.random.default_rng(seed)
    label = np.full(shape, num_classes, dtype=np.uint8)
    for _ in range(4):
        label[tuple(rng.integers(0, size) for size in shape)] = rng.integers(1, num_classes)
    return label


def mask_of(seed: int, shape: tuple[int, ...], num_classes: int, least: int = 2) -> np.ndarray:
    """Boxes of the classes over each other, at least so long a side."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, dtype=np.uint8)
    for value in [*range(1, num_classes), 1]:
        low = [rng.integers(0, size - least) for size in shape]
        high = [rng.integers(a + least, size + 1) for a, size in zip(low, shape, strict=True)]
        mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = value
    return mask


RULES = [(None, "slice"), (0, "slice"), (-1, "slice"), (1, "volume"), (2, "volume")]


def test_by_hand_in_2d() -> None:
    """Distances from the seed (0, 2): √5 is beyond 2, 2 is not."""
    label = np.array([[2, 2, 1, 2, 2, 2], [2, 2, 2, 2, 2, 2], [2, 2, 2, 2, 2, 2]])
    expected = np.array([[2, 2, 1, 2, 2, 0], [0, 2, 2, 2, 0, 0], [0, 0, 2, 0, 0, 0]])
    np.testing.assert_array_equal(free_negatives(label, 2, radius=2), expected)
    assert free_negatives(label, 2, radius=2).dtype == np.uint8
    # √5 itself is not beyond √5.
    expected[(1, 1, 2, 2), (0, 4, 1, 3)] = 2
    np.testing.assert_array_equal(free_negatives(label, 2, radius=math.sqrt(5)), expected)


def test_slices_without_a_seed() -> None:
    """A line of five voxels in each of three slices, a seed at the end of the middle one."""
    label = np.full((1, 5, 3), 2)
    label[0, 0, 1] = 1
    # Within the slice, radius 2: voxels 3 and 4 are background; what says complete, says it of
    # the two others as a whole.
    middle = [1, 2, 2, 0, 0]
    for distance in ("slice", "volume"):
        for complete, other in ((False, 2), (True, 0)):
            filled = free_negatives(label, 2, 2, complete=complete, distance=distance)
            np.testing.assert_array_equal(filled[0, :, 1], middle)
            np.testing.assert_array_equal(filled[0, :, ::2], other)
    # Annotated in 3D there are no slices: the neighbors' distances are √(1 + i²).
    filled = free_negatives(label, 2, 2, slice_axis=None)
    np.testing.assert_array_equal(filled[0, :, 0], [2, 2, 0, 0, 0])


def test_a_seed_counts_for_its_neighbors_in_the_volume_alone() -> None:
    label = np.full((1, 9, 2), 2)
    label[0, 0, 0] = label[0, 8, 1] = 1
    np.testing.assert_array_equal(
        free_negatives(label, 2, 3, distance="slice")[0].T,
        [[1, 2, 2, 2, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 2, 2, 2, 1]],
    )
    # √(1 + 2²) is within 3, √(1 + 3²) is not.
    np.testing.assert_array_equal(
        free_negatives(label, 2, 3, distance="volume")[0].T,
        [[1, 2, 2, 2, 0, 0, 2, 2, 2], [2, 2, 2, 0, 0, 2, 2, 2, 1]],
    )


@pytest.mark.parametrize(("axis", "distance"), RULES)
@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize("num_classes", [2, 4])
def test_equals_the_pairwise_distances(
    axis: int | None, distance: str, complete: bool, num_classes: int
) -> None:
    for seed, radius in ((0, 1.0), (1, 2.0), (2, math.sqrt(5)), (3, 3.3)):
        label = seeds_of(seed, (6, 7, 5), num_classes)
        filled = free_negatives(
            label, num_classes, radius, complete=complete, slice_axis=axis, distance=distance
        )
        positive = axis if axis is None else axis % 3
        expected = reference(label, num_classes, radius, complete, positive, distance)
        np.testing.assert_array_equal(filled, expected)
        assert (filled == 0).any()
        # Labeled voxels never change.
        np.testing.assert_array_equal(filled[label != num_classes], label[label != num_classes])


def test_a_2d_label_is_one_slice() -> None:
    label = seeds_of(5, (9, 8), 3)
    expected = reference(label, 3, 2.5, False, None, "slice")
    for axis, distance in ((-1, "slice"), (None, "volume")):
        filled = free_negatives(label, 3, 2.5, slice_axis=axis, distance=distance)
        np.testing.assert_array_equal(filled, expected)
    empty = np.full((4, 5), 3)
    assert (free_negatives(empty, 3, 1) == 3).all()
    assert (free_negatives(empty, 3, 1, complete=True) == 0).all()


def test_a_larger_radius_gives_fewer_negatives() -> None:
    label = seeds_of(6, (12, 11, 4), 3)
    filled = [free_negatives(label, 3, radius) == 0 for radius in (0, 1, 2, 4, 8, 40)]
    for wider, narrower in pairwise(filled):
        assert (wider | narrower == wider).all()
        assert wider.sum() > narrower.sum()
    assert not filled[-1].any()


def test_drawn_background_is_left_alone_unless_asked() -> None:
    label = seeds_of(7, (10, 9), 3)
    label[9, 8] = 0
    np.testing.assert_array_equal(free_negatives(label, 3, 2), label)
    expected = reference(label, 3, 2, False, None, "slice")
    assert (expected != label).any()
    # A stroke of background is not a seed.
    np.testing.assert_array_equal(free_negatives(label, 3, 2, beside_background=True), expected)


@pytest.mark.parametrize(("axis", "distance"), RULES)
@pytest.mark.parametrize(("rule", "least"), [("kervadec", 2), ("literal10", 11)])
@pytest.mark.parametrize("num_classes", [2, 4])
def test_calibration(
    axis: int | None, distance: str, rule: str, least: int, num_classes: int
) -> None:
    """The radius is the largest pairwise distance, and puts no background into its own masks."""
    masks = [mask_of(seed, (15, 14, 13), num_classes, least) for seed in range(3)]
    expected = 0.0
    for mask in masks:
        seeds = scribble_by_erosion(mask, num_classes, rule, None, axis) != num_classes
        if axis is None or distance == "volume":
            away = nearest(seeds)
        else:
            planes = [nearest(plane) for plane in np.moveaxis(seeds, axis, 0)]
            away = np.moveaxis(np.stack(planes), 0, axis)
        expected = max(expected, away[mask > 0].max())
    radius = calibrate_radius(masks, num_classes, rule, None, axis, distance)
    assert radius == pytest.approx(expected, rel=1e-12)
    for complete in (False, True):
        wrong = []
        for mask in masks:
            seeds = scribble_by_erosion(mask, num_classes, rule, None, axis)
            filled, narrower = (
                free_negatives(
                    seeds, num_classes, r, complete=complete, slice_axis=axis, distance=distance
                )
                for r in (radius, radius - 0.01)
            )
            assert not ((filled == 0) & (mask > 0)).any()
            wrong.append(((narrower == 0) & (mask > 0)).any())
        assert any(wrong)  # and no smaller one would do


def test_calibration_by_hand() -> None:
    # 7×5: two erosions leave 3×1, centered; a corner is 2 rows and 2 columns away.
    mask = np.zeros((9, 9), dtype=np.uint8)
    mask[1:8, 1:6] = 1
    assert calibrate_radius([mask], 2) == math.sqrt(8)
    # One erosion leaves 5×3, whose corners are diagonal neighbors of the mask's.
    assert calibrate_radius([mask], 2, max_iterations=1) == math.sqrt(2)
    # A second class beside it brings its own seeds: 3×3, its center 1 away from each side.
    mask[1:4, 6:9] = 2
    assert calibrate_radius([mask[:4]], 3) == math.sqrt(2)
    assert calibrate_radius([np.zeros((4, 4))], 2) == 0
    assert calibrate_radius([], 2) == 0


def test_masks_with_unlabeled_voxels_do_not_calibrate() -> None:
    with pytest.raises(ValueError, match=r"^a mask holds unlabeled voxels"):
        calibrate_radius([np.array([[0, 1, 2]])], 2)


def full(case: str, side: int, **more: Any) -> dict[str, Any]:
    """A square of an odd side ≤ 21: erosion leaves its center, (side − 1)/2·√2 from the corners."""
    mask = np.zeros((1, 30, 30, 1), dtype=np.uint8)
    mask[0, 2 : 2 + side, 3 : 3 + side] = 1
    return {"label": mask, "supervision": "full", "case_id": case, "erode": False, **more}


def radius_of(data: list[dict[str, Any]], radius: Any = "auto", **options: Any) -> float | None:
    return negative_radius(data, dict, radius, num_classes=2, **options)


def test_radius_of_a_training_set(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    data = [full("a", 5), full("b", 11), full("c", 7)]
    # 5·√2 = 7.07…, rounded up; masks to be eroded or wrong on purpose are not looked at.
    closed = [
        full("d", 21, supervision="partial", erode=True),
        full("e", 21, distort=True),
        {"supervision": "none", "case_id": "f"},
        full("g", 21) | {"label": np.full((1, 4, 4, 1), 2)},
    ]
    assert radius_of([*data, *closed]) == 7.1
    assert "R = 7.1 voxels of every seed, the largest distance on 3 full masks (b)" in caplog.text
    # The kind of a bare item is what its label shows.
    assert radius_of([{"label": data[1]["label"]}]) == 7.1
    # A side of 5, eroded once, keeps 3: √2, rounded up.
    assert radius_of(data[:1], max_iterations=1) == 1.5
    # 3×3 with a line of 2 at its side: from the center, the only seed, to the end it is 3.
    line = full("h", 3)
    line["label"][0, 3, 6:8] = 1
    assert radius_of([line]) == 3


def test_a_margin_beyond_the_largest_distance(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    data = [full("a", 5), full("b", 11)]
    # 1.2 · 5·√2 = 8.48…, rounded up.
    assert radius_of(data, margin=0.2) == 8.5
    assert "R = 8.5 voxels of every seed, 1.2 times the largest distance on 2 full" in caplog.text
    # A radius that is given stays what it is.
    assert radius_of(data, 7.1, margin=0.2) == 7.1
    assert radius_of([], margin=0.2) is None
    with pytest.raises(ValueError, match=r"^margin must not be negative, got -0\.1"):
        radius_of(data, margin=-0.1)


def test_given_radii_are_checked(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    data = [full("a", 5), full("b", 11)]
    assert radius_of(data, 7.1) == 7.1
    assert radius_of(data, 20) == 20
    assert "R = 20 voxels of every seed; the largest distance on 2 full masks is 7.1" in caplog.text
    fault = r"^radius is 7 voxels, but the full mask of case 'b' reaches 7\.1 .* at least 7\.1$"
    with pytest.raises(ValueError, match=fault):
        radius_of(data, 7)
    for wrong in ("on", "20"):
        with pytest.raises(ValueError, match=r"^radius must be a number of voxels, 'auto' or null"):
            radius_of(data, wrong)
    with pytest.raises(ValueError, match=r"^radius is in voxels and must not be negative, got -1$"):
        radius_of(data, -1)


def test_without_full_masks(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    weak = [full("a", 21, supervision="partial", erode=True)]
    assert radius_of(weak) is None
    assert "free negatives: off" in caplog.text
    assert radius_of(weak, 4) == 4
    assert radius_of([full("a", 21)], None) is None


def test_the_transform_makes_the_grid_that_counts() -> None:
    """Twice as large, twice as far: the label is measured as the transform leaves it."""

    def double(item: Any) -> dict[str, Any]:
        return {"label": item["label"].repeat(2, axis=1).repeat(2, axis=2)}

    mask = full("a", 11)
    single = calibrate_radius([mask["label"][0]], 2)
    doubled = calibrate_radius([double(mask)["label"][0]], 2)
    assert doubled > 1.5 * single
    found = negative_radius([mask], double, num_classes=2)
    assert found == math.ceil(10 * doubled) / 10


LABEL = seeds_of(8, (9, 8, 6), 3)[None]
FILLED = reference(LABEL[0], 3, 2.0, False, 2, "slice")[None]
COMPLETE = reference(LABEL[0], 3, 2.0, True, 2, "slice")[None]


def test_containers() -> None:
    transform = FreeNegatives(3, radius=2)
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    tensor = MetaTensor(torch.from_numpy(LABEL).float(), affine=affine, meta={"name": "a"})
    filled = transform(tensor)
    assert isinstance(filled, MetaTensor)
    assert filled.dtype == torch.uint8
    assert filled.meta["name"] == "a"
    torch.testing.assert_close(filled.affine, affine)
    np.testing.assert_array_equal(filled.numpy(), FILLED)
    np.testing.assert_array_equal(transform(LABEL), FILLED)
    np.testing.assert_array_equal(transform(LABEL, complete=True), COMPLETE)
    np.testing.assert_array_equal(FreeNegatives(3, radius=None)(LABEL), LABEL)


def filled_item(item: dict[str, Any], **options: Any) -> np.ndarray:
    transform = FreeNegativesd(num_classes=3, **{"radius": 2, **options})
    before = item["label"].copy()
    out = transform(item)["label"]
    np.testing.assert_array_equal(item["label"], before)
    return out


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ({"supervision": "partial"}, FILLED),
        ({"supervision": "partial", "complete": False}, FILLED),
        ({"supervision": "partial", "complete": True}, COMPLETE),
        ({"supervision": None}, FILLED),
        ({}, FILLED),
        ({"supervision": "full"}, LABEL),
        ({"supervision": "noisy", "complete": True}, LABEL),
        # Both classes were looked for, or the one that was not may be anywhere.
        ({"supervision": "partial", "annotated_classes": [2, 1]}, FILLED),
        ({"supervision": "partial", "annotated_classes": [1], "complete": True}, LABEL),
        ({"supervision": "partial", "annotated_classes": []}, LABEL),
    ],
)
def test_which_items_are_filled(item: dict[str, Any], expected: np.ndarray) -> None:
    np.testing.assert_array_equal(filled_item({"label": LABEL, **item}), expected)


def test_full_masks_and_other_settings() -> None:
    whole = np.where(LABEL == 3, 0, LABEL)
    np.testing.assert_array_equal(filled_item({"label": whole, "supervision": "partial"}), whole)
    item = {"label": LABEL, "supervision": "partial"}
    np.testing.assert_array_equal(filled_item(item, radius=None), LABEL)
    # What was eroded from a full mask, under another key, seeds every slice.
    np.testing.assert_array_equal(
        filled_item({"label": LABEL, "supervision": "full"}, when=["full", "partial"]), COMPLETE
    )
    with pytest.raises(KeyError, match="label"):
        FreeNegativesd(num_classes=3, radius=2)({"supervision": "partial"})
    passed = FreeNegativesd(num_classes=3, radius=2, allow_missing_keys=True)({"image": 1})
    assert passed == {"image": 1}


@pytest.mark.parametrize(
    ("classes", "annotated", "fills"),
    [([3], [3], True), ([3], [1, 3], True), ([3], [1, 2], False), ([1, [2, 3]], [1, 2], False)],
)
def test_annotated_classes_are_those_of_the_file(
    classes: list[Any], annotated: list[int], fills: bool
) -> None:
    """The file has three foreground classes, some of which are trained under other numbers."""
    label = np.full((1, 1, 9), 4, dtype=np.uint8)
    label[0, 0, 0] = 3
    item = {"label": label, "supervision": "partial", "annotated_classes": annotated}
    selected = SelectClassesd("label", classes=classes, num_classes=4)(item)
    count = len(classes) + 1
    filled = FreeNegativesd(num_classes=count, radius=4, classes=classes)(selected)["label"]
    np.testing.assert_array_equal(filled[0, 0, 5:], 0 if fills else count)
    np.testing.assert_array_equal(filled[0, 0, :5], selected["label"][0, 0, :5])


def test_refusals() -> None:
    label = np.full((1, 4, 4), 2)
    for call in (
        lambda: free_negatives(label[0], 2, 1, distance="mm"),
        lambda: calibrate_radius([label[0]], 2, distance="mm"),
        lambda: FreeNegatives(2, 1, distance="mm"),
    ):
        with pytest.raises(ValueError, match=r"^distance must be one of .*, got 'mm'$"):
            call()
    with pytest.raises(ValueError, match=r"must not be negative, got -1$"):
        FreeNegatives(2, -1)
    with pytest.raises(ValueError, match=r"^label holds \[3\], but 2 classes"):
        free_negatives(label[0] + 1, 2, 1)
