"""Surface distances against hand-derived values, brute force and MedPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter, generate_binary_structure
from scipy.spatial.distance import cdist

from mixseg.metrics import (
    average_symmetric_surface_distance,
    dice_coefficient,
    hd95_pooled,
    surface,
    surface_distances,
    surface_voxels,
    volume_diagonal,
)

Mask = NDArray[np.bool_]


def _blocks(shape: tuple[int, ...], side: int, shift: int) -> tuple[Mask, Mask]:
    """A block of `side` voxels per axis at the origin, and the same block shifted along axis 0."""
    first, second = np.zeros(shape, bool), np.zeros(shape, bool)
    first[tuple(slice(0, side) for _ in shape)] = True
    second[(slice(shift, shift + side), *(slice(0, side) for _ in shape[1:]))] = True
    return first, second


def _points(shape: tuple[int, ...], *points: tuple[int, ...]) -> Mask:
    mask = np.zeros(shape, bool)
    mask[tuple(np.transpose(points))] = True
    return mask


def _brute_force(
    prediction: Mask, reference: Mask, spacing: tuple[float, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """All pairs of surface voxels, the surface by SciPy's erosion."""
    cross = generate_binary_structure(prediction.ndim, 1)
    first, second = (
        np.argwhere(mask & ~binary_erosion(mask, cross)) * np.asarray(spacing)
        for mask in (prediction, reference)
    )
    table = cdist(first, second)
    return table.min(axis=1), table.min(axis=0)


def _random_pair(kind: str, shape: tuple[int, ...], seed: int) -> tuple[Mask, Mask]:
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((2, *shape))
    if kind == "blobs":  # smooth, many touch the border of the array
        noise = np.stack([gaussian_filter(item, 2.5) for item in noise])
        noise /= noise.std()
        return noise[0] > 0.5, noise[1] > 0.5
    if kind == "noise":
        return noise[0] > 0.3, noise[1] > 1.0
    if kind == "single voxels":
        points = [tuple(int(generator.integers(n)) for n in shape) for _ in range(2)]
        return _points(shape, points[0]), _points(shape, points[1])
    if kind == "all against few":
        few = np.zeros(shape, bool)
        few.flat[generator.choice(few.size, 5, replace=False)] = True
        return np.ones(shape, bool), few
    raise AssertionError(kind)


KINDS = ("blobs", "noise", "single voxels", "all against few")
CASES = [
    ((23, 31), (1.0, 1.0)),
    ((23, 31), (1.5, 0.7)),
    ((17, 12, 9), (1.0, 1.0, 1.0)),
    ((17, 12, 9), (1.3671875, 1.3671875, 10.0)),
    ((14, 1, 11), (0.625, 0.625, 0.625)),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "spacing"), CASES)
def test_distances_equal_brute_force(
    kind: str, shape: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    for seed in range(4):
        prediction, reference = _random_pair(kind, shape, seed)
        expected = _brute_force(prediction, reference, spacing)
        actual = surface_distances(prediction, reference, spacing)
        for one, other in zip(actual, expected, strict=True):
            assert one.dtype == np.float64
            np.testing.assert_allclose(one, other, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "spacing"), CASES)
