"""Erosion scribbles: hand-drawn cases, and bit-equality with the loop of SciPy erosions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from scipy.ndimage import binary_erosion

from mixseg.transforms import (
    ScribbleByErosion,
    ScribbleByErosiond,
    erode_to_core,
    scribble_by_erosion,
)


def kervadec_reference(mask: np.ndarray, most: int = 10) -> np.ndarray:
    for k in range(most, 0, -1):
        eroded = binary_erosion(mask, structure=np.ones((3,) * mask.ndim), iterations=k)
        if eroded.any():
            return eroded
    return mask


def literal10_reference(mask: np.ndarray, most: int = 10**6) -> np.ndarray:
    for _ in range(most):
        eroded = binary_erosion(mask, structure=np.ones((10,) * mask.ndim))
        if not eroded.any():
            break
        mask = eroded
    return mask


REFERENCES = {"kervadec": kervadec_reference, "literal10": literal10_reference}
RULES = sorted(REFERENCES)


def slicewise(label: np.ndarray, num_classes: int, rule: str) -> np.ndarray:
    out = np.full(label.shape, num_classes)
    for z in range(label.shape[2]):
        for value in range(1, num_classes):
            core = REFERENCES[rule](label[..., z] == value)
            out[..., z][core] = value
    return out


def drawn(*rows: str) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in rows])


@pytest.mark.parametrize(
    ("mask", "core"),
    [
        # 3×4 block: one erosion keeps the voxels whose 3×3 neighborhood is inside, two keep none.
        (
            drawn("......", ".####.", ".####.", ".####.", "......"),
            drawn("......", "......", "..##..", "......", "......"),
        ),
        # 2 wide: no 3×3 square fits, so k = 1 is empty and the mask stays.
        (drawn("....", ".##.", ".##.", ".##."), drawn("....", ".##.", ".##.", ".##.")),
        # Outside is background: a full 3×3 image is a 3×3 block, its center survives.
        (drawn("###", "###", "###"), drawn("...", ".#.", "...")),
        # 5×5 with a hole at (1, 1): the depth is 2 (the 3×3 square centered at (2, 3), (3, 1), …).
        (
            drawn("#####", "#.###", "#####", "#####", "#####"),
            drawn(".....", "...#.", "...#.", ".###.", "....."),
        ),
        # Two objects of one class: the deeper one decides, the other vanishes, as in the paper's
        # generator, which erodes the class as one mask.
        (
            drawn("###...", "###.##", "###.##"),
            drawn("......", ".#....", "......"),
        ),
        (drawn("...", ".#.", "..."), drawn("...", ".#.", "...")),
        (drawn("...", "..."), drawn("...", "...")),
    ],
)
def test_kervadec_by_hand(mask: np.ndarray, core: np.ndarray) -> None:
    np.testing.assert_array_equal(erode_to_core(mask), core)


@pytest.mark.parametrize(("side", "left"), [(20, 2), (21, 1), (22, 2), (25, 5), (30, 10)])
def test_kervadec_stops_after_ten(side: int, left: int) -> None:
    # k erosions shrink a side by 2k: 20 → 9 of them leave 2; 21, 22, … → ten leave side − 20.
    mask = np.zeros((40, 40), dtype=bool)
    mask[3 : 3 + side, 5 : 5 + side] = True
    core = erode_to_core(mask)
    first = (side - left) // 2
    expected = np.zeros_like(mask)
    expected[3 + first : 3 + first + left, 5 + first : 5 + first + left] = True
    np.testing.assert_array_equal(core, expected)


@pytest.mark.parametrize(
    ("side", "left", "shift"),
    # One step keeps p if p−5 … p+4 is inside: a side of n becomes n − 9 and starts 5 later.
    [(9, 9, 0), (10, 1, 5), (18, 9, 5), (19, 1, 10), (27, 9, 10), (28, 1, 15)],
)
def test_literal10_by_hand(side: int, left: int, shift: int) -> None:
    mask = np.zeros((32, 34), dtype=bool)
    mask[1 : 1 + side, 2 : 2 + side] = True
    expected = np.zeros_like(mask)
    expected[1 + shift : 1 + shift + left, 2 + shift : 2 + shift + left] = True
    np.testing.assert_array_equal(erode_to_core(mask, "literal10"), expected)


def blobs(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A union of random boxes with random holes: touches borders, is thin, has components."""
    mask = np.zeros(shape, dtype=bool)
    for fill in (True, True, False, True):
        for _ in range(rng.integers(0, 4)):
            low = [rng.integers(-8, s) for s in shape]
            box = tuple(
                slice(max(a, 0), max(a, 0) + rng.integers(1, s + 8))
                for a, s in zip(low, shape, strict=True)
            )
            mask[box] = fill
    if rng.random() < 0.5:
        mask &= rng.random(shape) < 0.995
    return mask


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("seed", range(25))
def test_equals_loop_on_random_masks(rule: str, ndim: int, seed: int) -> None:
    rng = np.random.default_rng([seed, ndim])
    shape = tuple(rng.integers(1, 64 if ndim == 2 else 32, size=ndim))
    mask = blobs(rng, shape)
    core = erode_to_core(mask, rule)
    np.testing.assert_array_equal(core, REFERENCES[rule](mask))
    assert core.dtype == bool


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "mask",
    [
        np.ones((50, 45), dtype=bool),
        np.ones((1, 1), dtype=bool),
        np.ones((1, 30), dtype=bool),
        np.zeros((5, 7), dtype=bool),
        np.eye(30, dtype=bool),
        np.ones((12, 12, 12), dtype=bool),
        np.ones((30, 30, 1), dtype=bool),
    ],
    ids=["full", "voxel", "row", "empty", "diagonal", "cube", "sheet"],
)
def test_equals_loop_on_extremes(rule: str, mask: np.ndarray) -> None:
    np.testing.assert_array_equal(erode_to_core(mask, rule), REFERENCES[rule](mask))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("most", [1, 2, 3])
