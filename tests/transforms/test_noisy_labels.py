"""Noisy masks: shapes by hand, the share of missing ones, and what the draws depend on."""

from __future__ import annotations

import hashlib
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from scipy.stats import binom

from mixseg.transforms import BoxLabel, NoisyLabel, NoisyLabeld


def grid(*rows: str) -> np.ndarray:
    """(1, H, W) from digits; '.' is 0."""
    return np.array([[[int(c.replace(".", "0")) for c in row] for row in rows]], dtype=np.uint8)


def exact(kind: str, num_classes: int = 2, **options: Any) -> NoisyLabel:
    """The shape alone: nothing is distorted, nothing is missing."""
    return NoisyLabel(num_classes, kind, distortion=0, share_missing=0, **options)


def disc(center: tuple[float, float], half: tuple[float, float], turn: float = 0) -> np.ndarray:
    """Boolean 96 × 96: a solid ellipse, its first half-axis ``turn``° from the rows' axis."""
    rows, columns = np.mgrid[:96, :96] - np.reshape(center, (2, 1, 1))
    cosine, sine = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    along, across = rows * cosine + columns * sine, columns * cosine - rows * sine
    return (along / half[0]) ** 2 + (across / half[1]) ** 2 <= 1


def cell(shift: int = 0) -> np.ndarray:
    """(1, 96, 96): a nucleus (2) inside a cell (1)."""
    label = disc((48 + shift, 46), (30, 22), 20).astype(np.uint8)
    label[disc((50 + shift, 44), (14, 10), 50)] = 2
    return label[None]


