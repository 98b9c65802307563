"""Pictures (PNG, BMP) as two-dimensional images, from the folder to the batch."""

from __future__ import annotations

import json
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import CacheDataset
from monai.transforms import Compose, Resized
from PIL import Image

from mixseg.data import (
    Datalist,
    DatalistError,
    FolderOptions,
    MixedDataLoader,
    SliceDataset,
    check_cases,
    inspect_folder,
    list_images,
    prepare_folder,
    select_cases,
    split_cases,
)
from mixseg.data.checks import validate_datalist
from mixseg.files.reading import UnreadableError, count_values, open_volume
from mixseg.transforms import LoadVolumed

WIDTH, HEIGHT = 8, 6
LOAD = LoadVolumed(["image", "label"])


def colors(seed: int) -> np.ndarray:
    """(rows, columns, RGB)."""
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def mask(*values: int) -> np.ndarray:
    """One column of 6 pixels a value, at x = 1, 2, …"""
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    for place, value in enumerate(values):
        label[:, place + 1] = value
    return label


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def fill(root: Path, *values: int, count: int = 5) -> None:
    for i in range(count):
        save(root / "image" / f"{i:03d}.png", colors(i))
        save(root / "label" / f"{i:03d}.png", mask(*values))


def test_what_is_checked_is_what_is_loaded(tmp_path: Path) -> None:
    fill(tmp_path, 1, 2, count=1)
    files = {"image": str(tmp_path / "image/000.png"), "label": str(tmp_path / "label/000.png")}
    loaded = LOAD(files)
    image, label = open_volume(files["image"]), open_volume(files["label"])
    assert (image.shape, image.channels) == ((WIDTH, HEIGHT), 3)
    assert (label.shape, label.channels) == ((WIDTH, HEIGHT), 1)
    assert open_volume(files["image"], voxels=False).shape == (WIDTH, HEIGHT)
    assert image.data is not None
    np.testing.assert_array_equal(loaded["image"], np.moveaxis(image.data, -1, 0))
    # Axis 0 is x: pixel (x, y) of the file is row y, column x.
    assert loaded["image"][:, 5, 2].tolist() == colors(0)[2, 5].tolist()
    assert label.data is not None
    assert [int(value) for value in label.data[:, 0]] == [0, 1, 2, 0, 0, 0, 0, 0]


def test_flat_files_of_other_formats(tmp_path: Path) -> None:
    values = np.arange(20, dtype=np.uint8).reshape(5, 4)
    itk.imwrite(itk.image_from_array(values.T.copy()), str(tmp_path / "a.nrrd"))
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii.gz")
    for name in ("a.nrrd", "a.nii.gz"):
        opened = open_volume(tmp_path / name)
        assert (opened.shape, opened.channels, opened.affine.shape) == ((5, 4), 1, (4, 4))
        np.testing.assert_array_equal(opened.data, values)
    vector = np.random.default_rng(0).random((3, 4, 5, 3)).astype(np.float32)  # (z, y, x, part)
    itk.imwrite(itk.image_from_array(vector, is_vector=True), str(tmp_path / "v.nrrd"))
    opened = open_volume(tmp_path / "v.nrrd")
    assert (opened.shape, opened.channels) == ((5, 4, 3), 3)


def test_pictures_that_cannot_be_read(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8))
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    with pytest.raises(UnreadableError, match="ends before its last chunk"):
        open_volume(tmp_path / "a.png")
    Image.fromarray(mask(1)).convert("P").save(tmp_path / "p.png")
    assert open_volume(tmp_path / "p.png").palette


def test_count_values() -> None:
    label = np.array([[0, 3, 3], [-1, 0, 3]])
    assert count_values(label) == ({-1: 1, 0: 2, 3: 3}, None)
    assert count_values(label.astype(np.float32)) == ({-1: 1, 0: 2, 3: 3}, None)
    assert count_values(label * 10**6) == ({-(10**6): 1, 0: 2, 3 * 10**6: 3}, None)
    assert count_values(label / 4) == ({}, 0.75)
    assert np.isnan(count_values(np.array([0, np.nan]))[1])
    # More voxels than are counted at a time, not in the order of memory.
    large = np.tile(np.arange(5, dtype=np.uint8), (1 << 20, 1))[:, ::2]
    assert count_values(large) == ({0: 1 << 20, 2: 1 << 20, 4: 1 << 20}, None)


def test_gray_levels_are_mapped_into_png_copies(tmp_path: Path) -> None:
    fill(tmp_path, 128, 255)
    (fault,) = inspect_folder(tmp_path).faults
    assert 'background first: --values "0,128,255"; a value' in fault.fix
    names = ["background", "cytoplasm", "nucleus"]
    options = FolderOptions(values=[0, 128, 255], classes=names)
    datalist = prepare_folder(tmp_path, tmp_path / "out", options)
    assert datalist.classes == names
    for _, entry in datalist.items():
        copy = Image.open(tmp_path / "out" / str(entry.label))
        assert (copy.mode, copy.size) == ("L", (WIDTH, HEIGHT))
        np.testing.assert_array_equal(np.asarray(copy), mask(1, 2))
    assert [f for f in validate_datalist(datalist) if f.level == "error"] == []