def test_max_iterations_bounds_both_rules(rule: str, most: int) -> None:
    mask = np.zeros((60, 60), dtype=bool)
    mask[5:50, 8:57] = True
    np.testing.assert_array_equal(erode_to_core(mask, rule, most), REFERENCES[rule](mask, most))


def test_literal10_is_not_bounded_by_ten() -> None:
    # 112 = 9·12 + 4: twelve steps leave 4×4, ten would leave 22×22.
    mask = np.ones((112, 112), dtype=bool)
    assert erode_to_core(mask, "literal10").sum() == 16
    assert erode_to_core(mask, "literal10", 10).sum() == 22 * 22


def random_label(seed: int, shape: tuple[int, ...], num_classes: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    label = np.zeros(shape, dtype=np.uint8)
    for value in range(1, num_classes):
        label[blobs(rng, shape)] = value
    return label


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_volume_equals_loop_over_slices(rule: str, axis: int) -> None:
    label = random_label(5, (41, 37, 26), 4)
    label[label == 2] = 0  # a class that is absent
    label[:, :, 7] = 0  # and an empty slice
    found = scribble_by_erosion(label, 4, rule, slice_axis=axis)
    expected = np.moveaxis(slicewise(np.moveaxis(label, axis, -1), 4, rule), -1, axis)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.uint8


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(6))
def test_default_axis_is_the_last(rule: str, seed: int) -> None:
    label = random_label(seed, (50, 44, 5), 3)
    found = scribble_by_erosion(label, 3, rule)
    np.testing.assert_array_equal(found, slicewise(label, 3, rule))


@pytest.mark.parametrize("rule", RULES)
def test_3d_erodes_through_slices(rule: str) -> None:
    label = random_label(3, (33, 31, 29), 3)
    expected = np.full(label.shape, 3)
    for value in (1, 2):
        expected[REFERENCES[rule](label == value)] = value
    np.testing.assert_array_equal(scribble_by_erosion(label, 3, rule, slice_axis=None), expected)


def test_2d_label_and_unlabeled_voxels() -> None:
    # Class 1 is a 3×3 block, class 2 a 1×3 row, 3 = C is unlabeled: it stays and acts as outside.
    label = np.array(
        [[1, 1, 1, 0, 3], [1, 1, 1, 0, 3], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [2, 2, 2, 0, 0]]
    )
    expected = np.full((5, 5), 3)
    expected[1, 1] = 1
    expected[4, :3] = 2
    np.testing.assert_array_equal(scribble_by_erosion(label, 3), expected)