def moments(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    coords = np.argwhere(mask)
    return coords.mean(axis=0), np.cov(coords.T, bias=True)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.mark.parametrize("turn", [0, 30, 45, 90, 135])
def test_an_ellipse_has_the_moments_of_its_mask(turn: float) -> None:
    # Not an ellipse itself: a bar with a bulge.
    mask = disc((40, 50), (30, 8), turn) | disc((44, 46), (12, 12))
    drawn = exact("ellipse")(mask.astype(np.uint8)[None])[0] == 1
    (center, spread), (wanted, wanted_spread) = moments(drawn), moments(mask)
    np.testing.assert_allclose(center, wanted, atol=0.2)
    # A voxel is a square: its own variance, 1/12, counts in both.
    np.testing.assert_allclose(spread, wanted_spread, atol=0.02 * np.trace(wanted_spread))


def test_an_ellipse_by_hand() -> None:
    # Rows 1–3, columns 1–9 of class 1: variances 3²/12 and 9²/12, squared half-axes 4 times that, 3
    # and 27, about (2, 5): row 2 takes |c| ≤ 5.196, rows 1 and 3 (1/3) |c| ≤ √(27·2/3) = 4.24,
    # rows 0 and 4 (4/3 > 1) nothing.
    mask = grid("...........", ".111111111.", ".111111111.", ".111111111.", "...........")
    np.testing.assert_array_equal(
        exact("ellipse")(mask),
        grid("...........", ".111111111.", "11111111111", ".111111111.", "..........."),
    )


def test_a_stroke_by_hand() -> None:
    # The same mask: half-axes 5.196 and 1.732. Half the width: radius 0.866, so a line 4.33 to each
    # side of (2, 5) with round ends of 0.866: row 2, |c| ≤ 5.196; the other rows are too far off.
    mask = grid("...........", ".111111111.", ".111111111.", ".111111111.", "...........")
    np.testing.assert_array_equal(
        exact("stroke")(mask),
        grid("...........", "...........", "11111111111", "...........", "..........."),
    )
    # The whole width: radius 1.732, line 3.464 to each side; rows 1 and 3 take
    # |c| ≤ 3.464 + √(3 − 1) = 4.878.
    np.testing.assert_array_equal(
        exact("stroke", stroke_width=1)(mask),
        grid("...........", ".111111111.", "11111111111", ".111111111.", "..........."),
    )
    # A tenth: the radius is at least half a voxel.
    thin = exact("stroke", stroke_width=0.1)(mask)
    np.testing.assert_array_equal(thin[0, 2], [1] * 11)
    assert thin.sum() == 11


def test_a_stroke_follows_the_main_axis() -> None:
    # Half-axes 30 and 10, turned by 30°: a line from −25 to 25 along the axis, radius 5.
    drawn = exact("stroke")(disc((48, 48), (30, 10), 30).astype(np.uint8)[None])[0] == 1
    rows, columns = np.mgrid[:96, :96] - 48
    along = rows * math.sqrt(0.75) + columns / 2
    across = columns * math.sqrt(0.75) - rows / 2
    far = np.hypot(np.maximum(abs(along) - 25, 0), across)
    assert drawn[far <= 4.7].all()
    assert not drawn[far >= 5.3].any()


def test_undistorted_boxes_are_those_of_box_label() -> None:
    label = np.kron(np.random.default_rng(0).integers(0, 4, (5, 5, 6)), np.ones((3, 3, 1), int))
    label = label.astype(np.uint8)[None]
    for axis in (-1, 0):
        for per_object in (False, True):
            np.testing.assert_array_equal(
                exact("box", 4, slice_axis=axis, per_object=per_object)(label),
                BoxLabel(4, slice_axis=axis, per_object=per_object)(label),
            )


def test_a_nested_class_stays_visible_and_does_not_widen_the_one_around_it() -> None:
    label = cell()
    out = exact("ellipse", 3)(label)[0]
    # Holes are filled: the cell's ellipse is the cell's outline, not that of a ring's moments.
    assert dice(out > 0, label[0] > 0) > 0.98
    assert dice(out == 2, label[0] == 2) > 0.98
    swapped = np.array([0, 2, 1], dtype=np.uint8)[label]
    np.testing.assert_array_equal(
        exact("ellipse", 3)(swapped)[0], np.array([0, 2, 1], dtype=np.uint8)[out]
    )


def test_of_equal_shapes_the_higher_class_wins() -> None:
    np.testing.assert_array_equal(exact("box", 3)(grid("12", "21")), grid("22", "22"))


def test_objects_are_drawn_apart_where_wanted() -> None:
    label = grid("11....11", "11....11")
    np.testing.assert_array_equal(exact("ellipse", per_object=True)(label), label)
    assert (exact("ellipse")(label) == 1).sum() > 8


@pytest.mark.parametrize("kind", ["ellipse", "stroke", "box", "mixed"])
def test_dice_falls_as_distortion_grows(kind: str) -> None:
    label = cell()
    means = []
    for distortion in (0.0, 0.25, 0.5, 1.0, 2.0):
        noise = NoisyLabel(3, kind, distortion, share_missing=0, seed=1)
        drawn = [noise(label, f"case{i}")[0] for i in range(40)]
        means.append(np.mean([dice(out == v, label[0] == v) for out in drawn for v in (1, 2)]))
    assert means == sorted(means, reverse=True)
    assert means[0] - means[2] > 0.05
    assert means[0] > means[-1] + 0.2


def test_the_errors_are_within_their_bounds() -> None:
    # Half-axes of a solid ellipse are those of its moments, so the drawn ones can be measured.
    mask = disc((48, 48), (20, 12))
    noise = NoisyLabel(2, "ellipse", 0.5, share_missing=0)
    for i in range(60):
        level = noise.instance(f"case{i}").level
        assert 0 <= level <= 0.5
        center, spread = moments(noise(mask.astype(np.uint8)[None], f"case{i}")[0] == 1)
        variances, axes = np.linalg.eigh(spread)
        half = 2 * np.sqrt(variances)[::-1]
        offset = abs(center - 48)
        assert offset[0] <= 20 * level + 0.5
        assert offset[1] <= 12 * level + 0.5
        if half[0] > 1.3 * half[1]:  # else an axis has no direction to speak of, or they swapped
            assert (half <= np.array([20, 12]) * (1 + level) + 0.5).all()
            assert (half >= np.array([20, 12]) / (1 + level) - 0.5).all()
            turn = math.degrees(math.acos(min(1, abs(axes[0, 1]))))
            assert turn <= 45 * level + 3


def test_levels_kinds_and_missing_ones_are_spread_evenly() -> None:
    noise = NoisyLabel(2, "mixed", 0.8, share_missing=0.4)
    drawn = [noise.instance(f"case{i}", z) for i in range(200) for z in range(3)]
    low, high = binom.ppf([0.0005, 0.9995], len(drawn), 0.4)
    assert low <= sum(one.missing for one in drawn) <= high
    for kind in ("ellipse", "stroke", "box"):
        low, high = binom.ppf([0.0005, 0.9995], len(drawn), 1 / 3)
        assert low <= sum(one.kind == kind for one in drawn) <= high
    levels = [one.level for one in drawn]
    # Mean 0.4, its standard error 0.8/√12/√600.
    assert np.mean(levels) == pytest.approx(0.4, abs=4 * 0.8 / math.sqrt(12 * len(levels)))
    assert max(levels) <= 0.8


def test_missing_instances_are_background_and_the_same_for_every_shape() -> None:
    label = np.repeat(cell()[..., None], 12, axis=-1)
    empty = {}
    for kind in ("ellipse", "stroke", "box", "mixed"):
        for distortion in (0.0, 0.7):
            noise = NoisyLabel(3, kind, distortion, share_missing=0.4, seed=3)
            out = noise(label, "a case")[0]
            found = [z for z in range(12) if not out[..., z].any()]
            assert found == [z for z in range(12) if noise.instance("a case", z).missing]
            empty[kind, distortion] = tuple(found)
    assert len(set(empty.values())) == 1
    assert 0 < len(empty["box", 0.0]) < 12
    assert not NoisyLabel(3, share_missing=1)(label, "a case").any()
    # A larger share adds instances, it does not choose others.
    more = NoisyLabel(3, share_missing=0.7, seed=3)
    assert all(more.instance("a case", z).missing for z in empty["box", 0.0])


def test_draws_depend_on_seed_case_and_slice_alone() -> None:
    noise = NoisyLabel(3, seed=5)
    volume = np.stack([cell(z) for z in range(4)], axis=-1)
    once = {name: noise(volume, name) for name in ("b", "a", "c")}
    again = NoisyLabel(3, seed=5)
    for name in ("a", "b", "c", "a"):
        np.testing.assert_array_equal(again(volume, name), once[name])
    whole = NoisyLabel(3, share_missing=0, seed=5)
    assert (whole(volume, "a") != whole(volume, "b")).any()
    assert (whole(volume, "a") != NoisyLabel(3, share_missing=0, seed=6)(volume, "a")).any()
    # A slice does not depend on the others, nor a picture on being a volume's first slice.
    other = volume.copy()
    other[..., 1:] = 0
    np.testing.assert_array_equal(noise(other, "a")[..., 0], once["a"][..., 0])
    np.testing.assert_array_equal(noise(volume[..., 0], "a"), once["a"][..., 0])
    # Turned axes: the same slices, the same draws.
    turned = NoisyLabel(3, seed=5, slice_axis=0)(np.moveaxis(volume, -1, 1), "a")
    np.testing.assert_array_equal(np.moveaxis(turned, 1, -1), once["a"])
    # One class does not depend on another one's being there.
    alone = np.where(volume == 2, 0, volume).astype(np.uint8)
    outline = NoisyLabel(3, "box", share_missing=0, seed=5)
    first = outline(volume, "a")
    np.testing.assert_array_equal((first > 0)[first != 2], (outline(alone, "a") > 0)[first != 2])


def test_draws_are_those_of_a_hash_of_the_name_in_every_process() -> None:
    # BLAKE2b of the name as four words, NumPy's SeedSequence and PCG64, three doubles.
    words = np.frombuffer(hashlib.blake2b(b"007", digest_size=16).digest(), dtype="<u4").tolist()
    stream = np.random.PCG64(np.random.SeedSequence([2, *words], spawn_key=(4,)))
    missing, level, kind = np.random.Generator(stream).random(3)
    found = NoisyLabel(2, "mixed", 0.9, share_missing=0.5, seed=2).instance("007", 4)
    assert found.missing == (missing < 0.5)
    assert found.level == 0.9 * level
    assert found.kind == ("ellipse", "stroke", "box")[int(3 * kind)]
    noise = NoisyLabel(3, seed=11)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(noise))(cell(), "x"), noise(cell(), "x")
    )


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_unlabeled_voxels_stay_unlabeled(share: float) -> None:
    label = cell()
    label[0, :20] = 3
    label[0, 40:44, 40:60] = 3
    out = NoisyLabel(3, share_missing=share)(label, "a")
    np.testing.assert_array_equal(out == 3, label == 3)
    assert set(np.unique(out)) <= {0, 1, 2, 3}


