"""Labels and images brought to another grid, and predictions brought back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from mixseg.transforms import ResizeLabel, ResizeToSized, ResizeToSpacingd


def random_label(shape: tuple[int, ...], num_classes: int, seed: int = 0) -> Tensor:
    """Blobs of the classes 0…C−1, with unlabeled voxels (C) between them."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(1, num_classes + 1, *shape, generator=generator)
    pool = F.avg_pool3d if len(shape) == 3 else F.avg_pool2d
    return pool(scores, 3, 1, 1)[0].argmax(0, keepdim=True).to(torch.uint8)


def covered(label: Tensor, size: tuple[int, ...], num_classes: int) -> Tensor:
    """Part of each new voxel that each class covers: repeat to a common grid, average blocks."""
    shares = torch.stack([label[0] == c for c in range(num_classes)]).double()
    for axis, new in enumerate(size, start=1):
        old = shares.shape[axis]
        fine = shares.repeat_interleave(math.lcm(old, new) // old, dim=axis)
        shares = fine.unflatten(axis, (new, -1)).mean(axis + 1)
    return shares


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((12, 15), (4, 5)),
        ((13, 9), (6, 7)),
        ((5, 7), (8, 9)),
        ((9, 8), (4, 12)),
        ((9, 10, 7), (5, 7, 4)),
    ],
)
@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_class_that_covers_most_wins(
    shape: tuple[int, ...], size: tuple[int, ...], num_classes: int
) -> None:
    label = random_label(shape, num_classes)
    resized = ResizeLabel(num_classes)(label, size)
    assert resized.dtype == torch.uint8
    assert tuple(resized.shape) == (1, *size)
    shares = covered(label, size, num_classes)
    expected = torch.where(shares.sum(0) > 0, shares.argmax(0), num_classes)
    best = shares.topk(2, dim=0).values
    clear = (best[0] - best[1] > 1e-3) | (best[0] == 0)
    assert 0.3 < clear.double().mean() <= 1
    assert torch.equal(resized[0][clear].long(), expected[clear])
    # Where classes tie, it is one of those that tie.
    chosen = shares.gather(0, resized.long().clamp(max=num_classes - 1))[0]
    assert (best[0] - chosen <= 1e-3)[best[0] > 0].all()


@pytest.mark.parametrize(("shape", "size"), [((12, 15), (4, 5)), ((6, 8, 10), (2, 4, 5))])
def test_whole_factors_are_torchs_average_over_areas(
    shape: tuple[int, ...], size: tuple[int, ...]
) -> None:
    label = random_label(shape, 3, seed=1)
    maps = torch.stack([label[0] == c for c in range(3)]).float()
    shares = F.interpolate(maps[None], size=size, mode="area")[0]
    best = shares.topk(2, dim=0).values
    clear = best[0] > best[1]
    resized = ResizeLabel(3)(label, size)[0].long()
    assert torch.equal(resized[clear], shares.argmax(0)[clear])
    assert torch.equal(resized == 3, shares.sum(0) == 0)


def test_unlabeled_only_where_nothing_is_labeled() -> None:
    """And not by a rounding error where edges of old and new voxels coincide."""
    for old in (3, 7, 10, 29, 49, 60):
        for new in range(1, 80):
            place = old // 2
            label = torch.full((1, old), 2)
            label[0, place] = 1
            resized = ResizeLabel(2)(label[..., None], (new, 1))[0, :, 0]
            touched = [
                j for j in range(new) if j * old < (place + 1) * new and (j + 1) * old > place * new
            ]
            assert torch.nonzero(resized != 2).flatten().tolist() == touched, (old, new)


@pytest.mark.parametrize("size", [(50, 50), (77, 90), (150, 140)])
def test_strokes_stay_connected(size: tuple[int, int]) -> None:
    """A spiral one pixel wide; nearest neighbor breaks it."""
    turn = np.linspace(0, 6 * np.pi, 4000)
    place = (64 + 3 * turn * np.array([np.cos(turn), np.sin(turn)])).astype(int)
    label = np.full((1, 128, 128), 2, np.uint8)
    label[0, place[0], place[1]] = 1
    resized = ResizeLabel(2)(label, size)[0].numpy()
    parts = ndimage.label(resized == 1, np.ones((3, 3)))[1]
    nearest = F.interpolate(torch.from_numpy(label)[None], size=size, mode="nearest")[0, 0]
    broken = ndimage.label(nearest.numpy() == 1, np.ones((3, 3)))[1]
    assert parts == 1
    assert broken > 1 or min(size) > 128
    assert not (resized == 0).any()


def test_a_seed_of_one_voxel_survives_any_reduction() -> None:
    label = torch.full((1, 64, 64, 64), 2)
    label[0, 3, 50, 20] = 1
    resized = ResizeLabel(2)(label, (1, 2, 2))
    assert (resized == 1).sum() == 1
    assert (resized == 0).sum() == 0


