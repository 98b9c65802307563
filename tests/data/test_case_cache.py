"""How VolumeDataset keeps its cases: types, the cache on disk, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, LoadImaged

from .places import CROP, UNLABELED, case, make, same

# --- types


def test_compact_types_in_memory() -> None:
    cases = [case("a"), case("b", (5, 6, 7)), case("c", labeled=False)]
    voxels = 9 * 8 * 7 * 2 + 5 * 6 * 7
    labeled = 9 * 8 * 7 + 5 * 6 * 7
    # 2 or 4 bytes a voxel, 1 for a label; a map that a case has not takes none.
    assert make(cases).cached_bytes == 2 * voxels + labeled
    assert make(cases, image_dtype="float32").cached_bytes == 4 * voxels + labeled


def test_half_precision_rounds_to_eleven_bits() -> None:
    image = np.random.default_rng(0).normal(size=(1, *CROP)).astype(np.float32)
    item = make([{"image": image}], flip_axes=(), rotate=False)[0]
    np.testing.assert_allclose(item["image"], image, rtol=2.0**-11)


# --- preparation


def test_transforms_run_once_a_case() -> None:
    calls = []

    def count(item: dict[str, Any]) -> dict[str, Any]:
        calls.append(item["case_id"])
        return item

    dataset = make([case("a"), case("b")], transform=count)
    for epoch in (1, 2):
        dataset.set_epoch(epoch)
        dataset.__getitems__([0, 1, 0])
    assert sorted(calls) == ["a", "b"]


def test_kind_is_given_or_read_from_the_values() -> None:
    partial = case("p", supervision=None)
    partial["label"] = partial["label"] * 0 + UNLABELED
    cases = [case("a", supervision=None), partial, case("n", labeled=False, supervision=None)]
    assert make([*cases, case("w", supervision="noisy")]).supervision == [
        "full",
        "partial",
        "none",
        "noisy",
    ]


def add_one(item: dict[str, Any]) -> dict[str, Any]:
    return item | {"image": item["image"] + 1}


def write_case(folder: Path) -> dict[str, Any]:
    array = np.random.default_rng(0).integers(0, 500, (9, 8, 7)).astype(np.int16)
    for name, values in (("image", array), ("label", (array > 250).astype(np.uint8))):
        nib.save(nib.Nifti1Image(values, np.eye(4)), folder / f"{name}.nii.gz")
    return {n: str(folder / f"{n}.nii.gz") for n in ("image", "label")} | {"case_id": "k/1"}


def load() -> Compose:
    return Compose([LoadImaged(["image", "label"], ensure_channel_first=True)])


def cache_files(folder: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*.npy")}


def test_disk_cache_is_used_again_until_something_changes(tmp_path: Path) -> None:
    item, cache = write_case(tmp_path), tmp_path / "cache"
    options: dict[str, Any] = {"cache_dir": cache, "flip_axes": (), "rotate": False}
    first = make([item], transform=load(), **options)
    assert first.cached_bytes == 0
    written = cache_files(cache)
    assert {p.name for p in written} == {"image.npy", "label.npy"}
    second = make([item], transform=load(), **options)
    assert cache_files(cache) == written
    assert same(first[0], second[0])
    # A wider type, another transform and another file make cases of their own.
    make([item], transform=load(), **options, image_dtype="float32")
    assert len(cache_files(cache)) == 4
    changed = make([item], transform=Compose([*load().transforms, add_one]), **options)
    assert len(cache_files(cache)) == 6
    assert torch.equal(changed[0]["image"], first[0]["image"] + 1)
    nib.save(nib.Nifti1Image(np.full((9, 8, 7), 3, np.int16), np.eye(4)), item["image"])
    renewed = make([item], transform=load(), **options)
    assert (renewed[0]["image"] == 3).all()


def test_damaged_disk_cache_is_made_again(tmp_path: Path) -> None:
    item, cache = write_case(tmp_path), tmp_path / "cache"
    before = make([item], transform=load(), cache_dir=cache)[0]
    stored = next(cache.rglob("image.npy"))
    stored.write_bytes(stored.read_bytes()[:-10])
    assert same(make([item], transform=load(), cache_dir=cache)[0], before)
    next(cache.rglob("case.json")).write_text("{")
    assert same(make([item], transform=load(), cache_dir=cache)[0], before)
    assert not [p for p in cache.iterdir() if p.name.startswith(".")]


def test_disk_cache_needs_transforms_that_can_be_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cache_dir needs transforms that can be pickled"):
        make([case("a")], transform=lambda item: item, cache_dir=tmp_path / "cache")


# --- errors


def fail(item: dict[str, Any]) -> dict[str, Any]:
    raise KeyError("the header has no origin")


def spoiled(**changes: Any) -> Callable[[], dict[str, Any]]:
    return lambda: case("bad") | changes


def with_value(value: float) -> dict[str, Any]:
    item = case("bad")
    item["image"][0, 1, 2, 3] = value
    return item


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda: with_value(np.nan), "bad: the image holds NaN or infinite values"),
        (lambda: with_value(-np.inf), "bad: the image holds NaN or infinite values"),
        (
            lambda: with_value(-70000.0),
            "bad: the image reaches 70000, more than float16 holds (65504); normalize it, or set "
            "image_dtype to 'float32'",
        ),
        (
            spoiled(image=np.zeros((2, 9, 8, 7), np.float32)),
            "bad: the image has 2 channels, that of good has 1",
        ),
        (
            spoiled(image=np.zeros((9, 8, 7), np.float32)),
            "bad: the image has shape (9, 8, 7) after the transforms; (channels, H, W, D) is "
            "expected",
        ),
        (
            spoiled(image=np.zeros((1, 9, 8, 7, 2), np.float32)),
            "bad: the image has shape (1, 9, 8, 7, 2) after the transforms; (channels, H, W, D) "
            "is expected",
        ),
        (
            spoiled(label=np.zeros((1, 9, 8, 6), np.uint8)),
            "bad: label has shape (1, 9, 8, 6), the image asks for (1, 9, 8, 7)",
        ),
        (
            spoiled(weak_label=np.full((1, 9, 8, 7), 255, np.uint8)),
            "bad: weak_label holds [255]; classes are 0 to 1, and 2 is unlabeled",
        ),
        (
            spoiled(label=np.full((1, 9, 8, 7), 0.5, np.float32)),
            "bad: label holds [0.5]; classes are 0 to 1, and 2 is unlabeled",
        ),
    ],
)
def test_errors_name_the_case(
    bad: Callable[[], dict[str, Any]], message: str, stored: dict[str, Any]
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        make([case("good"), bad()], **stored)
    assert str(caught.value) == message


def test_a_failing_transform_names_case_and_cause(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^a: the transforms fail: .*the header has no origin"):
        make([case("a")], transform=Compose([fail]))
    missing = {"image": str(tmp_path / "gone.nii.gz"), "case_id": "g"}
    with pytest.raises(RuntimeError, match=r"^g: the transforms fail: .*gone\.nii\.gz"):
        make([missing], transform=LoadImaged("image"))