def test_masks_stored_in_color_become_gray(tmp_path: Path) -> None:
    fill(tmp_path)
    for path in (tmp_path / "label").iterdir():
        save(path, np.stack([mask(1), mask(1), mask(1), np.full_like(mask(1), 255)], axis=-1))
    report = inspect_folder(tmp_path)
    assert report.notes == [
        "5 label files converted into copies (3 equal channels→1), such as 000.png"
    ]
    datalist = prepare_folder(tmp_path, tmp_path)
    copy = np.asarray(Image.open(tmp_path / str(datalist.training[0].label)))
    np.testing.assert_array_equal(copy, mask(1))


def test_a_photograph_beside_its_png_mask(tmp_path: Path) -> None:
    """The layout of the white blood cells as they are downloaded."""
    for i in range(3):
        save(tmp_path / f"{i:03d}.bmp", colors(i))
        save(tmp_path / f"{i:03d}.png", mask(128, 255))
    report = inspect_folder(tmp_path, FolderOptions(values=[0, 128, 255]))
    assert report.faults == []
    assert {case.pair.image.suffix for case in report.cases} == {".bmp"}
    assert {case.kind for case in report.cases} == {"full"}


def test_training_and_validation_read_pictures(tmp_path: Path) -> None:
    fill(tmp_path, 1, 2)
    save(tmp_path / "image" / "009.png", colors(9))
    save(tmp_path / "label" / "009.png", np.where(mask(1, 2) == 0, 3, mask(1, 2)).astype(np.uint8))
    names = {"train": ["000", "001", "002", "009"], "val": ["003"], "test": ["004"]}
    (tmp_path / "split.json").write_text(json.dumps(names))
    split = str(tmp_path / "split.json")
    options = FolderOptions(classes=["background", "a", "b"], unlabeled=3, split=split)
    prepare_folder(tmp_path, tmp_path, options)
    datalist = Datalist.load(tmp_path / "datalist.json")
    training = select_cases(datalist, None)
    validation = split_cases(datalist, None, "validation")
    checked = check_cases(training, validation, classes=3, spatial_dims=2)
    assert checked == []
    with pytest.raises(DatalistError, match="the image is 2D; 3D is expected"):
        check_cases(training, validation, classes=3, spatial_dims=3)

    dataset = SliceDataset(training, Compose([LOAD]), num_classes=3, progress=False)
    assert len(dataset) == 4
    for item, case in zip((dataset[i] for i in range(4)), training, strict=True):
        expected = np.asarray(Image.open(case["image"]))  # (y, x, RGB)
        np.testing.assert_array_equal(item["image"], np.transpose(expected, (2, 1, 0)))
        label = np.asarray(Image.open(case["label"]))
        np.testing.assert_array_equal(item["label"], label.T[None])
        assert item["label"].dtype == torch.uint8
        assert (item["case_id"], item["slice_index"]) == (case["case_id"], 0)
    loader = MixedDataLoader(dataset, batch_full=2, batch_partial=1, seed=0)
    batch = next(iter(loader))
    assert tuple(batch["image"].shape) == (3, 3, WIDTH, HEIGHT)
    (item,) = CacheDataset(validation, Compose([LOAD, Resized("image", (4, 4))]), progress=False)
    assert tuple(item["image"].shape) == (3, 4, 4)
    assert tuple(item["label"].shape) == (1, WIDTH, HEIGHT)


def test_gray_and_color_do_not_mix(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    save(tmp_path / "image" / "003.png", colors(3)[..., 0])
    (fault,) = inspect_folder(tmp_path).faults
    assert fault.file == str(tmp_path / "image" / "003.png")
    assert fault.problem == "the image is 2D with 1 channels, most others are 2D with 3"
    cases = [
        {"image": str(path), "case_id": path.stem, "supervision": "none"}
        for path in sorted((tmp_path / "image").iterdir())
    ]
    with pytest.raises(DatalistError, match=r"003\.png .*is 2D with 1 channel, that of 000 is 2D"):
        check_cases(cases, classes=2)


def test_pictures_are_listed_where_there_is_no_volume(tmp_path: Path) -> None:
    save(tmp_path / "b.png", colors(0))
    save(tmp_path / "a.JPG", colors(1))
    assert [item["case_id"] for item in list_images(tmp_path)] == ["a", "b"]
    (tmp_path / "scan.nii.gz").touch()  # beside a volume, pictures are previews
    assert [item["case_id"] for item in list_images(tmp_path)] == ["scan"]