@pytest.mark.parametrize("classes", [(0, 1), (1, 2), (0, 2)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_ties_favor_no_class(classes: tuple[int, int], axis: int) -> None:
    """A plane through the middle of new voxels: half of these go to either side."""
    low, high = classes
    label = torch.full((1, 12, 12, 12), low, dtype=torch.uint8)
    label.movedim(axis + 1, 0)[5:] = high
    for label_map in (label, low + high - label):
        resized = ResizeLabel(3)(label_map, (6, 6, 6))
        plane = resized.movedim(axis + 1, 0)[2]
        assert sorted(plane.unique().tolist()) == [low, high]
        assert (plane == high).sum() == (plane == low).sum() == 18


def test_volumes_are_kept_on_average() -> None:
    """Balls of three classes at random places, at a factor that is not whole."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:96, :96]
    ratios = []
    for _ in range(60):
        center, radius = generator.uniform(40, 56, 2), generator.uniform(12, 24)
        distance = np.hypot(y - center[0], x - center[1])
        label = ((distance < radius).astype(np.uint8) + (distance < radius / 2))[None]
        for size in ((48, 48), (71, 83)):
            resized = ResizeLabel(3)(label, size).numpy()
            factor = 96 * 96 / (size[0] * size[1])
            ratios.append([factor * (resized >= c).sum() / (label >= c).sum() for c in (1, 2)])
    # A vote rounds off a little of what is convex; half a pixel of the edge would be 5 % and more.
    assert np.abs(np.mean(ratios, axis=0) - 1).max() < 0.01


def test_metadata_and_unchanged_sizes() -> None:
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    label = MetaTensor(random_label((6, 7, 3), 2).float(), affine=affine)
    same = ResizeLabel(2)(label, (6, 7, 3))
    assert same.dtype == torch.uint8
    assert torch.equal(same.as_tensor(), label.as_tensor().to(torch.uint8))
    assert isinstance(ResizeLabel(2)(label, (3, 7, 3)), MetaTensor)
    assert torch.equal(ResizeLabel(2)(label, (3, 7, 3)).affine, label.affine)


def smooth(shape: tuple[int, ...], channels: int = 1) -> Tensor:
    """Waves longer than the voxels of any grid below."""
    axes = [torch.arange(side, dtype=torch.float64) / side for side in shape]
    waves = [
        sum(torch.cos(2 * math.pi * a + k) for a in torch.meshgrid(*axes, indexing="ij"))
        for k in range(channels)
    ]
    return torch.stack(waves).float()


CASES: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...]]] = {
    "longer side": (ResizeToSized("image", 64), (91, 57, 5), (64, 40, 5)),
    "both sides": (ResizeToSized("image", [48, 60]), (91, 57, 5), (48, 60, 5)),
    "larger": (ResizeToSized("image", 120), (57, 91, 3), (75, 120, 3)),
    "spacing": (ResizeToSpacingd("image", (1.5, 1.5, 3.0)), (41, 37, 29), (27, 31, 48)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_and_predictions_return_to_the_grid_before(name: str, channels: int) -> None:
    resize, shape, size = CASES[name]
    affine = torch.diag(torch.tensor([1.0, 1.25, 5.0, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([7.0, -3.0, 11.0])
    image = MetaTensor(smooth(shape, channels), affine=affine)
    transform = Compose([resize])
    item = transform({"image": image})
    assert tuple(item["image"].shape) == (channels, *size)
    # The corners of the volume stay where they are, in mm.
    for corner in ([-0.5, -0.5, -0.5], [side - 0.5 for side in shape]):
        place = [
            (c + 0.5) * new / old - 0.5 for c, new, old in zip(corner, size, shape, strict=True)
        ]
        before, after = (
            matrix @ torch.tensor([*position, 1.0], dtype=torch.float64)
            for matrix, position in ((affine, corner), (item["image"].affine, place))
        )
        torch.testing.assert_close(after, before, atol=1e-4, rtol=0)

    item["pred"] = MetaTensor(torch.cat([item["image"], 1 - item["image"]]).as_tensor())
    invert = Invertd("pred", transform=transform, orig_keys="image", nearest_interp=False)
    back = invert(item)["pred"]
    assert tuple(back.shape) == (2 * channels, *shape)
    torch.testing.assert_close(back.affine.double(), affine, atol=1e-4, rtol=0)
    inside = (slice(None), *[slice(s // 8, -(s // 8) or None) for s in shape])
    error = (back[:channels].as_tensor() - image.as_tensor())[inside].abs().max()
    assert error < 0.1
    torch.testing.assert_close(back[:channels] + back[channels:], torch.ones_like(back[:channels]))


def test_labels_follow_the_image() -> None:
    """To the same size, and to the same place: the centers of gravity agree."""
    distance = (smooth((60, 44, 6)) - smooth((60, 44, 6)).amin()) ** 2
    label = (distance > distance.mean()).to(torch.uint8)
    item = {"image": MetaTensor(label.float()), "label": label, "weak_label": label}
    out = ResizeToSized("image", 45, ["label", "weak_label", "absent"], 2)(item)
    assert out["label"].shape == out["image"].shape
    assert torch.equal(out["label"], out["weak_label"])
    assert item["label"].shape == label.shape  # the item given is not changed
    agree = (out["image"].as_tensor() > 0.5) == (out["label"] == 1)
    assert agree.double().mean() > 0.99


def test_an_image_without_a_spacing_counts_voxels() -> None:
    item = ResizeToSpacingd("image", (2.0, 2.0, 1.0))({"image": torch.rand(1, 9, 8, 7)})
    assert tuple(item["image"].shape) == (1, 4, 4, 7)
