"""Pictures as volumes of one slice, and intensities by a rule."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms import LoadImaged
from PIL import Image

from mixseg.files.geometry import spacing_mm
from mixseg.transforms import (
    AddDepth,
    AddDepthd,
    RescaleIntensity,
    RescaleIntensityd,
    StackNeighbors,
)

RGB = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)  # rows, columns, colors


def load(path: Path) -> MetaTensor:
    item = LoadImaged(keys="image", ensure_channel_first=True)({"image": str(path)})
    return AddDepthd(keys="image")(item)["image"]


def test_a_picture_becomes_one_slice_of_unknown_spacing(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    volume = load(tmp_path / "a.png")
    # Axis 1 is x, that is the columns.
    np.testing.assert_array_equal(volume[..., 0].numpy(), RGB.transpose(2, 1, 0))
    assert volume.shape == (3, 3, 2, 1)
    assert spacing_mm(volume.meta) is None


def test_a_flat_nifti_keeps_its_spacing(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((4, 5), np.float32), np.diag([0.5, 2.0, 1.0, 1.0]))
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "a.nii.gz")
    volume = load(tmp_path / "a.nii.gz")
    assert volume.shape == (1, 4, 5, 1)
    assert spacing_mm(volume.meta) == (0.5, 2.0, 1.0)


def test_volumes_pass_unchanged() -> None:
    volume = MetaTensor(torch.zeros(1, 2, 3, 4), meta={"a": 1})
    assert AddDepth()(volume) is volume
    assert "xyzt_units" not in volume.meta


@pytest.mark.parametrize("shape", [(4, 5), (1, 2, 3, 4, 5)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(channels, H, W\) or \(channels, H, W, D\), got"):
        AddDepth()(torch.zeros(shape))


def test_missing_keys() -> None:
    assert AddDepthd(keys="label", allow_missing_keys=True)({"image": 1}) == {"image": 1}
    with pytest.raises(KeyError, match="label"):
        AddDepthd(keys="label")({"image": 1})


IMAGE = torch.tensor([[[2.0, 4.0], [6.0, 10.0]], [[0.0, 0.0], [4.0, 4.0]]])


def test_minmax_scales_all_channels_together() -> None:
    expected = [[[0.2, 0.4], [0.6, 1.0]], [[0.0, 0.0], [0.4, 0.4]]]
    torch.testing.assert_close(RescaleIntensity("minmax")(IMAGE), torch.tensor(expected))


def test_zscore_takes_each_channel_by_itself() -> None:
    # Channel 0 has mean 5.5 and variance (12.25 + 2.25 + 0.25 + 20.25) / 4 = 8.75.
    first = (IMAGE[0] - 5.5) / np.sqrt(8.75)
    second = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    image = IMAGE.clone()
    torch.testing.assert_close(RescaleIntensity("zscore")(image), torch.stack([first, second]))
    assert torch.equal(image, IMAGE)


def test_fixed_is_the_same_for_every_image() -> None:
    rescale = RescaleIntensityd("image", rule="fixed", clip=(0, 8), mean=4, sd=2)
    expected = [[[-1.0, 0.0], [1.0, 2.0]], [[-2.0, -2.0], [0.0, 0.0]]]
    torch.testing.assert_close(rescale({"image": IMAGE})["image"], torch.tensor(expected))
    one = rescale({"image": IMAGE[:1, :1]})["image"]
    torch.testing.assert_close(one, torch.tensor([[[-1.0, 0.0]]]))


def test_metadata_stay() -> None:
    image = MetaTensor(IMAGE, affine=torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0])))
    for rule in ("minmax", "zscore", "percentile", "fixed"):
        result = RescaleIntensity(rule)(image)
        assert torch.equal(result.affine, image.affine)
        assert result.dtype == torch.float32


def test_percentiles_are_those_of_each_channel() -> None:
    """Clipped at 0.5 and 99.5 %, then mean 0 and variance 1; a few bright voxels do not decide."""
    rng = np.random.default_rng(0)
    image = rng.normal([[[100]], [[-3]]], [[[20]], [[0.5]]], (2, 40, 50)).astype(np.float32)
    image[:, :2, :3] += 1e4
    given = image.copy()
    clipped = np.stack([c.clip(*np.percentile(c, [0.5, 99.5])) for c in image.astype(np.float64)])
    expected = clipped - clipped.mean((1, 2), keepdims=True)
    expected /= clipped.std((1, 2), keepdims=True)
    for kind in (np.asarray, torch.from_numpy, MetaTensor):
        found = RescaleIntensity("percentile")(kind(given))
        np.testing.assert_allclose(np.asarray(found), expected, atol=1e-4)
        np.testing.assert_array_equal(given, image)  # what is given is not written to
    assert found.dtype == torch.float32
    constant = RescaleIntensity("percentile")(torch.full((1, 4, 4), 7.0))
    assert not constant.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"rule": "zscor"},
            r"rule must be one of \('minmax', 'zscore', 'percentile', 'fixed'\), got 'zscor'",
        ),
        ({"clip": (1, 1)}, r"clip needs a lower and a higher value, got \[1, 1\]"),
        ({"clip": (1, 2, 3)}, r"clip needs a lower and a higher value"),
        ({"sd": 0}, "sd must be positive, got 0"),
    ],
)
def test_bad_rules(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RescaleIntensity(**options)


def test_neighbors_of_every_slice_and_channel() -> None:
    image = torch.rand(2, 3, 4, 5)
    stacked = StackNeighbors(2)(image)
    assert stacked.shape == (10, 3, 4, 5)
    for place in range(5):
        near = [min(max(place + shift, 0), 4) for shift in range(-2, 3)]
        expected = torch.cat([image[..., index] for index in near])
        assert torch.equal(stacked[..., place], expected)


def test_neighbors_of_a_picture_are_the_picture() -> None:
    image = torch.rand(3, 4, 5, 1)
    assert torch.equal(StackNeighbors(1)(image), image.repeat(3, 1, 1, 1))


def test_neighbors_keep_the_metadata() -> None:
    image = MetaTensor(torch.rand(1, 3, 4, 5), affine=torch.diag(torch.tensor([2.0, 3, 4, 1])))
    stacked = StackNeighbors(1)(image)
    assert torch.equal(stacked.affine, image.affine)


def test_a_negative_number_of_neighbors_is_refused() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        StackNeighbors(-1)
