"""Points, centroids, ellipses and boxes."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.transform import Randomizable

from mixseg.transforms import (
    BoxLabel,
    BoxLabeld,
    CentroidLabel,
    CentroidLabeld,
    EllipseLabel,
    EllipseLabeld,
    PointLabel,
    PointLabeld,
    RandPointLabel,
    RandPointLabeld,
)

CORES = {
    "point": lambda **k: PointLabel(4, points=3, radius=1.5, **k),
    "rand_point": lambda **k: RandPointLabel(4, points=2, **k),
    "centroid": lambda **k: CentroidLabel(4, radius=2, **k),
    "ellipse": lambda **k: EllipseLabel(4, shrink=0.6, **k),
}


def grid(*rows: str) -> np.ndarray:
    """(1, H, W) from digits; '.' is 0."""
    return np.array([[[int(c.replace(".", "0")) for c in row] for row in rows]], dtype=np.uint8)


def random_volume(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 4, size=(5, 5, 4))
    return np.kron(coarse, np.ones((5, 5, 1), dtype=int)).astype(np.uint8)[None]


@pytest.mark.parametrize("name", sorted(CORES))
@pytest.mark.parametrize("slice_axis", [-1, 0, None])
@pytest.mark.parametrize("per_object", [False, True])
def test_cores_are_correct_and_reach_every_region(
    name: str, slice_axis: int | None, per_object: bool
) -> None:
    label = random_volume(1)
    label[0, :, :, 2][label[0, :, :, 2] == 3] = 0
    out = CORES[name](slice_axis=slice_axis, per_object=per_object)(label)
    marked = out != 4
    np.testing.assert_array_equal(out[marked], label[marked])
    assert not (out == 0).any()
    cuts = (
        [(label, out)]
        if slice_axis is None
        else list(
            zip(
                np.moveaxis(label[0], slice_axis, 0),
                np.moveaxis(out[0], slice_axis, 0),
                strict=True,
            )
        )
    )
    for before, after in cuts:
        assert set(np.unique(after)) - {4} == set(np.unique(before)) - {0}


def test_point_count_per_region_and_object() -> None:
    label = grid("11..22", "11..22", ".....2", "1.....", "11....")
    flat = PointLabel(3, points=2, seed=3)(label)
    assert (flat == 1).sum() == 2
    assert (flat == 2).sum() == 2
    objects = PointLabel(3, points=2, per_object=True, seed=3)(label)
    assert (objects[0, :2] == 1).sum() == 2
    assert (objects[0, 3:] == 1).sum() == 2
    # Fewer voxels than points: 7 of class 1, 5 of class 2 are all labeled.
    everything = PointLabel(3, points=50)(label)
    np.testing.assert_array_equal(everything != 3, label != 0)


def test_point_radius_by_hand() -> None:
    # One voxel of class 1 is a point; radius 1 on a 1-voxel-wide row reaches its two neighbors.
    label = grid(".......", "1111111", "2222222")
    out = PointLabel(3, radius=1, seed=0)(label)[0]
    for value in (1, 2):
        columns = np.flatnonzero(out[value] == value)
        assert len(columns) in (2, 3)
        assert np.ptp(columns) == len(columns) - 1
    assert (out[0] == 3).all()


def test_point_include_background() -> None:
    label = grid("....", ".11.", "....")
    out = PointLabel(2, points=3, include_background=True)(label)
    assert (out == 0).sum() == 3
    assert (label[out == 0] == 0).all()
    assert (out == 1).sum() == 2


def test_points_depend_on_seed_and_content_only() -> None:
    first, second = random_volume(1), random_volume(2)
    transform = PointLabel(4, points=2, seed=7)
    once = transform(first)
    transform(second)
    np.testing.assert_array_equal(transform(first), once)
    np.testing.assert_array_equal(PointLabel(4, points=2, seed=7)(torch.from_numpy(first)), once)
    assert (PointLabel(4, points=2, seed=8)(first) != once).any()
    # Cases of equal size and shape get points of their own: here the same square, as 1 and as 2.
    square = np.ones((1, 40, 40), dtype=np.uint8)
    assert ((transform(square) == 1) != (transform(2 * square) == 2)).any()
    assert not isinstance(transform, Randomizable)  # so that a CacheDataset may keep its result


def test_points_are_the_same_from_several_threads() -> None:
    transform = PointLabel(4, points=2, seed=7)
    labels = [random_volume(seed) for seed in range(8)]
    expected = [transform(label) for label in labels]
    found: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.__setitem__(i, transform(labels[i])))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(8):
        np.testing.assert_array_equal(found[i], expected[i])


@pytest.mark.parametrize("dictionary", [False, True])
def test_rand_points_follow_the_random_state(dictionary: bool) -> None:
    def calls(seed: int) -> list[np.ndarray]:
        transform = (
            Compose([RandPointLabeld(num_classes=4, points=2)])
            if dictionary
            else RandPointLabel(4, points=2)
        ).set_random_state(seed)
        label = random_volume(1)
        if dictionary:
            return [transform({"label": label, "supervision": "partial"})["label"] for _ in "ab"]
        return [transform(label) for _ in "ab"]

    one, again, other = calls(1), calls(1), calls(2)
    np.testing.assert_array_equal(one, again)
    assert (one[0] != one[1]).any()
    assert (one[0] != other[0]).any()


@pytest.mark.parametrize(
    ("label", "radius", "expected"),
    [
        # Rows 1–3, columns 1–3: center (2, 2), radius 1 is a plus.
        (
            grid(".....", ".111.", ".111.", ".111.", "....."),
            1,
            grid("22222", "22122", "21112", "22122", "22222"),
        ),
        # A ring's center of mass is its hole: the four nearest voxels are equal, the first in
        # array order is (1, 2).
        (
            grid(".....", ".111.", ".1.1.", ".111.", "....."),
            0,
            grid("22222", "22122", "22222", "22222", "22222"),
        ),
        # Mean row (0+1+1)/3 = 2/3, column (0+0+1)/3 = 1/3: nearest voxel (1, 0). The disc of
        # radius 1 would reach (2, 0) too, which is not of the class.
        (grid("1..", "11.", "..."), 1, grid("122", "112", "222")),
        # Two voxels, center between them: the first.
        (grid("1.1"), 0, grid("122")),
    ],
)
def test_centroid_by_hand(label: np.ndarray, radius: float, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(CentroidLabel(2, radius=radius)(label), expected)


def test_centroid_in_3d() -> None:
    # A 3×3×3 cube in one volume: one voxel, its center; per slice one voxel in each slice.
    label = np.zeros((1, 5, 5, 5), dtype=np.uint8)
    label[0, 1:4, 1:4, 1:4] = 1
    whole = CentroidLabel(2, radius=0, slice_axis=None)(label)
    assert np.argwhere(whole[0] == 1).tolist() == [[2, 2, 2]]
    slices = CentroidLabel(2, radius=0)(label)
    assert np.argwhere(slices[0] == 1).tolist() == [[2, 2, 1], [2, 2, 2], [2, 2, 3]]


def test_ellipse_of_a_rectangle_by_hand() -> None:
    # Rows 0–2, columns 0–8. Variance of n equally spaced voxels plus 1/12 is (n²−1)/12 + 1/12 =
    # n²/12, so the squared semi-axes are 4·9/12 = 3 and 4·81/12 = 27; with shrink 1:
    # r²/3 + c²/27 ≤ 1: row ±1 takes |c| ≤ 4.24, so all four voxels to each side; row 0 all.
    full = EllipseLabel(2, shrink=1)(np.ones((1, 3, 9), dtype=np.uint8))
    assert (full == 1).all()
    # Shrink 0.5: squared semi-axes 0.75 and 6.75: row ±1 (1/0.75 > 1) nothing, row 0 |c| ≤ 2.
    half = EllipseLabel(2, shrink=0.5)(np.ones((1, 3, 9), dtype=np.uint8))
    np.testing.assert_array_equal(half, grid("222222222", "221111122", "222222222"))


def test_ellipse_of_a_disc_has_the_shrunk_area() -> None:
    y, x = np.mgrid[-60:61, -60:61]
    label = (((x / 50) ** 2 + (y / 30) ** 2) <= 1).astype(np.uint8)[None]
    out = EllipseLabel(2, shrink=0.5)(label)
    inner = ((x / 25) ** 2 + (y / 15) ** 2) <= 1
    # The analytic inner ellipse, up to the discretization of its edge.
    assert ((out[0] == 1) ^ inner).sum() < 0.02 * inner.sum()


def test_ellipse_in_3d_uses_five() -> None:
    # For a ball of radius r the variance per axis is r²/5: shrink s gives a ball of radius s·r.
    z, y, x = np.mgrid[-20:21, -20:21, -20:21]
    squared = x**2 + y**2 + z**2
    label = (squared <= 18**2).astype(np.uint8)[None]
    out = EllipseLabel(2, shrink=0.5, slice_axis=None)(label)
    inner = squared <= 9**2
    assert ((out[0] == 1) ^ inner).sum() < 0.03 * inner.sum()


def test_ellipse_falls_back_to_the_nearest_voxel() -> None:
    ring = grid("11111", "1...1", "1...1", "1...1", "11111")
    # Per axis, 10 of the 16 voxels lie at ±2, 4 at ±1 and 2 at 0: Σ = 44/16 + 1/12 = 2.83 on both
    # axes, so the nearest voxels have 4/2.83 = 1.41 > 4·0.1². They are the middles of the sides,
    # the first is (0, 2).
    out = EllipseLabel(2, shrink=0.1)(ring)
    assert np.argwhere(out[0] == 1).tolist() == [[0, 2]]


def test_box_by_hand() -> None:
    # Class 1's box: rows 0–3, columns 0–4; class 2 lies inside it: rows 1–2, columns 1–2.
    label = grid("1......", ".2.....", "..2....", "....1..", ".......")
    np.testing.assert_array_equal(
        BoxLabel(3)(label), grid("11111..", "12211..", "12211..", "11111..", ".......")
    )


def test_box_margin_is_cut_at_the_border_and_objects_are_apart() -> None:
    label = grid("1.....", "......", "......", ".....1")
    np.testing.assert_array_equal(
        BoxLabel(2, margin=1, per_object=True)(label),
        grid("11....", "11....", "....11", "....11"),
    )
    assert (BoxLabel(2)(label) == 1).all()


def test_box_keeps_unlabeled_and_small_over_large_whatever_the_class() -> None:
    label = grid("2..2", ".1..", "2..3")
    np.testing.assert_array_equal(BoxLabel(3)(label), grid("2222", "2122", "2223"))
    # Equal boxes: the higher class wins.
    np.testing.assert_array_equal(BoxLabel(3)(grid("12", "21")), grid("22", "22"))


def test_box_in_3d_spans_the_slices_between() -> None:
    label = np.zeros((1, 3, 3, 3), dtype=np.uint8)
    label[0, 0, 0, 0] = label[0, 1, 1, 2] = 1
    per_slice = BoxLabel(2)(label)
    np.testing.assert_array_equal(per_slice, label)
    whole = BoxLabel(2, slice_axis=None)(label)
    expected = np.zeros_like(label)
    expected[0, :2, :2, :] = 1
    np.testing.assert_array_equal(whole, expected)


@pytest.mark.parametrize(
    "transform",
    [PointLabel(4), RandPointLabel(4), CentroidLabel(4), EllipseLabel(4), BoxLabel(4)],
    ids=lambda t: type(t).__name__,
)
def test_containers(transform) -> None:  # type: ignore[no-untyped-def]
    label = MetaTensor(torch.from_numpy(random_volume(0)).float(), meta={"filename_or_obj": "a"})
    out = transform(label)
    assert isinstance(out, MetaTensor)
    assert out.dtype == torch.uint8
    assert out.shape == label.shape
    assert out.meta["filename_or_obj"] == "a"
    assert isinstance(transform(random_volume(0)), np.ndarray)
    assert transform(random_volume(0)[..., 0]).shape == (1, 25, 25)


@pytest.mark.parametrize(
    ("form", "arguments", "array", "when"),
    [
        (PointLabeld, {"points": 2, "radius": 1, "seed": 5}, PointLabel, "partial"),
        (CentroidLabeld, {"radius": 2}, CentroidLabel, "partial"),
        (EllipseLabeld, {"shrink": 0.7, "per_object": True}, EllipseLabel, "partial"),
        (BoxLabeld, {"margin": 2, "slice_axis": None}, BoxLabel, "noisy"),
    ],
)
def test_dictionary_forms(form, arguments: dict, array, when: str) -> None:  # type: ignore[no-untyped-def]
    label = random_volume(0)
    transform = form(num_classes=4, **arguments)
    out = transform({"label": label, "supervision": when})
    np.testing.assert_array_equal(out["label"], array(4, **arguments)(label))
    assert transform({"label": label, "supervision": "full"})["label"] is label
    assert transform({"supervision": "none"}) == {"supervision": "none"}
    partly = label.copy()
    partly[0, 0, 0, 0] = 4
    assert transform({"label": partly, "supervision": when})["label"] is partly


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PointLabel(3, points=0), "points must be at least 1, got 0"),
        (lambda: PointLabel(3, seed=-1), "seed must not be negative, got -1"),
        (lambda: PointLabel(3, radius=-1), "radius is in voxels and must not be negative, got -1"),
        (lambda: CentroidLabel(3, radius=-2), "must not be negative, got -2"),
        (lambda: EllipseLabel(3, shrink=0), r"shrink must be in \(0, 1\], got 0"),
        (lambda: EllipseLabel(3, shrink=1.5), r"shrink must be in \(0, 1\], got 1.5"),
        (lambda: BoxLabel(3, margin=-1), "margin is in voxels and must not be negative, got -1"),
        (lambda: BoxLabel(1), "must be 2 to 255, got 1"),
        (lambda: BoxLabel(3)(np.zeros((3, 3))), r"shape \(1, H, W\) or .* got \(3, 3\)"),
        (lambda: PointLabel(3)(np.full((1, 2, 2), 7)), r"label holds \[7\], but 3 classes"),
        (
            lambda: PointLabel(3, slice_axis=5)(np.zeros((1, 2, 2, 2))),
            "slice_axis must be None or -3 to 2, got 5",
        ),
    ],
)
def test_errors(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()
