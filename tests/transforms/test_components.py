"""Most probable components: hand-made cases, and a transcription that walks voxel by voxel."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch
from monai.transforms import KeepLargestConnectedComponent

from mixseg.transforms import KeepMostProbableComponent, KeepMostProbableComponentd


def reference(probabilities: np.ndarray) -> np.ndarray:
    """Label map (*spatial), by flood filling in float64."""
    labels = probabilities.argmax(axis=0)
    out = np.zeros_like(labels)
    for value in range(1, len(probabilities)):
        left = {tuple(int(i) for i in voxel) for voxel in np.argwhere(labels == value)}
        best: tuple[float, set[tuple[int, ...]]] = (-1.0, set())
        for start in sorted(left):
            if start not in left:
                continue
            part, front = set(), [start]
            left.discard(start)
            while front:
                voxel = front.pop()
                part.add(voxel)
                for step in product((-1, 0, 1), repeat=labels.ndim):
                    other = tuple(a + b for a, b in zip(voxel, step, strict=True))
                    if other in left:
                        left.discard(other)
                        front.append(other)
            weight = sum(float(np.float64(probabilities[(value, *voxel)])) for voxel in part)
            best = max(best, (weight, part), key=lambda pair: pair[0])
        for voxel in best[1]:
            out[voxel] = value
    return out


def two_classes(foreground: Any) -> np.ndarray:
    array = np.array(foreground, dtype=np.float32)
    return np.stack([1 - array, array])


def random_probabilities(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=shape)
    return (np.exp(logits) / np.exp(logits).sum(axis=0)).astype(np.float32)


# Four voxels of 0.55 (2.2 in all) beside three of 0.9 (2.7).
WIDE_AND_SURE = two_classes(
    [
        [0.55, 0.55, 0.0, 0.0, 0.0],
        [0.55, 0.55, 0.0, 0.9, 0.0],
        [0.00, 0.00, 0.0, 0.9, 0.9],
    ]
)


def test_the_surer_component_is_kept_where_the_wider_one_would_be() -> None:
    labels = WIDE_AND_SURE.argmax(axis=0)
    kept = KeepMostProbableComponent()(WIDE_AND_SURE)
    expected = np.array([[0, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1]])
    np.testing.assert_array_equal(kept, expected[None])
    assert kept.dtype == np.uint8
    # A copy: MONAI removes in place.
    widest = KeepLargestConnectedComponent([1])(torch.tensor(labels)[None]).numpy()
    np.testing.assert_array_equal(widest[0], labels - expected)


@pytest.mark.parametrize("depth", [None, 3])
def test_neighbors_across_corners_belong_together(depth: int | None) -> None:
    foreground = np.zeros((3, 4) if depth is None else (3, 4, depth), dtype=np.float32)
    foreground[(0, 0) if depth is None else (0, 0, 0)] = 0.6
    foreground[(1, 1) if depth is None else (1, 1, 1)] = 0.6  # 1.2 with the one before
    foreground[(1, 3) if depth is None else (1, 3, 1)] = 1.0
    kept = KeepMostProbableComponent()(two_classes(foreground))[0]
    np.testing.assert_array_equal(kept, foreground == np.float32(0.6))


def test_each_class_keeps_one_and_absent_ones_stay_absent() -> None:
    """Class 1 has two components, class 2 none, class 3 one; what goes becomes background."""
    probabilities = np.zeros((4, 1, 6), dtype=np.float32)
    probabilities[0] = 0.1
    probabilities[1, 0, :2] = 0.4
    probabilities[1, 0, 5] = 0.9
    probabilities[2] = 0.2
    probabilities[3, 0, 2:4] = 0.6
    labels = KeepMostProbableComponent()(probabilities)
    # Position 4: the background has 0.1, class 2 has 0.2: a component of its own, its only one.
    np.testing.assert_array_equal(labels, [[[0, 0, 3, 3, 2, 1]]])
    probabilities[2] = 0.05
    labels = KeepMostProbableComponent()(probabilities)
    np.testing.assert_array_equal(labels, [[[0, 0, 3, 3, 0, 1]]])


def test_background_alone_and_equal_weights() -> None:
    np.testing.assert_array_equal(
        KeepMostProbableComponent()(two_classes([[0.1, 0.5, 0.2]])), [[[0, 0, 0]]]
    )
    # The first in array order of two that weigh the same.
    np.testing.assert_array_equal(
        KeepMostProbableComponent()(two_classes([[0.75, 0.0, 0.75]])), [[[1, 0, 0]]]
    )


@pytest.mark.parametrize("shape", [(2, 9, 11), (4, 9, 11), (2, 6, 7, 5), (4, 6, 7, 5)])
@pytest.mark.parametrize("seed", range(5))
def test_equals_flood_filling(shape: tuple[int, ...], seed: int) -> None:
    probabilities = random_probabilities(seed, shape)
    expected = reference(probabilities)
    np.testing.assert_array_equal(KeepMostProbableComponent()(probabilities)[0], expected)
    # The sum of two networks' probabilities is not a distribution; a factor changes nothing.
    np.testing.assert_array_equal(KeepMostProbableComponent()(2 * probabilities)[0], expected)


@pytest.mark.parametrize("shape", [(3, 9, 11), (4, 6, 7, 5)])
@pytest.mark.parametrize("seed", range(5))
def test_cleaned_probabilities(shape: tuple[int, ...], seed: int) -> None:
    probabilities = random_probabilities(seed, shape)
    before = probabilities.copy()
    cleaned = KeepMostProbableComponent(output="probabilities")(probabilities)
    np.testing.assert_array_equal(probabilities, before)
    assert cleaned.dtype == np.float32
    labels = reference(probabilities)
    np.testing.assert_array_equal(cleaned.argmax(axis=0), labels)
    np.testing.assert_allclose(cleaned.sum(axis=0), 1, rtol=1e-6)
    unchanged = labels == probabilities.argmax(axis=0)
    assert not unchanged.all()
    np.testing.assert_array_equal(cleaned[:, unchanged], probabilities[:, unchanged])
    # Where a class was removed: its probability is the background's, the others keep theirs.
    for index in np.argwhere(~unchanged):
        voxel = tuple(index)
        old = probabilities[(slice(None), *voxel)]
        expected = old.copy()
        expected[0] += old[old.argmax()]
        expected[old.argmax()] = 0
        np.testing.assert_array_equal(cleaned[(slice(None), *voxel)], expected)


def test_a_tie_with_another_class_goes_to_the_background() -> None:
    probabilities = np.zeros((3, 1, 4), dtype=np.float32)
    probabilities[1:, 0, 0] = 0.5  # class 1, the first of equals, and to be removed
    probabilities[0, 0, 1:3] = 1
    probabilities[1, 0, 3] = 1
    for output in ("labels", "probabilities"):
        kept = KeepMostProbableComponent(output)(probabilities)
        labels = kept[0] if output == "labels" else kept.argmax(axis=0)
        np.testing.assert_array_equal(labels, [[0, 0, 0, 1]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("output", ["labels", "probabilities"])
def test_tensors_keep_container_dtype_and_metadata(output: str, dtype: torch.dtype) -> None:
    affine = torch.diag(torch.tensor([0.5, 2.0, 3.0, 1.0], dtype=torch.float64))
    volume = torch.from_numpy(WIDE_AND_SURE)[..., None].to(dtype)
    tensor = MetaTensor(volume, affine=affine, meta={"filename_or_obj": "a.nii.gz"})
    kept = KeepMostProbableComponent(output)(tensor)
    assert isinstance(kept, MetaTensor)
    assert kept.meta["filename_or_obj"] == "a.nii.gz"
    torch.testing.assert_close(kept.affine, affine)
    assert kept.dtype == (torch.uint8 if output == "labels" else dtype)
    assert type(KeepMostProbableComponent(output)(volume)) is torch.Tensor
    torch.testing.assert_close(
        kept.as_tensor(), KeepMostProbableComponent(output)(volume), rtol=0, atol=0
    )


@pytest.mark.parametrize("output", ["labels", "probabilities"])
def test_a_decollated_batch_equals_one_by_one(output: str) -> None:
    """The evaluator's postprocessing: each item and each branch by itself."""
    items = [torch.from_numpy(random_probabilities(seed, (3, 6, 7, 4))) for seed in range(4)]
    batch = {"teacher": torch.stack(items), "student": torch.stack(items[::-1])}
    transform = KeepMostProbableComponentd(["teacher", "student"], output=output)
    done = [transform(item) for item in decollate_batch(batch)]
    alone = [KeepMostProbableComponent(output)(item) for item in items]
    for index, item in enumerate(done):
        torch.testing.assert_close(item["teacher"], alone[index], rtol=0, atol=0)
        torch.testing.assert_close(item["student"], alone[-1 - index], rtol=0, atol=0)


def test_missing_keys() -> None:
    item = {"student": WIDE_AND_SURE}
    with pytest.raises(KeyError, match="teacher"):
        KeepMostProbableComponentd(["teacher", "student"])(item)
    passed = KeepMostProbableComponentd(["teacher", "student"], allow_missing_keys=True)(item)
    assert sorted(passed) == ["student"]
    assert item["student"] is WIDE_AND_SURE


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"^output must be one of .*, got 'mask'$"):
        KeepMostProbableComponent("mask")
    for shape in ((1, 4, 4), (2, 4), (2, 1, 4, 4, 4)):
        with pytest.raises(ValueError, match=r"^probabilities must have the shape .* got \("):
            KeepMostProbableComponent()(np.zeros(shape))
