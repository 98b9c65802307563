"""Folders, options and files beside the data that cannot be followed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mixseg.data import DatalistError, FolderOptions, inspect_folder

from .made import image, mask, save


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """``images/`` and ``labels/`` of five sound cases with the classes 0, 1 and 2."""
    for i in range(5):
        save(tmp_path / "images" / f"c{i}.nii.gz", image(i))
        save(tmp_path / "labels" / f"c{i}.nii.gz", mask(1, 2))
    return tmp_path


def test_folders_without_anything_to_read(tmp_path: Path) -> None:
    with pytest.raises(DatalistError, match=r"gone' does not exist; give the folder"):
        inspect_folder(tmp_path / "gone")
    with pytest.raises(DatalistError, match=r"holds no image \(\.nii, .*\): it is empty"):
        inspect_folder(tmp_path)
    for name in ("a.npy", "b.npy", "c.txt"):
        (tmp_path / name).touch()
    with pytest.raises(DatalistError, match=r"holds no image .*, but 2 \.npy, 1 \.txt: convert"):
        inspect_folder(tmp_path)


@pytest.mark.parametrize("twice", [True, False])
def test_one_folder_without_suffixes(root: Path, twice: bool) -> None:
    """Images folder equals labels folder, and no name tells which is which."""
    folder = root / "images"
    faults = inspect_folder(folder, FolderOptions(labels=folder if twice else None)).faults
    (fault,) = faults
    assert fault.file == str(folder)
    assert fault.problem == "no file in it is named as a label"
    assert "name labels such as a_mask.nii.gz beside a.nii.gz" in fault.fix


def test_dataset_json_that_cannot_be_followed(root: Path) -> None:
    file = root / "dataset.json"
    file.write_text("{")
    with pytest.raises(DatalistError, match=r"dataset\.json is not valid JSON: "):
        inspect_folder(root)
    file.write_text(json.dumps({"labels": {"background": 0, "whole": [1, 2], "core": 2}}))
    with pytest.raises(DatalistError, match="regions of several classes are not read here"):
        inspect_folder(root)
    entries = [{"image": "images/c0.nii.gz", "label": "labels/gone.nii.gz"}, {"label": "x"}]
    file.write_text(json.dumps({"training": entries}))
    faults = [str(fault) for fault in inspect_folder(root).faults]
    assert faults[0].startswith(f"{root / 'labels' / 'gone.nii.gz'}: the file is missing")
    assert faults[1].startswith(f"{file}: training[1] names no 'image'")
    entries = [{"image": f"images/c{i}.nii.gz", "lable": f"labels/c{i}.nii.gz"} for i in range(2)]
    file.write_text(json.dumps({"training": entries}))
    (fault,) = inspect_folder(root).faults
    assert fault.problem == "training[0], training[1] has the key 'lable', but no 'label'"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"lables": {"bg": 0, "a": 1}}, "has the key 'lables', but no 'labels': rename it"),
        ({"Training": []}, "has the key 'Training', but no 'training': rename it"),
        ({"training": {"image": "a"}}, "its 'training' is not a list"),
        ({"labels": ["bg", "a"]}, "'labels' is not an object"),
        ({"labels": {"bg": 0, "a": 1.5}}, "values that are not class numbers"),
        ({"labels": {"bg": 0, "a": True}}, "values that are not class numbers"),
        ({"labels": {"0": "bg", "1": None}}, "classes without a name"),
        ({"labels": {"0": "bg", "1": ["a"]}}, "classes without a name"),
    ],
)
def test_a_dataset_json_that_means_something_else(
    root: Path, content: dict[str, Any], message: str
) -> None:
    (root / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DatalistError, match=message):
        inspect_folder(root)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["bg", "a"], "values": [0, 1, 2]}, "names 2 classes and --values 3 values"),
        ({"values": [0, 1, 1]}, "--values names a value twice"),
        ({"unlabeled": 0}, "0 cannot be the unlabeled value of full masks"),
        ({"classes": ["bg", "a", "b"], "unlabeled": 2}, "2 is the value of a class"),
        ({"classes": ["bg"]}, "1 classes; 2 to 255 are possible"),
        ({"patient_pattern": "c."}, r"has no group: put the patient in parentheses"),
        ({"patient_pattern": "(c"}, "is not a regular expression"),
        ({"split": "70/10/10"}, "add up to 90; give three that add up to 100, such as 70/10/20"),
        ({"split": "80/0/20"}, "training and validation need a share"),
        ({"split": "gone.json"}, "nor percentages such as 70/10/20 nor a file"),
    ],
)
def test_options_that_cannot_be(root: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message) if "(" in message else message):
        inspect_folder(root, FolderOptions(**options))


def test_split_files_that_cannot_be(root: Path) -> None:
    file = root / "split.json"
    file.write_text(json.dumps([{"train": ["c0"], "val": ["c1", "c9"]}]))
    (fault,) = inspect_folder(root, FolderOptions(split=str(file))).faults
    assert fault.problem == "'c9' of its validation split is neither a case nor a patient here"
    with pytest.raises(DatalistError, match="has 1 folds, none with number 3"):
        inspect_folder(root, FolderOptions(split=f"{file}:3"))
    file.write_text(json.dumps({"train": ["c0", "c1"], "val": ["c1"]}))
    (fault,) = inspect_folder(root, FolderOptions(split=str(file))).faults
    assert fault.problem == "'c1' is in two splits, training and validation"
    file.write_text(json.dumps({"train": ["c0"], "val": ["c1"], "tets": ["c2"]}))
    with pytest.raises(DatalistError, match=r"has the list 'tets', .* is 'test' meant"):
        inspect_folder(root, FolderOptions(split=str(file)))
    file.write_text(json.dumps({"train": ["c0"], "val": ["c1"], "validation": ["c2"]}))
    with pytest.raises(DatalistError, match=r"names a split twice \(train, val, validation\)"):
        inspect_folder(root, FolderOptions(split=str(file)))
    file.write_text(json.dumps({"train": ["c0"], "val": ["c1"]}))
    with pytest.raises(DatalistError, match=r"has no folds but one split: give it without ':3'"):
        inspect_folder(root, FolderOptions(split=f"{file}:3"))
    file.write_text(json.dumps({"train": [], "val": ["c1"]}))
    (fault,) = inspect_folder(root, FolderOptions(split=str(file))).faults
    assert fault.problem == "its training split is empty"
    file.write_text(json.dumps({"train": ["c0", "x", "y", 3], "val": ["c1"]}))
    (fault,) = inspect_folder(root, FolderOptions(split=str(file))).faults
    assert fault.problem.startswith("'x', 'y', '3' of its training split are neither cases nor")
    file.write_text(json.dumps({"train": "c0"}))
    with pytest.raises(DatalistError, match="needs the lists 'train', 'val' and 'test'"):
        inspect_folder(root, FolderOptions(split=str(file)))
    file.write_text(json.dumps({"train": ["c0"], "val": ["c1"]}))
    save(root / "labels" / "c1.nii.gz", np.where(mask(1) == 0, 3, mask(1)).astype(np.uint8))
    options = FolderOptions(split=str(file), classes=["bg", "a", "b"], unlabeled=3)
    (fault,) = inspect_folder(root, options).faults
    assert fault.problem == "the validation case has no full mask"


def test_color_masks_and_lossy_masks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for i in range(3):
        picture = rng.integers(0, 255, (8, 7, 3)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / "images" / f"c{i}.png")
        Image.fromarray(picture).save(tmp_path / "labels" / f"c{i}.{'jpg' if i == 2 else 'png'}")
    Image.fromarray(picture[..., 0]).convert("P").save(tmp_path / "images" / "c1.png")
    faults = {
        Path(f.file).relative_to(tmp_path).as_posix(): f for f in inspect_folder(tmp_path).faults
    }
    assert "it is a color image of 3 channels" in faults["labels/c0.png"].problem
    assert faults["labels/c2.jpg"].problem == "the label is a JPEG file, whose values are not exact"
    assert "the image is a palette picture" in faults["images/c1.png"].problem