def test_scores_equal_medpy(kind: str, shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    medpy = pytest.importorskip("medpy.metric.binary", reason="MedPy is not installed")
    prediction, reference = _random_pair(kind, shape, seed=7)
    ours = hd95_pooled(prediction, reference), hd95_pooled(prediction, reference, spacing)
    theirs = medpy.hd95(prediction, reference), medpy.hd95(prediction, reference, spacing)
    np.testing.assert_allclose(ours, theirs, rtol=1e-13)
    assert dice_coefficient(prediction, reference) == medpy.dc(prediction, reference)
    # MedPy's asd is one directed mean in every version, unlike assd (see docs/metrics.md).
    directed = surface_distances(prediction, reference, spacing)
    expected = [
        medpy.asd(prediction, reference, spacing),
        medpy.asd(reference, prediction, spacing),
    ]
    np.testing.assert_allclose([item.mean() for item in directed], expected, rtol=1e-13)


def test_both_searches_are_used_and_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    transform: Callable[..., Any] = surface.distance_transform_edt

    def counted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        return transform(*arguments, **options)

    monkeypatch.setattr(surface, "distance_transform_edt", counted)
    shape = (40, 40, 40)
    # 20 queries in 64,000 voxels go to the tree; 9,128 far ones go to the distance transform.
    sparse = _random_pair("noise", shape, 3)[0]
    sparse.flat[np.flatnonzero(sparse)[20:]] = False
    sparse[-1, -1, -1] = True
    other = np.roll(sparse, 11, axis=0)
    np.testing.assert_allclose(
        np.concatenate(surface_distances(sparse, other)),
        np.concatenate(_brute_force(sparse, other, (1.0,) * 3)),
        rtol=1e-13,
    )
    assert not calls
    full = np.ones(shape, bool)
    point = _points(shape, (5, 6, 7))
    np.testing.assert_allclose(
        np.concatenate(surface_distances(full, point)),
        np.concatenate(_brute_force(full, point, (1.0,) * 3)),
        rtol=1e-13,
    )
    assert calls == [1]


def test_surface_is_the_ring_of_a_square_and_the_whole_border_of_a_full_array() -> None:
    square = np.zeros((5, 5), bool)
    square[1:4, 1:4] = True
    expected = square.copy()
    expected[2, 2] = False
    np.testing.assert_array_equal(surface_voxels(square), expected)
    # Outside the array is background: the border of a full array is surface, its inside is not.
    full = np.ones((4, 3), bool)
    np.testing.assert_array_equal(
        surface_voxels(full), [[1, 1, 1], [1, 0, 1], [1, 0, 1], [1, 1, 1]]
    )
    # A diagonal gap does not open a voxel to the outside: only face neighbors count.
    notched = np.ones((3, 3), bool)
    notched[0, 0] = False
    assert not surface_voxels(notched)[1, 1]


@pytest.mark.parametrize("shape", [(9,), (8, 7), (6, 5, 4), (3, 1, 5)])
def test_surface_equals_scipy_erosion(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        mask = generator.random(shape) < 0.8
        cross = generate_binary_structure(len(shape), 1)
        np.testing.assert_array_equal(surface_voxels(mask), mask ^ binary_erosion(mask, cross))


def test_two_voxels() -> None:
    # 3 and 4 steps apart: 5 voxels; with voxels of 2 × 1 mm, √(6² + 4²) = √52 mm.
    first, second = _points((6, 6), (1, 0)), _points((6, 6), (4, 4))
    assert hd95_pooled(first, second) == 5.0
    assert average_symmetric_surface_distance(first, second) == 5.0
    assert hd95_pooled(first, second, (2.0, 1.0)) == pytest.approx(52**0.5, rel=1e-15)
    assert hd95_pooled(first, second, 2.0) == 10.0


def test_percentile_interpolates_over_the_pooled_distances() -> None:
    # {0} against {0, 10}: distances 0 | 0, 10. Pooled and sorted 0, 0, 10, the 95th percentile is
    # at index 0.95·2 = 1.9: 0.1·0 + 0.9·10 = 9. The directed percentiles are 0 and 9.5, the pooled
    # mean is 10/3 and the mean of the directed means (0 + 5)/2 = 2.5.
    first, second = _points((11,), (0,)), _points((11,), (0,), (10,))
    assert hd95_pooled(first, second) == pytest.approx(9.0, rel=1e-15)
    assert average_symmetric_surface_distance(first, second) == pytest.approx(10 / 3, rel=1e-15)


@pytest.mark.parametrize(
    ("shape", "side", "shift", "hd95", "assd"),
    [
        # Segments 0…9 and 6…15: ends 0, 9 and 6, 15. Distances 6, 3 | 3, 6: index 0.95·3 = 2.85 of
        # 3, 3, 6, 6 is 6; mean 4.5.
        ((20,), 10, 6, 6.0, 4.5),
        # 3×3 squares (8 surface pixels each). Row 0 is 1 away (3×), row 1 lies on the other's first
        # row, of row 2 the corners lie on the other's ring and the middle is 1 from it: 4 of 8.
        ((6, 6), 3, 1, 1.0, 4 / 8),
        # 3×3×3 cubes (26 each): the first face is 1 away (9×), the middle ring lies on the other's
        # full first face, of the last face 8 lie on the other's ring and its middle is 1 away.
        ((6, 6, 6), 3, 1, 1.0, 10 / 26),
        # Disjoint 2×2×2 cubes at 0…1 and 5…6, all 8 voxels surface: 4 at distance 5 − 0 and 4 at
        # 5 − 1 each way; index 0.95·15 = 14.25 of 4×8, 5×8 is 5.
        ((9, 9, 9), 2, 5, 5.0, 4.5),
    ],
)
def test_shifted_blocks(
    shape: tuple[int, ...], side: int, shift: int, hd95: float, assd: float
) -> None:
    first, second = _blocks(shape, side, shift)
    assert hd95_pooled(first, second) == pytest.approx(hd95, rel=1e-15)
    assert average_symmetric_surface_distance(first, second) == pytest.approx(assd, rel=1e-15)
    # The shift is along axis 0 and every distance above is, too: its voxel size is the scale.
    spacing = (3.0, *(100.0 for _ in shape[1:]))
    if shift > side or len(shape) == 1:
        assert hd95_pooled(first, second, spacing) == pytest.approx(3 * hd95, rel=1e-15)


def test_invariances() -> None:
    prediction, reference = _random_pair("blobs", (15, 18, 11), 5)
    spacing = (1.4, 1.4, 8.0)
    expected = surface_distances(prediction, reference, spacing)
    hd95 = hd95_pooled(prediction, reference, spacing)

    swapped = surface_distances(reference, prediction, spacing)
    np.testing.assert_array_equal(swapped[0], expected[1])
    np.testing.assert_array_equal(swapped[1], expected[0])
    for axis in range(3):
        flipped = hd95_pooled(np.flip(prediction, axis), np.flip(reference, axis), spacing)
        assert flipped == pytest.approx(hd95, rel=1e-13)
    turned = hd95_pooled(
        prediction.transpose(2, 0, 1), reference.transpose(2, 0, 1), (8.0, 1.4, 1.4)
    )
    assert turned == pytest.approx(hd95, rel=1e-13)
    padded = surface_distances(np.pad(prediction, 4), np.pad(reference, 4), spacing)
    np.testing.assert_array_equal(np.concatenate(padded), np.concatenate(expected))
    # Any integer or float mask counts as its non-zero voxels; identical masks are 0 apart.
    assert hd95_pooled(7 * prediction.astype(np.uint8), reference * 0.5, spacing) == hd95
    assert hd95_pooled(reference, reference) == 0.0


def test_inputs_are_left_alone() -> None:
    prediction, reference = _random_pair("blobs", (9, 8, 7), 1)
    copies = prediction.copy(), reference.copy()
    surface_distances(prediction, reference)
    np.testing.assert_array_equal(prediction, copies[0])
    np.testing.assert_array_equal(reference, copies[1])


def test_dice_by_hand() -> None:
    # 2·1 / (2 + 2)
    assert dice_coefficient([1, 1, 0, 0], [0, 1, 1, 0]) == 0.5
    assert dice_coefficient([0, 0], [0, 0]) == 1.0
    assert dice_coefficient([1, 0], [0, 0]) == 0.0


def test_diagonal() -> None:
    assert volume_diagonal((3, 4, 12)) == 13.0  # 9 + 16 + 144 = 169
    assert volume_diagonal((3, 4, 12), (2, 1, 1)) == 14.0  # 36 + 16 + 144 = 196
    assert volume_diagonal((3, 4), 2.0) == 10.0


@pytest.mark.parametrize(
    ("prediction", "reference", "spacing", "message"),
    [
        (np.ones((2, 3)), np.ones((3, 2)), None, r"differ in shape: \(2, 3\) and \(3, 2\)"),
        (np.zeros((2, 2)), np.ones((2, 2)), None, "undefined: the prediction is empty"),
        (np.ones((2, 2)), np.zeros((2, 2)), None, "undefined: the reference is empty"),
        (np.zeros((2, 0)), np.zeros((2, 0)), None, "undefined: the prediction is empty"),
        (np.ones((2, 2)), np.ones((2, 2)), (1.0, 1.0, 1.0), r"one size per axis \(2\)"),
        (np.ones((2, 2)), np.ones((2, 2)), (1.0, 0.0), "must be finite and positive"),
        (np.ones((2, 2)), np.ones((2, 2)), (1.0, float("nan")), "must be finite and positive"),
    ],
)
def test_refusals(prediction: Any, reference: Any, spacing: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        surface_distances(prediction, reference, spacing)


def test_a_single_value_is_no_mask() -> None:
    with pytest.raises(ValueError, match="at least one axis"):
        surface_voxels(np.array(True))
