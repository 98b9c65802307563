"""Which images and which datalist a folder holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mixseg.data.find import list_images


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_list_images(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "patient002/patient002_frame01.nii.gz",
        "patient002/patient002_frame01_gt.nii.gz",
        "patient002/patient002_4d.nii.gz",
        "patient002/Info.cfg",
        "b.NRRD",
        "c.mha",
        "a.nii",
    )
    found = list_images(tmp_path)
    assert [item["case_id"] for item in found] == ["a", "b", "c", "patient002_frame01"]
    assert found[3]["image"] == str(tmp_path / "patient002" / "patient002_frame01.nii.gz")
    # A file that is named is taken, whatever it is called.
    one = tmp_path / "patient002" / "patient002_frame01_gt.nii.gz"
    assert list_images(one) == [{"image": str(one), "case_id": "patient002_frame01_gt"}]


def test_list_images_errors(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    message = f"{missing} does not exist: set --dataset_dir to a folder of images"
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        list_images(missing)
    touch(tmp_path, "notes.txt", "patient001_frame01_gt.nii.gz")
    formats = (
        ".nii, .nii.gz, .hdr, .nrrd, .nhdr, .mha, .mhd, .png, .tif, .tiff, .bmp, .jpg, .jpeg, DICOM"
    )
    message = (
        f"{tmp_path} holds no image ({formats}); 1 files below {tmp_path} are left out: a "
        "collection's masks and series: set --dataset_dir"
    )
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        list_images(tmp_path)