def test_memory_order_does_not_matter() -> None:
    label = random_label(9, (30, 28, 6), 4)
    np.testing.assert_array_equal(
        scribble_by_erosion(np.asfortranarray(label), 4), scribble_by_erosion(label, 4)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: erode_to_core(np.ones((3, 3)), "disc"), r"rule must be one of .*got 'disc'"),
        (lambda: erode_to_core(np.ones((3, 3)), max_iterations=0), "must be at least 1, got 0"),
        (lambda: erode_to_core(np.ones(3)), "2 or 3 spatial axes, got 1"),
        (lambda: scribble_by_erosion(np.full((2, 2), 5), 3), r"label holds \[5\], but 3 classes"),
        (lambda: scribble_by_erosion(np.full((2, 2), 0.5), 3), r"not whole numbers: \[0.5\]"),
        (lambda: scribble_by_erosion(np.ones((2, 2)), 1), "must be 2 to 255, got 1"),
        (
            lambda: scribble_by_erosion(np.ones((2, 2, 2)), 2, slice_axis=3),
            "slice_axis must be None or -3 to 2, got 3",
        ),
        (lambda: ScribbleByErosion(2, "disc"), r"rule must be one of .*got 'disc'"),
        (
            lambda: ScribbleByErosion(2)(np.ones((2, 4, 4))),
            r"label must have the shape \(1, H, W\) or \(1, H, W, D\), got \(2, 4, 4\)",
        ),
    ],
)
def test_errors(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()


BLOCK = np.zeros((1, 5, 5, 2), dtype=np.uint8)
BLOCK[0, 1:4, 1:4, 0] = 1
BLOCK_CORE = np.full((1, 5, 5, 2), 2, dtype=np.uint8)
BLOCK_CORE[0, 2, 2, 0] = 1


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32])
def test_array_form_keeps_the_container(dtype: type) -> None:
    transform = ScribbleByErosion(2)
    array = transform(BLOCK.astype(dtype))
    assert isinstance(array, np.ndarray)
    np.testing.assert_array_equal(array, BLOCK_CORE)
    tensor = transform(torch.from_numpy(BLOCK.astype(dtype)))
    assert type(tensor) is torch.Tensor
    assert tensor.dtype == torch.uint8
    np.testing.assert_array_equal(tensor.numpy(), BLOCK_CORE)
    affine = torch.diag(torch.tensor([2.0, 3.0, 8.0, 1.0], dtype=torch.float64))
    meta = {"filename_or_obj": "a.nii.gz"}
    out = transform(MetaTensor(torch.from_numpy(BLOCK.astype(dtype)), affine=affine, meta=meta))
    assert isinstance(out, MetaTensor)
    assert out.meta["filename_or_obj"] == "a.nii.gz"
    torch.testing.assert_close(out.affine, affine)
    np.testing.assert_array_equal(out.numpy(), BLOCK_CORE)


def test_dictionary_form_changes_full_labels_of_partial_items_only() -> None:
    transform = ScribbleByErosiond(num_classes=2)
    item = {"label": torch.from_numpy(BLOCK), "supervision": "partial", "case_id": "a"}
    out = transform(item)
    np.testing.assert_array_equal(out["label"], BLOCK_CORE)
    assert out["case_id"] == "a"
    np.testing.assert_array_equal(item["label"], BLOCK)  # the input item is untouched

    for supervision in ("full", "noisy"):
        other = {"label": BLOCK, "supervision": supervision}
        assert transform(other)["label"] is BLOCK
    assert transform({"supervision": "none"}) == {"supervision": "none"}
    # No supervision stated: a label without unlabeled voxels counts as full.
    assert transform({"label": BLOCK})["label"] is BLOCK


def test_dictionary_form_passes_hand_drawn_scribbles() -> None:
    scribble = BLOCK.copy()
    scribble[0, 0, 0, 1] = 2
    item = {"label": scribble, "supervision": "partial"}
    assert ScribbleByErosiond(num_classes=2)(item)["label"] is scribble


def test_dictionary_form_when_and_keys() -> None:
    transform = ScribbleByErosiond(
        ["seg", "other"],
        num_classes=2,
        supervision_key="kind",
        when=("full",),
        allow_missing_keys=True,
    )
    out = transform({"seg": BLOCK, "kind": "full"})
    np.testing.assert_array_equal(out["seg"], BLOCK_CORE)
    np.testing.assert_array_equal(transform({"seg": BLOCK})["seg"], BLOCK_CORE)
    assert transform({"seg": BLOCK, "kind": "partial"})["seg"] is BLOCK
    with pytest.raises(KeyError, match="label"):
        ScribbleByErosiond(num_classes=2)({"supervision": "partial"})


@pytest.mark.realdata
@pytest.mark.parametrize("rule", RULES)
def test_equals_loop_on_acdc(acdc_dir: Path, rule: str) -> None:
    nib = pytest.importorskip("nibabel")
    # Every ninth volume, so both phases; benchmarks/erosion.py does all of them.
    for file in sorted((acdc_dir / "label").glob("*.nii.gz"))[::9]:
        label = np.asarray(nib.load(file).dataobj)
        found = scribble_by_erosion(label, 4, rule)
        np.testing.assert_array_equal(found, slicewise(label, 4, rule), err_msg=file.name)


@pytest.mark.realdata
def test_acdc_hand_drawn_scribbles_pass_as_they_are(acdc_dir: Path) -> None:
    nib = pytest.importorskip("nibabel")
    file = sorted((acdc_dir / "scribble").glob("*.nii.gz"))[0]
    scribble = np.asarray(nib.load(file).dataobj)[None]
    item = {"label": scribble, "supervision": "partial"}
    assert ScribbleByErosiond(num_classes=4)(item)["label"] is scribble