def test_an_empty_slice_stays_background() -> None:
    assert not NoisyLabel(3, share_missing=0)(np.zeros((1, 8, 8), dtype=np.uint8), "a").any()


def test_containers() -> None:
    label = MetaTensor(torch.from_numpy(cell()).float(), meta={"filename_or_obj": "a.png"})
    out = NoisyLabel(3)(label, "a")
    assert isinstance(out, MetaTensor)
    assert (out.dtype, out.shape) == (torch.uint8, label.shape)
    assert out.meta["filename_or_obj"] == "a.png"
    np.testing.assert_array_equal(out.numpy(), NoisyLabel(3)(cell(), "a"))


def test_dictionary_form_distorts_what_says_so() -> None:
    label = cell()
    options: dict[str, Any] = {"kind": "stroke", "distortion": 0.6, "share_missing": 0.1, "seed": 4}
    transform = NoisyLabeld(num_classes=3, stroke_width=0.8, **options)
    wanted = NoisyLabel(3, stroke_width=0.8, **options)(label, "a")
    item = {"label": label, "case_id": "a", "supervision": "noisy", "distort": True}
    out = transform(item)
    np.testing.assert_array_equal(out["label"], wanted)
    assert item["label"] is label
    assert {k: v for k, v in out.items() if k != "label"} == {
        "case_id": "a", "supervision": "noisy", "distort": True,
    }  # fmt: skip
    for other in ({**item, "distort": False}, {"label": label, "case_id": "a"}):
        assert transform(other)["label"] is label
    # Items without a label are those without labels, which are not to be distorted.
    assert transform({"case_id": "a", "distort": False}) == {"case_id": "a", "distort": False}
    everything = NoisyLabeld(num_classes=3, stroke_width=0.8, flag_key=None, **options)
    np.testing.assert_array_equal(everything({"label": label, "case_id": "a"})["label"], wanted)
    with pytest.raises(KeyError, match="label"):
        transform({"case_id": "a", "distort": True})
    with pytest.raises(ValueError, match=r"no 'case_id', which its noise is drawn from; it has"):
        transform({"label": label, "distort": True})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NoisyLabel(3, "circle"), "one of ellipse, stroke, box or mixed, got 'circle'"),
        (lambda: NoisyLabel(3, distortion=-0.1), "must not be negative, and finite, got -0.1"),
        (lambda: NoisyLabel(3, distortion=math.inf), "must not be negative, and finite, got inf"),
        (lambda: NoisyLabel(3, distortion=math.nan), "must not be negative, and finite, got nan"),
        (lambda: NoisyLabel(3, share_missing=1.1), r"share_missing must be in \[0, 1\], got 1.1"),
        (lambda: NoisyLabel(3, seed=-1), "seed must not be negative, got -1"),
        (lambda: NoisyLabel(3, stroke_width=0), r"stroke_width must be in \(0, 1\], got 0"),
        (
            lambda: NoisyLabel(3, slice_axis=None),  # type: ignore[arg-type]
            "slice_axis must be a number: noisy masks are drawn slice by slice",
        ),
        (lambda: NoisyLabel(1), "must be 2 to 255, got 1"),
        (lambda: NoisyLabel(3)(np.zeros((3, 3))), r"shape \(1, H, W\) or .* got \(3, 3\)"),
        (lambda: NoisyLabel(3)(np.full((1, 2, 2), 7)), r"label holds \[7\], but 3 classes"),
    ],
)
def test_errors(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()
