"""From images to masks: mirrored passes, precision, and the way back to the file's grid."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose
from PIL import Image
from torch import Tensor, nn

from mixseg.engines import MirroredSliceInferer, Predictor, mask_postprocessing, precision
from mixseg.transforms import SlicePreprocessing

CLASSES = 3


class Crooked(nn.Module):
    """Logits that depend on the place and on the neighbors, unlike for mirrored images."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.kernel = torch.randn(CLASSES, 2, 3, 3, generator=generator, dtype=torch.float64)
        self.dtype = dtype
        self.sizes: list[int] = []

    def forward(self, image: Tensor, branch: str = "main") -> Any:
        self.sizes.append(len(image))
        logits = nn.functional.conv2d(image.double(), self.kernel, padding=1)
        logits = logits * torch.linspace(0.5, 2, image.shape[-1], dtype=torch.float64)
        logits = (logits + torch.linspace(-1, 1, image.shape[-2]).double()[:, None]).to(self.dtype)
        return (logits, -logits) if branch == "both" else logits


def brute_force(network: Any, volume: Tensor, axes: tuple[int, ...]) -> np.ndarray:
    """Mean probabilities over all sets of mirrored axes, slice by slice, in float64."""
    out = np.zeros((len(volume), CLASSES, *volume.shape[2:]))
    sets = [s for n in range(len(axes) + 1) for s in itertools.combinations(axes, n)]
    for case, z in itertools.product(range(len(volume)), range(volume.shape[-1])):
        for mirrored in sets:
            image = np.flip(volume[case, ..., z].numpy(), [a + 1 for a in mirrored]).copy()
            logits = network(torch.from_numpy(image)[None])[0].double().numpy()
            p = np.exp(logits - logits.max(0)) / np.exp(logits - logits.max(0)).sum(0)
            out[case, ..., z] += np.flip(p, [a + 1 for a in mirrored]) / len(sets)
    return out


