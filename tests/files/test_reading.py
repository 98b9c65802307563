"""One grid and one set of voxels, whatever the format."""

from __future__ import annotations

from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest

from mixseg.data.checks import check_cases
from mixseg.data.datalist import DatalistError
from mixseg.files.reading import open_volume

# LPS, as ITK's formats keep it: oblique axes, anisotropic voxels, an origin.
SPACING = (0.625, 0.8, 2.5)
ORIGIN = (-31.0, 12.5, 7.0)
ANGLE = np.deg2rad(20)
DIRECTION = np.array(
    [[np.cos(ANGLE), -np.sin(ANGLE), 0], [np.sin(ANGLE), np.cos(ANGLE), 0], [0, 0, 1]]
)


def volume() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 300, (6, 5, 4)).astype(np.int16)


def write_itk(path: Path, values: np.ndarray, compress: bool = False) -> None:
    image = itk.image_from_array(np.ascontiguousarray(values.T))
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(itk.matrix_from_array(DIRECTION))
    itk.imwrite(image, str(path), compression=compress)


def world(index: tuple[int, int, int]) -> np.ndarray:
    """Position of a voxel in mm, right–anterior–superior, by ITK's definition of its header."""
    lps = np.array(ORIGIN) + DIRECTION @ (np.array(SPACING) * np.array(index))
    return lps * [-1, -1, 1]


@pytest.mark.parametrize("name", ["case.nrrd", "case.mha", "case.nii.gz", "case.nii"])
def test_grid_and_voxels_do_not_depend_on_the_format(tmp_path: Path, name: str) -> None:
    write_itk(tmp_path / name, volume(), compress=name == "case.nrrd")
    opened = open_volume(tmp_path / name)
    assert opened.shape == (6, 5, 4)
    assert opened.data is not None
    np.testing.assert_array_equal(opened.data, volume())
    for index in ((0, 0, 0), (5, 0, 0), (1, 4, 3)):
        np.testing.assert_allclose((opened.affine @ [*index, 1])[:3], world(index), atol=1e-4)
    assert open_volume(tmp_path / name, voxels=False).data is None


def test_an_image_in_nrrd_and_its_label_in_nifti_share_a_grid(tmp_path: Path) -> None:
    write_itk(tmp_path / "image.nrrd", volume())
    label = (volume() > 150).astype(np.uint8)
    write_itk(tmp_path / "label.nii.gz", label)
    case = {"image": tmp_path / "image.nrrd", "label": str(tmp_path / "label.nii.gz")}
    cases = [{**case, "case_id": "a", "supervision": "full"}]
    assert check_cases(test=cases, classes=2) == []
    moved = nib.load(tmp_path / "label.nii.gz")
    nib.save(nib.Nifti1Image(label, moved.affine + np.eye(4)), tmp_path / "label.nii.gz")
    with pytest.raises(DatalistError, match=r"label.nii.gz .*affine differs from the image's"):
        check_cases(test=cases, classes=2)


@pytest.mark.parametrize("keep", [10, 200, -40])
def test_a_truncated_nrrd_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "image.nrrd"
    write_itk(path, volume(), compress=True)
    path.write_bytes(path.read_bytes()[:keep])
    cases = [{"image": path, "label": str(path), "case_id": "a", "supervision": "full"}]
    with pytest.raises(DatalistError, match=r"image.nrrd .*the image is not a readable image file"):
        check_cases(test=cases, classes=2)
