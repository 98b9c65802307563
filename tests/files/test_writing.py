"""Masks written in an image's own geometry."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, decollate_batch
from monai.transforms import LoadImage

from mixseg.data import NativeNiftiWriter, list_images
from mixseg.files.geometry import spacing_mm
from mixseg.files.reading import VolumeReader

ROOT = Path(__file__).resolve().parents[2]
INFERENCE = ROOT / "bundles" / "acdc_lv_confkd" / "configs" / "inference.yaml"

# Oblique: a rotation by 30° about x after one by 20° about z, voxels of 1.5 × 1.25 × 8 mm.
_A, _B = np.deg2rad(30), np.deg2rad(20)
_RX = np.array([[1, 0, 0], [0, np.cos(_A), -np.sin(_A)], [0, np.sin(_A), np.cos(_A)]])
_RZ = np.array([[np.cos(_B), -np.sin(_B), 0], [np.sin(_B), np.cos(_B), 0], [0, 0, 1]])
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = _RX @ _RZ @ np.diag([1.5, 1.25, 8.0])
OBLIQUE[:3, 3] = (-40.0, 12.5, 7.0)
FLIPPED = np.diag([-1.0, -1.0, 5.0, 1.0])


def save_image(
    path: Path, shape: tuple[int, ...], affine: np.ndarray, units: tuple[str, str]
) -> None:
    image = nib.Nifti1Image(np.zeros(shape, np.int16), affine)
    image.header.set_xyzt_units(*units)
    nib.save(image, path)


@pytest.mark.parametrize("shape", [(7, 6, 4), (7, 6, 1), (7, 1, 3)])
@pytest.mark.parametrize("affine", [np.eye(4), FLIPPED, OBLIQUE])
@pytest.mark.parametrize("units", [("mm", "sec"), ("unknown", "unknown"), ("micron", "unknown")])
def test_mask_keeps_shape_affine_and_units(
    tmp_path: Path, shape: tuple[int, ...], affine: np.ndarray, units: tuple[str, str]
) -> None:
    source = tmp_path / "source.nii.gz"
    save_image(source, shape, affine, units)
    image = LoadImage(ensure_channel_first=True)(source)
    values = np.random.default_rng(0).integers(0, 2, shape).astype(np.uint8)

    writer = NativeNiftiWriter(output_dtype=np.uint8)
    writer.set_data_array(torch.from_numpy(values)[None], channel_dim=0)
    writer.set_metadata(image.meta, resample=False)
    writer.write(tmp_path / "mask.nii.gz")

    mask, original = nib.load(tmp_path / "mask.nii.gz"), nib.load(source)
    assert mask.shape == original.shape
    np.testing.assert_array_equal(np.asarray(mask.dataobj), values)
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_allclose(mask.affine, original.affine, atol=1e-5)
    assert mask.header.get_xyzt_units() == original.header.get_xyzt_units() == units
    np.testing.assert_allclose(mask.header.get_zooms(), original.header.get_zooms(), rtol=1e-6)


@pytest.mark.parametrize("affine", [np.eye(4), FLIPPED, OBLIQUE])
def test_a_mask_is_in_the_units_of_its_image(tmp_path: Path, affine: np.ndarray) -> None:
    save_image(tmp_path / "source.nii.gz", (7, 6, 4), affine, ("micron", "sec"))
    image = LoadImage(reader=VolumeReader(), ensure_channel_first=True)(tmp_path / "source.nii.gz")
    np.testing.assert_allclose(image.affine[:3], affine[:3] / 1000, atol=1e-9)
    assert spacing_mm(image.meta) == pytest.approx(np.linalg.norm(affine[:3, :3], axis=0) / 1000)
    writer = NativeNiftiWriter(output_dtype=np.uint8)
    writer.set_data_array(torch.zeros(1, 7, 6, 4), channel_dim=0)
    writer.set_metadata(image.meta, resample=False)
    writer.write(tmp_path / "mask.nii.gz")
    mask = nib.load(tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(mask.affine, affine, atol=1e-5)
    assert mask.header.get_xyzt_units() == ("micron", "sec")


def test_units_are_millimeters_where_the_format_has_no_field(tmp_path: Path) -> None:
    writer = NativeNiftiWriter(output_dtype=np.uint8)
    writer.set_data_array(np.ones((1, 3, 3, 2), np.uint8))
    writer.set_metadata({"affine": np.eye(4), "original_affine": np.eye(4)}, resample=False)
    writer.write(tmp_path / "mask.nii.gz")
    assert nib.load(tmp_path / "mask.nii.gz").header.get_xyzt_units() == ("mm", "unknown")


@pytest.mark.parametrize("shape", [(21, 18, 3), (16, 24, 1)])
def test_inference_transforms_of_the_bundle_write_in_native_geometry(
    tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    """What inference.yaml does around the network: a stamp in image space comes back in place."""
    rng = np.random.default_rng(0)
    voxels = rng.integers(0, 100, shape).astype(np.int16)
    image = nib.Nifti1Image(voxels, OBLIQUE)
    image.header.set_xyzt_units("mm", "sec")
    (tmp_path / "in").mkdir()
    nib.save(image, tmp_path / "in" / "patient007_frame01.nii.gz")
    config = yaml.safe_load(INFERENCE.read_text())
    config |= {
        "dataset_dir": str(tmp_path / "in"),
        "output_dir": str(tmp_path / "out"),
        "spatial_size": [64, 64],
    }
    parser = ConfigParser(config)
    data = list_images(tmp_path / "in")
    dataset = Dataset(data, parser.get_parsed_content("preprocessing"))
    batch = next(iter(DataLoader(dataset, batch_size=1)))
    assert tuple(batch["image"].shape) == (1, 1, 64, 64, shape[2])
    # Logits whose foreground is the upper half of the axis 0 of the network's grid.
    logits = torch.zeros(1, 2, 64, 64, shape[2])
    logits[:, 1, :32], logits[:, 1, 32:] = 20.0, -20.0
    item = decollate_batch({**batch, "pred": logits})[0]
    parser.get_parsed_content("postprocessing")(item)

    found = nib.load(tmp_path / "out" / "patient007_frame01_LV.nii.gz")
    assert found.shape == shape
    np.testing.assert_allclose(found.affine, OBLIQUE, atol=1e-5)
    assert found.header.get_xyzt_units() == ("mm", "sec")
    mask = np.asarray(found.dataobj)
    assert mask.dtype == np.uint8
    half = shape[0] / 2
    expected = np.arange(shape[0]) + 0.5 < half
    sure = np.abs(np.arange(shape[0]) + 0.5 - half) > 1  # one voxel of interpolation at the edge
    np.testing.assert_array_equal(
        mask[sure], np.broadcast_to(expected[sure, None, None], mask[sure].shape)
    )
