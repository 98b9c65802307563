"""SliceDataset against the volumes that it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, LoadImaged, RandFlipd
from torch.utils.data import default_collate

from mixseg.data import SliceDataset

UNLABELED = 2


def volume(case_id: str, depth: int, seed: int, **options: Any) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shape = (1, 4, 5, depth)
    item: dict[str, Any] = {"image": rng.normal(size=shape).astype(np.float32), "case_id": case_id}
    if options.pop("labeled", True):
        item["label"] = rng.integers(0, options.pop("labels", 2), shape).astype(np.uint8)
    return item | options


@pytest.fixture
def cases() -> list[dict[str, Any]]:
    return [
        volume("a", 3, 0, supervision="full"),
        volume("b", 2, 1, labels=3),
        volume("c", 4, 2, labeled=False),
        volume("d", 2, 3),
    ]


def make(cases: list[dict[str, Any]], **options: Any) -> SliceDataset:
    return SliceDataset(cases, progress=False, **options)


def test_items_are_the_slices_of_the_volumes(cases: list[dict[str, Any]]) -> None:
    dataset = make(cases)
    where = [(case, z) for case in cases for z in range(case["image"].shape[-1])]
    assert len(dataset) == len(where) == 11
    for item, (case, z) in zip((dataset[i] for i in range(11)), where, strict=True):
        np.testing.assert_array_equal(item["image"], case["image"][..., z])
        assert item["image"].dtype == torch.float32
        assert type(item["image"]) is torch.Tensor
        expected = case["label"][..., z] if "label" in case else np.full((1, 4, 5), UNLABELED)
        np.testing.assert_array_equal(item["label"], expected)
        assert item["label"].dtype == item["weak_label"].dtype == torch.uint8
        # no case has a weak label
        np.testing.assert_array_equal(item["weak_label"], np.full((1, 4, 5), UNLABELED))
        assert (item["case_id"], item["slice_index"]) == (case["case_id"], z)


def test_kind_is_given_or_read_from_the_values(cases: list[dict[str, Any]]) -> None:
    cases[0]["supervision"] = "noisy"  # what is declared wins
    assert make(cases).supervision == ["noisy"] * 3 + ["partial"] * 2 + ["none"] * 4 + ["full"] * 2


def test_value_of_unlabeled_is_the_number_of_classes(cases: list[dict[str, Any]]) -> None:
    dataset = make(cases, num_classes=4)
    assert (dataset[5]["label"] == 4).all()
    # With four classes, 2 is a class like any other: case b is fully labeled.
    assert dataset.supervision[3] == "full"


def test_files_are_read_by_the_transform(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(4, 5, 3)).astype(np.float32)
    label = (image > 0).astype(np.uint8)
    for name, array in (("image", image), ("label", label)):
        nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 5.0, 1.0])), tmp_path / f"{name}.nii.gz")
    case = {name: str(tmp_path / f"{name}.nii.gz") for name in ("image", "label")}
    dataset = make([case], transform=LoadImaged(["image", "label"], ensure_channel_first=True))
    assert dataset.case_ids == [case["image"]] * 3
    for z in range(3):
        np.testing.assert_array_equal(dataset[z]["image"][0], image[..., z])
        np.testing.assert_array_equal(dataset[z]["label"][0], label[..., z])


@pytest.mark.parametrize("augment", [False, True])
def test_batch_equals_collated_items(cases: list[dict[str, Any]], augment: bool) -> None:
    flip = RandFlipd(["image", "label", "weak_label"], prob=1.0, spatial_axis=1)
    dataset = make(cases, slice_transform=Compose([flip]) if augment else None)
    indices = [8, 0, 3, 0]
    batch = dataset.__getitems__(indices)
    if isinstance(batch, list):
        batch = default_collate(batch)
    expected = default_collate([dataset[i] for i in indices])
    assert batch.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(batch[key], value)
            assert batch[key].dtype == value.dtype
        else:
            assert batch[key] == value
    plain = torch.from_numpy(cases[0]["image"][..., 0])
    assert torch.equal(batch["image"][1], plain.flip(2) if augment else plain)


def test_random_transform_does_not_write_into_the_cache(cases: list[dict[str, Any]]) -> None:
    def erase(item: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        item["image"].zero_()
        return item

    dataset = make(cases, slice_transform=erase)
    assert (dataset[0]["image"] == 0).all()
    dataset.slice_transform = None
    np.testing.assert_array_equal(dataset[0]["image"], cases[0]["image"][..., 0])


def test_errors_name_the_case(cases: list[dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"^there is no case to train on$"):
        make([])
    cases[1]["image"][0, 1, 2, 1] = np.nan
    with pytest.raises(ValueError, match=r"^b: the image holds NaN or infinite values$"):
        make(cases)
    cases[1]["image"][0, 1, 2, 1] = np.inf
    with pytest.raises(ValueError, match=r"^b: the image holds NaN or infinite values$"):
        make(cases)
    wide = {"image": np.zeros((1, 4, 6, 2), np.float32), "case_id": "e"}
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        make([cases[0], wide])
    assert str(caught.value) == (
        "e: slices of (1, 4, 6) (channels, H, W) among slices of (1, 4, 5); "
        "crop or resize them to one size"
    )


def test_items_know_their_place_in_the_dataset(cases: list[dict[str, Any]]) -> None:
    dataset = make(cases)
    assert [dataset[i]["index"] for i in (0, 7)] == [0, 7]
    assert dataset.__getitems__([3, 9, 3])["index"].tolist() == [3, 9, 3]  # type: ignore[call-overload]
    flipped = make(cases, slice_transform=Compose([RandFlipd(["image", "label"], prob=1.0)]))
    assert [item["index"] for item in flipped.__getitems__([5, 1])] == [5, 1]  # type: ignore[union-attr]
