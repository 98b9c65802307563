"""VolumeDataset against plain slicing of the volumes that it was made of."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, LoadImaged, RandFlipd, RandGaussianNoised

from mixseg.data import MixedDataLoader, VolumeDataset
from mixseg.data.collections.la import prepare_la
from mixseg.data.subset import select_cases

from .places import CROP, UNLABELED, case, make, same


def plain(volume: np.ndarray, start: Any, crop: tuple[int, int, int] = CROP) -> np.ndarray:
    x, y, z = (int(v) for v in start)
    return volume[:, x : x + crop[0], y : y + crop[1], z : z + crop[2]]


# --- what a crop holds


def test_crop_is_the_slice_at_its_start(stored: dict[str, Any]) -> None:
    cases = [
        case("a"),
        case("b", (6, 11, 5), weak_label=np.ones((1, 6, 11, 5), np.uint8)),
        case("c", labeled=False, supervision="none"),
    ]
    dataset = make(cases, flip_axes=(), rotate=False, **stored)
    for _ in range(10):
        batch = dataset.__getitems__([2, 0, 1, 0])
        assert batch["image"].shape == (4, 1, *CROP)
        assert batch["image"].dtype == torch.float32
        assert batch["label"].dtype == batch["weak_label"].dtype == torch.uint8
        assert batch["case_id"] == ["c", "a", "b", "a"]
        assert batch["supervision"] == ["none", "full", "full", "full"]
        assert (batch["crop_start"].shape, batch["crop_start"].dtype) == ((4, 3), torch.int64)
        for i, of in enumerate((2, 0, 1, 0)):
            start = batch["crop_start"][i]
            np.testing.assert_array_equal(batch["image"][i], plain(cases[of]["image"], start))
            for key in ("label", "weak_label"):
                whole = cases[of].get(key)
                expected = np.full((1, *CROP), UNLABELED) if whole is None else plain(whole, start)
                np.testing.assert_array_equal(batch[key][i], expected)
    item = dataset[1]
    assert item["image"].shape == (1, *CROP)
    assert (item["case_id"], item["supervision"]) == ("b", "full")


def test_channels_are_kept(stored: dict[str, Any]) -> None:
    image = np.random.default_rng(0).normal(size=(3, 9, 8, 7)).astype(np.float32)
    dataset = make([{"image": image}], flip_axes=(), rotate=False, image_dtype="float32", **stored)
    item = dataset[0]
    np.testing.assert_array_equal(item["image"], plain(image, item["crop_start"]))
    assert dataset.supervision == ["none"]


@pytest.mark.parametrize(("flip_axes", "rotate"), [((0, 1), True), ((2,), False), ((), True)])
def test_image_and_labels_are_turned_alike_into_every_position(
    flip_axes: tuple[int, ...], rotate: bool, stored: dict[str, Any]
) -> None:
    cases = [case("a")]
    dataset = make(cases, flip_axes=flip_axes, rotate=rotate, **stored)
    seen: dict[bytes, int] = {}
    draws = 400
    for _ in range(draws):
        batch = dataset.__getitems__([0])
        crop = batch["image"][0].numpy()
        # Each voxel says where it was taken: the label must be the one of that place.
        index = crop.astype(int)
        np.testing.assert_array_equal(batch["label"][0], (index % 7 < 3))
        unturned = plain(cases[0]["image"], batch["crop_start"][0])
        positions = set()
        for k, flips in product(range(4) if rotate else [0], product([0, 1], repeat=3)):
            axes = [a for a in range(3) if flips[a] and a in flip_axes]
            turned = np.flip(np.rot90(unturned, k, axes=(1, 2)), [a + 1 for a in axes])
            positions.add(turned.tobytes())
        assert crop.tobytes() in positions
        # The position, apart from where the crop lies.
        relative = np.argsort(np.argsort(crop.ravel(), kind="stable"), kind="stable")
        seen[relative.tobytes()] = seen.get(relative.tobytes(), 0) + 1
    group = {((0, 1), True): 8, ((2,), False): 2, ((), True): 4}[(flip_axes, rotate)]
    assert len(seen) == group
    # Uniform: each count within five standard deviations of draws / group.
    expected, deviation = draws / group, np.sqrt(draws * (group - 1)) / group
    assert max(abs(count - expected) for count in seen.values()) < 5 * deviation


def test_starts_are_uniform_over_all_places() -> None:
    dataset = make([case("a", (6, 7, 4))], flip_axes=(), rotate=False)
    places = 3 * 4 * 2
    counts = np.zeros((3, 4, 2))
    for _ in range(200):
        for start in dataset.__getitems__([0] * 12)["crop_start"].numpy():
            counts[tuple(start)] += 1
    chi2 = ((counts - 2400 / places) ** 2 / (2400 / places)).sum()
    # 23 degrees of freedom: 99.9 % of uniform draws stay below 49.7.
    assert chi2 < 49.7


def test_padding_is_symmetric_and_teaches_nothing(stored: dict[str, Any]) -> None:
    small = case("small", (2, 8, 2))
    small["image"] += 1  # no voxel of the scan is 0
    dataset = make([small], crop_size=(5, 5, 5), flip_axes=(), rotate=False, **stored)
    for _ in range(5):
        item = dataset.__getitems__([0])
        x, y, z = item["crop_start"][0].tolist()
        # 5 − 2 = 3 voxels are missing: 1 before and 2 behind.
        assert (x, z) == (-1, -1)
        expected, label = np.zeros((1, 5, 5, 5)), np.full((1, 5, 5, 5), UNLABELED)
        expected[:, 1:3, :, 1:3] = small["image"][:, :, y : y + 5, :]
        label[:, 1:3, :, 1:3] = small["label"][:, :, y : y + 5, :]
        np.testing.assert_array_equal(item["image"][0], expected)
        np.testing.assert_array_equal(item["label"][0], label)
    turned = make([small], crop_size=(5, 5, 5), **stored).__getitems__([0])
    assert int((turned["label"] != UNLABELED).sum()) == 2 * 5 * 2


# --- which crops are drawn


def draws(dataset: VolumeDataset, epoch: int, batches: int = 4) -> list[dict[str, Any]]:
    dataset.set_epoch(epoch)
    return [dataset.__getitems__([0, 1, 0]) for _ in range(batches)]


def test_an_epoch_draws_the_same_again_and_another_one_others(stored: dict[str, Any]) -> None:
    noise = Compose([RandGaussianNoised("image", prob=1.0)])
    dataset = make([case("a"), case("b")], random_transform=noise, **stored)
    first, other = draws(dataset, 1), draws(dataset, 2)
    for a, b in zip(first, draws(dataset, 1), strict=True):
        assert same(a, b)
    seeded = make([case("a"), case("b")], random_transform=noise, seed=1)
    for changed in (other, draws(seeded, 1)):
        assert not any(same(a, b) for a, b in zip(first, changed, strict=True))


def test_batches_of_the_same_cases_differ_and_so_do_repetitions() -> None:
    dataset = make([case("a", (40, 5, 5)), case("b")])
    found = draws(dataset, 1, batches=8)
    starts = {tuple(batch["crop_start"][0].tolist()) for batch in found}
    assert len(starts) > 1
    assert any(not torch.equal(b["crop_start"][0], b["crop_start"][2]) for b in found)


def test_a_case_draws_the_same_whatever_else_is_in_its_batch() -> None:
    cases = [case(name) for name in "abcd"]
    together, apart = make(cases), make(cases)
    for _ in range(3):
        whole, part = together.__getitems__([0, 1, 2, 3]), apart.__getitems__([3, 1])
        assert torch.equal(whole["image"][[3, 1]], part["image"])
        assert torch.equal(whole["crop_start"][[3, 1]], part["crop_start"])


@pytest.mark.parametrize("random_transform", [None, "noise"])
def test_number_of_workers_does_not_matter(random_transform: str | None) -> None:
    cases = [case(str(i), supervision="full" if i < 2 else "partial") for i in range(5)]
    noise = Compose([RandGaussianNoised("image", prob=0.5)]) if random_transform else None
    epochs = []
    for workers in (0, 2):
        dataset = make(cases, random_transform=noise)
        loader = MixedDataLoader(
            dataset, batch_full=1, batch_partial=2, epoch_length=5, num_workers=workers
        )
        batches = []
        for epoch in (1, 2):
            loader.set_epoch(epoch)
            batches += list(loader)
        epochs.append(batches)
    assert len(epochs[0]) == 10
    for a, b in zip(*epochs, strict=True):
        assert same(a, b)
    assert epochs[0][0]["supervision"] == ["full", "partial", "partial"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_cuts_the_same_crops_and_refuses_workers(tmp_path: Path) -> None:
    cases = [case("a"), case("small", (2, 8, 2)), case("c", labeled=False)]
    expected = make(cases).__getitems__([0, 1, 2, 0])
    for cache_dir in (None, tmp_path):
        dataset = make(cases, device="cuda", cache_dir=cache_dir)
        batch = dataset.__getitems__([0, 1, 2, 0])
        assert batch["image"].device.type == batch["label"].device.type == "cuda"
        on_cpu = {k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        assert same(on_cpu, expected)
    loader = MixedDataLoader(make(cases, device="cuda"), 1, 0, num_workers=1)
    with pytest.raises(RuntimeError, match="set num_workers to 0"):
        next(iter(loader))


# --- random transforms


def test_random_transform_sees_the_crop_and_does_not_reach_the_cache() -> None:
    shapes = []

    def erase(item: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        shapes.append({key: (tuple(t.shape), t.dtype) for key, t in item.items()})
        item["image"].zero_()
        return item

    dataset = make([case("a")], random_transform=erase, label_keys=("label",))
    assert (dataset[0]["image"] == 0).all()
    assert shapes == [{"image": ((1, *CROP), torch.float32), "label": ((1, *CROP), torch.uint8)}]
    dataset.random_transform = None
    assert (dataset[0]["image"] != 0).any()


def test_random_transform_keeps_the_size() -> None:
    def shrink(item: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return item | {"image": item["image"][:, 1:]}

    dataset = make([case("a")], random_transform=shrink)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        dataset[0]
    assert str(caught.value) == (
        "a: random_transform makes image (1, 3, 4, 3) out of (1, 4, 4, 3); crops must keep their "
        "size"
    )


# --- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_size": (4, 4)}, r"crop_size needs three sizes of at least 1, got \[4, 4\]"),
        ({"crop_size": (4, 4, 0)}, r"crop_size needs three sizes of at least 1, got \[4, 4, 0\]"),
        (
            {"crop_size": (4, 3, 4)},
            r"needs equal first two sizes, got crop_size \[4, 3, 4\]: .* set rotate to false",
        ),
        ({"flip_axes": (0, 3)}, r"flip_axes holds spatial axes 0, 1 and 2, got \[0, 3\]"),
        ({"image_dtype": "int8"}, r"image_dtype must be one of \['float16', 'float32'\]"),
        (
            {"transform": Compose([RandFlipd("image")])},
            r"RandFlipd in transform would draw only once",
        ),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make([case("a")], **options)
    with pytest.raises(ValueError, match=r"^there is no case to train on$"):
        make([])


def test_unequal_sides_are_allowed_without_rotation() -> None:
    assert make([case("a")], crop_size=(4, 3, 5), rotate=False)[0]["image"].shape == (1, 4, 3, 5)


# --- real scans


@pytest.mark.realdata
def test_real_scans(la_dir: Path, tmp_path: Path) -> None:
    cases = select_cases(prepare_la(la_dir), None, num_full=1, num_partial=1)
    for item in cases:
        item["supervision"] = "full"
    transform = Compose([LoadImaged(["image", "label"], ensure_channel_first=True)])
    crop = (112, 112, 80)
    volumes = [nib.load(item["image"]).get_fdata() for item in cases]
    labels = [np.asarray(nib.load(item["label"]).dataobj) for item in cases]
    memory = make(cases, transform=transform, crop_size=crop, flip_axes=(), rotate=False)
    disk = make(
        cases, transform=transform, crop_size=crop, flip_axes=(), rotate=False, cache_dir=tmp_path
    )
    # 2 bytes of image and 1 of label a voxel; there is no weak label.
    assert memory.cached_bytes == 3 * sum(volume.size for volume in volumes)
    batch = memory.__getitems__([1, 0])
    assert same(batch, disk.__getitems__([1, 0]))
    for i, of in enumerate((1, 0)):
        start = batch["crop_start"][i]
        expected = plain(volumes[of][None], start, crop)
        np.testing.assert_array_equal(batch["image"][i], expected)  # whole numbers below 2048
        np.testing.assert_array_equal(batch["label"][i], plain(labels[of][None], start, crop))