def make_volume() -> Tensor:
    return torch.randn(2, 2, 6, 8, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("axes", [(), (0,), (1,), (0, 1)])
def test_mirrored_passes_are_averaged(axes: tuple[int, ...]) -> None:
    network, volume = Crooked(), make_volume()
    inferer = MirroredSliceInferer((6, 8), axes, sw_batch_size=3)
    found = inferer(volume, network)
    assert found.dtype == torch.float32
    expected = brute_force(network, volume, axes)
    np.testing.assert_allclose(found.exp().numpy(), expected, atol=1e-6)
    assert max(network.sizes) == 3


def test_every_branch_of_a_tuple() -> None:
    network, volume = Crooked(), make_volume()
    found = MirroredSliceInferer((6, 8), (0, 1))(volume, partial(network, branch="both"))
    for logits, sign in zip(found, (1, -1), strict=True):
        expected = brute_force(lambda image, s=sign: s * network(image), volume, (0, 1))
        np.testing.assert_allclose(logits.exp().numpy(), expected, atol=1e-6)


def test_half_precision_is_averaged_in_float32() -> None:
    network, volume = Crooked(torch.bfloat16), 20 * make_volume()
    found = MirroredSliceInferer((6, 8), (0, 1))(volume, network)
    assert found.dtype == torch.float32
    expected = brute_force(network, volume, (0, 1))
    np.testing.assert_allclose(found.exp().numpy(), expected, atol=1e-6)
    assert torch.isfinite(found).all()  # logarithms of probabilities far below float32's eps


def test_windows_smaller_than_the_slice() -> None:
    def pointwise(image: Tensor) -> Tensor:
        return torch.cat([image, 2 * image[:, :1]], dim=1)

    volume = make_volume()
    found = MirroredSliceInferer((4, 4), (0, 1))(volume, pointwise)
    expected = torch.cat([volume, 2 * volume[:, :1]], dim=1).log_softmax(1)
    torch.testing.assert_close(found, expected)


def test_axes_out_of_the_slice_are_refused() -> None:
    with pytest.raises(ValueError, match="0 and 1, got"):
        MirroredSliceInferer((6, 8), (0, 2))


class Watched(nn.Module):
    """A convolution that remembers in which precision it was called."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.seen: list[Any] = []

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.conv(image)
        self.seen.append((logits.dtype, torch.is_grad_enabled(), self.training))
        return logits


@pytest.mark.parametrize(
    ("amp", "native", "expected"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
        (True, True, torch.float32),
        (False, True, torch.float32),
    ],
)
def test_precision_of_prediction(
    monkeypatch: pytest.MonkeyPatch, amp: Any, native: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "_has_native_bfloat16", lambda: native)
    network = Watched()
    image = torch.randn(1, 1, 8, 8, 3)
    predictor = Predictor(
        "cpu",
        [{"image": MetaTensor(image)}],
        network,
        inferer=MirroredSliceInferer((8, 8)),
        decollate=False,
        amp=amp,
    )
    predictor.run()
    assert network.seen == [(expected, False, False)]
    assert network.conv.weight.dtype == torch.float32
    logits = predictor.state.output["pred"]
    assert logits.dtype == torch.float32
    slices = image[0].movedim(-1, 0)
    wanted = nn.functional.conv2d(
        slices.to(expected), network.conv.weight.to(expected), network.conv.bias.to(expected),
        padding=1,
    ).float().log_softmax(1).movedim(0, -1)  # fmt: skip
    torch.testing.assert_close(logits[0].as_tensor(), wanted)


AFFINE = np.array([[0, -1.25, 0, 40], [-1.5, 0, 0, -7], [0, 0, 8, 11], [0, 0, 0, 1.0]])


def two_blobs(shape: tuple[int, ...]) -> np.ndarray:
    """Probability of class 1: a wide blob of 0.6, a small one of 0.99, and 0.3 elsewhere."""
    out = np.full(shape, 0.3, np.float32)
    out[4:20, 6:24] = 0.6
    out[26:38, 30:42] = 0.99
    return out


def write_mask(
    tmp_path: Path, image: str, preprocessing: Any, probability: np.ndarray, **options: Any
) -> None:
    """What the network would say is given, from there on it is the bundle's way."""
    loader = DataLoader(Dataset([{"image": image}], preprocessing), batch_size=1)
    batch = next(iter(loader))
    p = torch.from_numpy(probability)
    assert batch["image"].shape[2:] == p.shape
    batch["pred"] = MetaTensor(torch.stack([1 - p, p]).log()[None], meta=batch["image"].meta)
    (item,) = decollate_batch(batch)
    mask_postprocessing(
        preprocessing, output_dir=tmp_path / "masks", output_postfix="LV", **options
    )(item)


@pytest.mark.parametrize("keep_component", [None, "most_probable"])
def test_a_mask_in_the_files_grid(tmp_path: Path, keep_component: str | None) -> None:
    """Written in the image's own order of axes, with its affine and units."""
    rng = np.random.default_rng(0)
    scan = nib.Nifti1Image(rng.normal(100, 20, (51, 46, 2)).astype(np.float32), AFFINE)
    scan.header.set_xyzt_units("mm", "sec")
    nib.save(scan, tmp_path / "scan.nii.gz")
    preprocessing = SlicePreprocessing(
        source_classes=["background", "LV"],
        slice_size=(46, 51),
        crop_size=(42, 47),
        spatial_size=(42, 47),
        orientation="RAS",
    ).inference
    shown = two_blobs((42, 47, 2))
    write_mask(
        tmp_path, str(tmp_path / "scan.nii.gz"), preprocessing, shown, keep_component=keep_component
    )
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["scan_LV.nii.gz"]
    mask = nib.load(tmp_path / "masks" / "scan_LV.nii.gz")
    assert mask.get_data_dtype() == np.uint8
    assert mask.shape == scan.shape
    np.testing.assert_allclose(mask.affine, AFFINE, atol=1e-5)
    assert mask.header.get_xyzt_units() == ("mm", "sec")
    # RAS is the file's axes exchanged and both turned round; the crop leaves a border of 2.
    kept = shown > 0.5
    if keep_component:  # 16 · 18 · 0.6 = 172.8 is more than 12 · 12 · 0.99 = 142.6
        kept &= shown == np.float32(0.6)
    expected = np.pad(kept, [(2, 2), (2, 2), (0, 0)])[::-1, ::-1].transpose(1, 0, 2)
    np.testing.assert_array_equal(np.asarray(mask.dataobj), expected)


def test_a_mask_of_a_picture(tmp_path: Path) -> None:
    """PNG, as high and wide as the picture, its classes as gray values."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (44, 50, 3), np.uint8)).save(tmp_path / "cell.png")
    preprocessing = SlicePreprocessing(
        source_classes=["background", "cell"],
        slice_size=(50, 44),
        crop_size=(50, 44),
        spatial_size=(50, 44),
    ).inference
    shown = two_blobs((50, 44, 1))
    write_mask(tmp_path, str(tmp_path / "cell.png"), preprocessing, shown, output_ext=".png")
    mask = Image.open(tmp_path / "masks" / "cell_LV.png")
    np.testing.assert_array_equal(np.asarray(mask), (shown[..., 0] > 0.5).T)


def test_another_rule_for_components_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be most_probable, largest or null, got 'x'"):
        mask_postprocessing(
            Compose([]), output_dir=tmp_path, output_postfix="x", keep_component="x"
        )


def test_masks_of_an_earlier_run_below_the_images_are_no_images(tmp_path: Path) -> None:
    """The folder of the masks may lie in that of the images; all in it is left out."""
    images = [tmp_path / name for name in ("a.nii.gz", "masks/a_seg.nii.gz", "masks_2/b.nii.gz")]
    data = [{"image": str(path), "case_id": path.name} for path in images]

    def predictor(output: Path) -> Predictor:
        postprocessing = mask_postprocessing(Compose([]), output_dir=output, output_postfix="seg")
        loader = DataLoader(Dataset(data), batch_size=1)
        return Predictor("cpu", loader, Watched(), postprocessing=postprocessing)

    kept = predictor(tmp_path / "masks").data_loader.dataset.data
    assert [item["case_id"] for item in kept] == ["a.nii.gz", "b.nii.gz"]
    with pytest.raises(ValueError, match="all images are in the folder of the masks"):
        predictor(tmp_path)
