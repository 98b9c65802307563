"""Broken folders: each is refused or repaired with a message that names the file and the fix."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from mixseg.data import DatalistError, FolderOptions, inspect_folder, prepare_folder

from .made import SHAPE, image, mask, save


def _strokes() -> np.ndarray:
    """15 voxels of background, 3 of class 1, 3 of class 2, 69 of 90 (77 %) unlabeled."""
    label = np.full(SHAPE, 3, np.uint8)
    label[0], label[1, 0], label[2, 0] = 0, 1, 2
    return label


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """``images/`` and ``labels/`` of five sound cases with the classes 0, 1 and 2."""
    for i in range(5):
        save(tmp_path / "images" / f"c{i}.nii.gz", image(i))
        save(tmp_path / "labels" / f"c{i}.nii.gz", mask(1, 2))
    return tmp_path


@dataclass
class Broken:
    """What is done to the folder, what is said about which file, and what is stated."""

    name: str
    damage: Callable[[Path], object]
    file: str
    problem: str
    fix: str
    options: dict[str, Any] = field(default_factory=dict)


def _save_image(**change: Any) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        shape = change.get("shape", SHAPE)
        values = image(9, shape).astype(change.get("dtype", np.int16))
        if "value" in change:
            values[0] = change["value"]
        save(root / "images" / "c2.nii.gz", values)

    return damage


def _save_label(label: np.ndarray, affine: np.ndarray | None = None) -> Callable[[Path], None]:
    return lambda root: save(root / "labels" / "c2.nii.gz", label, affine)


def _truncate(path: str) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        file = root / path
        noise = np.random.default_rng(0).integers(0, 2, (30, 30, 30)).astype(np.uint8)
        save(file, noise)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return damage


def _split_file(root: Path) -> None:
    names = {"train": ["c0_a", "c1", "c2", "c3"], "val": ["c4"], "test": ["c0_b"]}
    (root / "split.json").write_text(json.dumps(names))
    for name in ("images", "labels"):
        (root / name / "c0.nii.gz").rename(root / name / "c0_a.nii.gz")
        save(root / name / "c0_b.nii.gz", image(8) if name == "images" else mask(1, 2))


def _all(label: np.ndarray) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        for path in (root / "labels").iterdir():
            save(path, label)

    return damage


def _nnunet_patient(root: Path) -> None:
    """``c0`` has a frame to train on and one that is held out."""
    (root / "images").rename(root / "imagesTr")
    (root / "labels").rename(root / "labelsTr")
    for path in sorted((root / "imagesTr").iterdir()):
        path.rename(path.with_name(path.name.replace(".nii", "_f1_0000.nii")))
    for path in sorted((root / "labelsTr").iterdir()):
        path.rename(path.with_name(path.name.replace(".nii", "_f1.nii")))
    save(root / "imagesTs" / "c0_f2_0000.nii.gz", image(7))
    save(root / "labelsTs" / "c0_f2.nii.gz", mask(1, 2))


CASES = [
    Broken(
        "a case twice",
        lambda root: save(root / "images" / "c2.nii", image(9)),
        "images/c2.nii.gz",
        "the case is there twice, also as '{root}/images/c2.nii'",
        "keep one of the files",
    ),
    Broken(
        "an image without its label",
        lambda root: (root / "labels" / "c2.nii.gz").unlink(),
        "images/c2.nii.gz",
        "the image has no label",
        "add its label, or give --allow-unlabeled",
    ),
    Broken(
        "a label without its image",
        lambda root: (root / "images" / "c2.nii.gz").unlink(),
        "labels/c2.nii.gz",
        "the label has no image",
        "add its image, or remove the label",
    ),
    Broken(
        "a label of another shape",
        _save_label(np.zeros((6, 5, 4), np.uint8)),
        "labels/c2.nii.gz",
        "the label's shape (6, 5, 4) is not the image's (6, 5, 3)",
        "resample the label",
    ),
    Broken(
        "a label at another place",
        _save_label(mask(1, 2), np.diag([1.0, 1.0, 2.5, 1.0])),
        "labels/c2.nii.gz",
        "the label's affine differs from the image's by up to 1.5 mm",
        "copy the image's header to the label if the grids are truly the same",
    ),
    Broken(
        "two labels for an image",
        lambda root: save(root / "labels" / "c2_seg.nii.gz", mask(1, 2)),
        "labels/c2_seg.nii.gz",
        "'{root}/images/c2.nii.gz' has two labels, this file and '{root}/labels/c2.nii.gz'",
        "keep one of them",
    ),
    Broken(
        "fractions in a mask",
        _save_label(mask(1, 2).astype(np.float32) / 2),
        "labels/c2.nii.gz",
        "the label (float32) has values that are not whole numbers, such as 0.5",
        "export it again with nearest neighbor",
    ),
    Broken(
        "classes that are not in a row",
        _all(mask(1, 2, 4)),
        "",
        "the labels hold the values 0, 1, 2, 4, which are not 0, 1, 2, … in a row",
        'background first: --values "0,1,2,4"',
    ),
    Broken(
        "gray levels",
        _all(mask(128, 255)),
        "",
        "the labels hold the values 0, 128, 255, which are not 0, 1, 2, … in a row",
        '--values "0,128,255"',
    ),
    Broken(
        "a mask of 0 and 255 with named classes",
        _all(mask(255)),
        "",
        "the labels hold 0, 255, and no voxel of a class but background 'bg'",
        'if each is a class, give --values "0,255"',
        {"classes": ["bg", "organ"]},
    ),
    Broken(
        "an unreadable image",
        _truncate("images/c2.nii.gz"),
        "images/c2.nii.gz",
        "the image is not a readable NIfTI file",
        "it may be truncated: copy or download it again",
    ),
    Broken(
        "a truncated label",
        _truncate("labels/c2.nii.gz"),
        "labels/c2.nii.gz",
        "the label is not a readable NIfTI file",
        "it may be truncated: copy or download it again",
    ),
    Broken(
        "a patient in two splits of a file",
        _split_file,
        "split.json",
        "patient 'c0' is in two splits, training and test (c0_a, c0_b)",
        "keep all cases of a patient in one split",
        {"split": "{root}/split.json", "patient_pattern": "(c.)"},
    ),
    Broken(
        "a patient in two splits of nnU-Net",
        _nnunet_patient,
        "",
        "patient 'c0' is in two splits, training and test (c0_f1, c0_f2)",
        "keep all cases of a patient in one split",
        {"patient_pattern": "(c.)_"},
    ),
    Broken(
        "a value that is not a class",
        _save_label(mask(1, 7)),
        "labels/c2.nii.gz",
        "label values [7] are not a class (0 bg, 1 a, 2 b) and not declared unlabeled",
        'if each value is a class, give --values "0,1,7"',
        {"classes": ["bg", "a", "b"]},
    ),
    Broken(
        "fewer classes than values",
        _all(mask(1, 2, 3, 4)),
        "labels/c0.nii.gz",
        "label values [2, 3, 4] are not a class (0 bg, 1 a) and not declared unlabeled",
        "name all the classes with --classes",
        {"classes": ["bg", "a"]},
    ),
    Broken(
        "NaN in an image",
        _save_image(value=np.nan, dtype=np.float32),
        "images/c2.nii.gz",
        "the image has 15 NaN or infinite voxels",
        "replace them, or leave the case out",
    ),
    Broken(
        "a 4D image",
        _save_image(shape=(*SHAPE, 2)),
        "images/c2.nii.gz",
        "the image is 3D with 2 channels, most others are 3D with 1",
        "of a series in time, store one frame per file",
    ),
    Broken(
        "a label without a labeled voxel",
        _save_label(np.full(SHAPE, 255, np.uint8)),
        "labels/c2.nii.gz",
        "the label holds no labeled voxel",
        "remove it, or give --allow-unlabeled",
        {"unlabeled": 255},
    ),
    Broken(
        "no full mask at all",
        _all(np.where(mask(1, 2) == 0, 3, mask(1, 2)).astype(np.uint8)),
        "",
        "none of the 5 cases has a full mask, which validation needs",
        "label a few cases completely",
        {"classes": ["bg", "a", "b"], "unlabeled": 3, "split": "70/10/20"},
    ),
    Broken(
        "a value for unlabeled that nobody names",
        _all(_strokes()),
        "labels/c0.nii.gz",
        "the value 3 fills 77 % of the 5 files that hold it, which looks like 'unlabeled'",
        "if it is, give --unlabeled 3",
    ),
    Broken(
        "images and labels exchanged",
        lambda root: [
            save(root / "images" / "c2.nii.gz", image(9, (7, 7, 7))),
            save(root / "labels" / "c2.nii.gz", np.arange(343, dtype=np.int16).reshape(7, 7, 7)),
        ],
        "labels/c2.nii.gz",
        "the label holds 343 different values: it looks like an image",
        "give the images first and the labels second",
    ),
    Broken(
        "a pattern that finds no patient",
        lambda root: None,
        "images/c4.nii.gz",
        "--patient-pattern '([a-z][0-3])' finds no patient in 'c4'",
        "fix the pattern",
        {"patient_pattern": "([a-z][0-3])"},
    ),
    Broken(
        "a flat image among volumes",
        lambda root: [
            save(root / "images" / "c2.nii.gz", image(9, (6, 5))),
            save(root / "labels" / "c2.nii.gz", mask(1, 2)[..., 0]),
        ],
        "images/c2.nii.gz",
        "the image is 2D with 1 channels, most others are 3D with 1",
        "convert it, or prepare each kind by itself",
    ),
    Broken(
        "too few full masks",
        lambda root: [
            (root / n / f"c{i}.nii.gz").unlink() for n in ("images", "labels") for i in range(3)
        ],
        "",
        "2 patients have full masks only, but 6 are needed, at least two each for training, "
        "validation, test",
        "leave out --split: all of them train, and cross-validation scores them",
        {"split": "70/10/20"},
    ),
]


@pytest.mark.parametrize("broken", CASES, ids=lambda broken: broken.name)
def test_broken_folders_are_refused(root: Path, broken: Broken) -> None:
    broken.damage(root)
    options = {
        key: value.format(root=root) if isinstance(value, str) else value
        for key, value in broken.options.items()
    }
    given = FolderOptions(**options)
    before = sorted(root.rglob("*"))
    faults = inspect_folder(root, given).faults
    place = str(root / broken.file) if broken.file else str(root)
    found = [fault for fault in faults if fault.file == place]
    assert found, [str(fault) for fault in faults]
    assert broken.problem.format(root=root) in found[0].problem
    assert broken.fix in found[0].fix
    with pytest.raises(DatalistError, match="nothing is written:") as caught:
        prepare_folder(root, root / "out", given)
    assert str(found[0]) in str(caught.value)
    assert sorted(root.rglob("*")) == before


def test_all_faults_are_listed_at_once(root: Path) -> None:
    _truncate("images/c0.nii.gz")(root)
    (root / "labels" / "c1.nii.gz").unlink()
    _save_label(mask(1, 2), np.diag([2.0, 1.0, 1.0, 1.0]))(root)
    save(root / "labels" / "c9.nii.gz", mask(1))
    with pytest.raises(DatalistError) as caught:
        prepare_folder(root, root / "out")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"4 faults in '{root}'; nothing is written:")
    for name in ("labels/c9", "images/c0", "labels/c2", "images/c1"):
        assert sum(f"{root / name}.nii.gz: " in line for line in lines[1:]) == 1, name


def test_repairs_are_said_and_leave_the_files_alone(root: Path) -> None:
    """Whole floats, classes with gaps that dataset.json explains, images that are declared bare."""
    for path in (root / "labels").iterdir():
        save(path, mask(1, 4, dtype=np.float64))
    (root / "dataset.json").write_text(json.dumps({"labels": {"bg": 0, "a": 1, "b": 4}}))
    (root / "labels" / "c0.nii.gz").unlink()
    before = {path: path.read_bytes() for path in (root / "labels").iterdir()}
    report = inspect_folder(root, FolderOptions(allow_unlabeled=True))
    assert report.faults == []
    assert report.notes == [
        "4 label files converted into copies (values 0→0, 1→1, 4→2; float64→uint8), such as "
        "c1.nii.gz"
    ]
    datalist = prepare_folder(root, root / "out", FolderOptions(allow_unlabeled=True))
    entry = next(entry for entry in datalist.training if entry.label)
    copy = nib.load(root / "out" / str(entry.label))
    np.testing.assert_array_equal(np.asarray(copy.dataobj), mask(1, 2))
    assert {path: path.read_bytes() for path in (root / "labels").iterdir()} == before
