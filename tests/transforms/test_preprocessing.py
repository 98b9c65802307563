"""From files to what a network sees: one way for training, evaluation and inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import (
    CenterSpatialCrop,
    Invertd,
    LoadImaged,
    Orientationd,
    Resize,
    Spacing,
)
from PIL import Image

from mixseg.data import SliceDataset
from mixseg.transforms import (
    NoisyLabel,
    RescaleIntensity,
    RescaleIntensityd,
    ResizeLabel,
    SlicePreprocessing,
    VolumePreprocessing,
    calibrate_radius,
    free_negatives,
    scribble_by_erosion,
)

CLASSES = ["background", "RV", "myocardium", "LV"]
#: Half a turn about z, other axes first: RAS is nowhere near the file's own order.
OBLIQUE = np.array([[0, -1.25, 0, 40], [-1.5, 0, 0, -7], [0, 0, 8, 11], [0, 0, 0, 1.0]])

Item = dict[str, Any]


def save(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> str:
    image = nib.Nifti1Image(values, np.diag([1.5, 1.25, 8.0, 1.0]) if affine is None else affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return str(path)


def heart(shape: tuple[int, int, int], shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image and its mask; slice 0 holds nothing."""
    x, y = np.mgrid[: shape[0], : shape[1]]
    distance = np.hypot(x - shape[0] / 2 - shift, y - shape[1] / 2)
    flat = (distance < 14).astype(np.uint8) * 2
    flat[distance < 9] = 3
    flat[(x < shape[0] / 2 - 15) & (x > 8) & (abs(y - shape[1] / 2) < 9)] = 1
    label = np.repeat(flat[..., None], shape[2], axis=2)
    label[..., 0] = 0
    noise = np.random.default_rng(shift).normal(0, 9, shape)
    return (100 + 60.0 * label + noise).astype(np.float32), label


def case(folder: Path, name: str = "a", affine: np.ndarray | None = None, **entries: Any) -> Item:
    """A scan of 61 × 72 × 3 voxels with its mask."""
    image, label = heart((61, 72, 3), len(name))
    return {
        "image": save(folder / f"{name}.nii.gz", image, affine),
        "label": save(folder / f"{name}_label.nii.gz", label, affine),
        "supervision": "full",
        "case_id": name,
    } | entries


def picture(folder: Path, size: tuple[int, int] = (45, 60)) -> Item:
    """A color picture of 45 columns and 60 rows with its mask."""
    y, x = np.mgrid[: size[1], : size[0]]
    label = (np.hypot(y - 30, x - 20) < 12).astype(np.uint8) + (np.hypot(y - 30, x - 20) < 6)
    colors = np.array([[230, 220, 225], [200, 180, 210], [110, 70, 150]])
    noise = np.random.default_rng(0).integers(-20, 20, (*label.shape, 3))
    Image.fromarray((colors[label] + noise).astype(np.uint8)).save(folder / "p.png")
    Image.fromarray(label.astype(np.uint8)).save(folder / "p_label.png")
    files = {"image": str(folder / "p.png"), "label": str(folder / "p_label.png")}
    return files | {"supervision": "full", "case_id": "p"}


def slices(**settings: Any) -> SlicePreprocessing:
    small = {"slice_size": 64, "crop_size": (50, 50), "spatial_size": (32, 32)}
    return SlicePreprocessing(**{"source_classes": CLASSES, **small, **settings})


def as_read(**settings: Any) -> SlicePreprocessing:
    """Slices that keep the file's own pixels."""
    grid = {"slice_size": (61, 72), "crop_size": (61, 72), "spatial_size": (61, 72)}
    return slices(**grid, **settings)


def plain(values: Any) -> np.ndarray:
    return np.asarray(torch.as_tensor(values).as_subclass(torch.Tensor))


PREPARATIONS: dict[str, Any] = {
    "slices": slices(),
    "slices, padded and turned": slices(crop_size=(80, 70), orientation="LPS"),
    "slices and their neighbors": slices(neighbors=1),
    "slices of one size": slices(slice_size=(40, 90), normalization="minmax"),
    "volumes": VolumePreprocessing(source_classes=CLASSES, spacing=(2.0, 2.5, 4.0)),
    "volumes as they lie": VolumePreprocessing(
        source_classes=CLASSES, spacing=(2.0, 2.5, 4.0), orientation=None, normalization="fixed"
    ),
}


@pytest.mark.parametrize("name", PREPARATIONS)
@pytest.mark.parametrize("affine", [None, OBLIQUE], ids=["straight", "turned"])
def test_training_evaluation_and_inference_see_one_image(
    name: str, affine: np.ndarray | None, tmp_path: Path
) -> None:
    item, preparation = case(tmp_path, affine=affine), PREPARATIONS[name]
    trained = preparation.training([item])(item)
    evaluated, inferred = preparation.evaluation(item), preparation.inference(item)
    assert torch.equal(trained["image"].as_tensor(), inferred["image"].as_tensor())
    assert torch.equal(evaluated["image"].as_tensor(), inferred["image"].as_tensor())
    assert torch.equal(evaluated["image"].affine, inferred["image"].affine)
    assert trained["label"].shape == (1, *trained["image"].shape[1:])
    assert trained["label"].dtype == torch.uint8
    # What was scored has the file's own grid.
    file = nib.load(item["label"])
    for key in ("label", "native"):
        assert tuple(evaluated[key].shape) == (1, *file.shape)
        np.testing.assert_allclose(evaluated[key].affine, file.affine, atol=1e-6)
    np.testing.assert_array_equal(plain(evaluated["label"])[0], file.get_fdata())
    np.testing.assert_array_equal(
        plain(evaluated["native"])[0], nib.load(item["image"]).get_fdata()
    )


@pytest.mark.parametrize("name", PREPARATIONS)
def test_predictions_return_to_the_files_grid(name: str, tmp_path: Path) -> None:
    """The label as the network sees it, taken back by the way of the image, is the file's label."""
    item, preparation = case(tmp_path, affine=OBLIQUE), PREPARATIONS[name]
    fine: Any = {"crop_size": (64, 64), "spatial_size": (64, 64)}
    wide = {
        "slices": slices(**fine),
        "slices and their neighbors": slices(**fine, neighbors=1),
    }.get(name, preparation)
    trained = wide.training([item])(item)
    onehot = torch.stack([trained["label"].as_tensor()[0] == c for c in range(4)]).float()
    inferred = wide.inference(item)
    inferred["pred"] = MetaTensor(onehot)
    invert = Invertd("pred", transform=wide.inference, orig_keys="image", nearest_interp=False)
    back = invert(inferred)["pred"]
    file = nib.load(item["label"])
    assert tuple(back.shape) == (4, *file.shape)
    np.testing.assert_allclose(back.affine, file.affine, atol=1e-4)
    mask, label = plain(back).argmax(0), file.get_fdata()
    # Thick slices: only those in the middle of the scan are as they were.
    for c in (1, 2, 3):
        one, other = (mask == c)[..., 1:], (label == c)[..., 1:]
        assert 2 * (one & other).sum() / (one.sum() + other.sum()) > 0.85, c


def test_values_of_the_image(tmp_path: Path) -> None:
    """Clipped at the percentiles and standardized, in float64; what the crop lacks repeats."""
    item = case(tmp_path)
    raw = nib.load(item["image"]).get_fdata()
    clipped = raw.clip(*np.percentile(raw, [0.5, 99.5]))
    expected = (clipped - clipped.mean()) / clipped.std()
    image = plain(as_read().inference(item)["image"])[0]
    np.testing.assert_allclose(image, expected, atol=2e-4)
    wide = slices(slice_size=(61, 72), crop_size=(65, 78), spatial_size=(65, 78))
    padded = plain(wide.inference(item)["image"])[0]
    np.testing.assert_allclose(
        padded, np.pad(expected, [(2, 2), (3, 3), (0, 0)], mode="edge"), atol=2e-4
    )


def test_labels_of_full_cases(tmp_path: Path) -> None:
    """The classes to segment, renumbered; what lies outside the slice is unlabeled."""
    item = case(tmp_path)
    label = np.asarray(nib.load(item["label"]).dataobj)
    preparation = slices(
        slice_size=(61, 72), crop_size=(65, 78), spatial_size=(65, 78), target_classes=[[1, 2], 3]
    )
    assert (preparation.num_source_classes, preparation.num_classes) == (4, 3)
    expected = np.pad(np.array([0, 1, 1, 2])[label], [(2, 2), (3, 3), (0, 0)], constant_values=3)
    np.testing.assert_array_equal(plain(preparation.training([item])(item)["label"])[0], expected)


def test_a_files_own_value_for_unlabeled(tmp_path: Path) -> None:
    item = case(tmp_path)
    label = np.array(nib.load(item["label"]).dataobj)
    label[:20] = 255
    item |= {"label": save(tmp_path / "with255.nii.gz", label), "supervision": "partial"}
    preparation = as_read(unlabeled_value=255, target_classes=[3])
    expected = np.where(label == 255, 2, label == 3)
    for transform in (preparation.training([item]), preparation.evaluation):
        np.testing.assert_array_equal(plain(transform(item)["label"])[0], expected)
    with pytest.raises(RuntimeError) as caught:
        as_read().training([item])(item)
    assert "holds [255]: neither a class (0 to 3) nor" in str(caught.value.__cause__)


def weak_cases(folder: Path) -> list[Item]:
    """A full case, one to be eroded, one of seeds, and drawn scribbles with background."""
    items = [case(folder), case(folder, "bb", supervision="partial", erode=True, complete=True)]
    for name, values in (("ccc", (4, 4, 4, 3)), ("dddd", (0, 4, 4, 3))):
        item = case(folder, name, supervision="partial", erode=False)
        label = np.array(values)[np.asarray(nib.load(item["label"]).dataobj)]
        keep = np.zeros(label.shape, bool)
        keep[30:33, 34:38] = keep[2:4] = True
        label = np.where(keep, label, 4).astype(np.uint8)
        items.append(item | {"label": save(folder / f"{name}_drawn.nii.gz", label)})
    return items


def test_free_negatives_are_calibrated_on_the_full_masks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """At the size of slices in which masks are eroded, before crop and reduction."""
    items = weak_cases(tmp_path)
    settings = {"slice_size": (61, 72), "crop_size": (61, 72), "target_classes": [3]}
    preparation = slices(**settings, spatial_size=(61, 72))
    caplog.set_level("INFO")
    transform = preparation.training(items)
    masks = {item["case_id"]: np.asarray(nib.load(item["label"]).dataobj) for item in items}
    full = (masks["a"] == 3).astype(np.uint8)
    radius = np.ceil(10 * calibrate_radius([full], 2)) / 10
    assert 2 < radius < 10
    assert (
        f"beyond R = {radius:.1f} voxels of every seed, the largest distance on 1 full mask (a)"
        in (caplog.text)
    )
    labels = {item["case_id"]: plain(transform(item)["label"])[0] for item in items}
    np.testing.assert_array_equal(labels["a"], full)
    # Eroded from a mask, slices without a seed are background as well.
    seeds = scribble_by_erosion((masks["bb"] == 3).astype(np.uint8), 2)
    expected = free_negatives(seeds, 2, radius, complete=True)
    np.testing.assert_array_equal(labels["bb"], expected)
    assert (expected[..., 0] == 0).all()
    # Of seeds in a file nobody knows whether the slices without one were looked at.
    seeds = np.where(masks["ccc"] == 4, 2, masks["ccc"] == 3)
    np.testing.assert_array_equal(labels["ccc"], free_negatives(seeds, 2, radius))
    assert (labels["ccc"][..., 0] == 2).all()
    # Whoever drew background is taken at their word.
    drawn = np.where(masks["dddd"] == 4, 2, masks["dddd"] == 3)
    np.testing.assert_array_equal(labels["dddd"], drawn)
    # A smaller network image is made of these labels.
    small = slices(**settings, spatial_size=(32, 30)).training(items)(items[1])["label"]
    resized = ResizeLabel(2)(torch.from_numpy(expected)[None], (32, 30, 3))
    np.testing.assert_array_equal(plain(small), plain(resized))


def test_other_radii(tmp_path: Path) -> None:
    items = weak_cases(tmp_path)
    seeds = np.asarray(nib.load(items[2]["label"]).dataobj)
    seeds = np.where(seeds == 4, 2, seeds == 3)
    for radius, expected in ((None, seeds), (20, free_negatives(seeds, 2, 20))):
        transform = as_read(free_negatives=radius, target_classes=[3]).training(items)
        np.testing.assert_array_equal(plain(transform(items[2])["label"])[0], expected)
    with pytest.raises(ValueError, match="the full mask of case 'a' reaches"):
        as_read(free_negatives=1, target_classes=[3]).training(items)
    # Without a full mask nothing says how far it is.
    transform = as_read(target_classes=[3]).training(items[1:])
    np.testing.assert_array_equal(plain(transform(items[2])["label"])[0], seeds)


def test_volumes_measure_negatives_in_3d(tmp_path: Path) -> None:
    items = weak_cases(tmp_path)
    preparation = VolumePreprocessing(
        source_classes=CLASSES, target_classes=[3], spacing=(1.5, 1.25, 8.0), orientation=None
    )
    masks = [np.asarray(nib.load(item["label"]).dataobj) for item in items]
    full = (masks[0] == 3).astype(np.uint8)
    radius = np.ceil(10 * calibrate_radius([full], 2, slice_axis=2, distance="volume")) / 10
    seeds = scribble_by_erosion((masks[1] == 3).astype(np.uint8), 2, slice_axis=2)
    expected = free_negatives(seeds, 2, radius, complete=True, slice_axis=2, distance="volume")
    found = plain(preparation.training(items)(items[1])["label"])[0]
    np.testing.assert_array_equal(found, expected)


def test_weak_labels_beside_masks(tmp_path: Path) -> None:
    """Full cases keep their mask and have, as ``weak_label``, what weak cases have."""
    items = weak_cases(tmp_path)
    transform = as_read(weak_label=True, target_classes=[3]).training(items)
    full = (np.asarray(nib.load(items[0]["label"]).dataobj) == 3).astype(np.uint8)
    radius = np.ceil(10 * calibrate_radius([full], 2)) / 10
    item = transform(items[0])
    np.testing.assert_array_equal(plain(item["label"])[0], full)
    expected = free_negatives(scribble_by_erosion(full, 2), 2, radius, complete=True)
    np.testing.assert_array_equal(plain(item["weak_label"])[0], expected)
    for weak in items[1:]:
        item = transform(weak)
        np.testing.assert_array_equal(plain(item["weak_label"]), plain(item["label"]))


def test_slices_by_nearest_neighbor(tmp_path: Path) -> None:
    """The papers' steps, one after the other: resize, erode, crop, resize."""
    items = weak_cases(tmp_path)[:2]  # a full case, and one to be eroded
    keys, crop = ["image", "label"], (50, 50, -1)
    read = LoadImaged(keys, ensure_channel_first=True)
    preparation = slices(
        slice_size=(70, 60), resampling="nearest", free_negatives=None, normalization="minmax"
    )
    transform = preparation.training(items)
    for item in items:
        expected = RescaleIntensityd("image", rule="minmax")(read(item))
        image = Resize((70, 60, -1), mode="trilinear", anti_aliasing=True)(expected["image"])
        label = Resize((70, 60, -1), mode="nearest-exact")(expected["label"])
        if item["supervision"] == "partial":
            label = torch.as_tensor(scribble_by_erosion(plain(label)[0].astype(np.uint8), 4))[None]
        image, label = CenterSpatialCrop(crop)(image), CenterSpatialCrop(crop)(label)
        found = transform(item)
        wanted = Resize((32, 32, -1), mode="trilinear", anti_aliasing=True)(image)
        np.testing.assert_array_equal(plain(found["image"]), plain(wanted))
        wanted = Resize((32, 32, -1), mode="nearest-exact")(label)
        np.testing.assert_array_equal(plain(found["label"]), plain(wanted))


def test_volumes_by_nearest_neighbor(tmp_path: Path) -> None:
    """Intensities are rescaled last, on the voxels that the network sees."""
    item, spacing = case(tmp_path, affine=OBLIQUE), (2.0, 2.5, 4.0)
    preparation = VolumePreprocessing(source_classes=CLASSES, spacing=spacing, resampling="nearest")
    read = LoadImaged(["image", "label"], ensure_channel_first=True)(item)
    turned = Orientationd(["image", "label"], axcodes="RAS", labels=None)(read)
    image = RescaleIntensity("zscore")(Spacing(spacing, mode="bilinear")(turned["image"]))
    label = Spacing(spacing, mode="nearest")(turned["label"])
    found = preparation.training([item])(item)
    np.testing.assert_array_equal(plain(found["image"]), plain(image))
    np.testing.assert_array_equal(plain(found["label"]), plain(label))
    np.testing.assert_array_equal(plain(preparation.inference(item)["image"]), plain(image))
    np.testing.assert_array_equal(plain(preparation.evaluation(item)["image"]), plain(image))


def test_masks_made_wrong_keep_the_clean_one_beside_them(tmp_path: Path) -> None:
    clean = case(tmp_path)
    wrong = clean | {"case_id": "w", "supervision": "noisy", "distort": True}
    noise = {"kind": "box", "distortion": 0.3, "share_missing": 0.0, "seed": 5}
    transform = as_read(noise=noise, reference=True).training([clean, wrong])
    label = np.asarray(nib.load(clean["label"]).dataobj)
    made = NoisyLabel(4, **noise)(label[None], case_id="w")[0]
    assert (made != label).any()
    for item, expected in ((clean, label), (wrong, made)):
        found = transform(item)
        np.testing.assert_array_equal(plain(found["label"])[0], expected)
        np.testing.assert_array_equal(plain(found["reference"])[0], label)


def test_another_resampling_is_refused() -> None:
    with pytest.raises(ValueError, match="resampling must be one of"):
        slices(resampling="cubic")


def test_some_annotated_classes(tmp_path: Path) -> None:
    """What nobody annotated may be anywhere: neither background nor far from seeds."""
    full = case(tmp_path)
    label = np.array(nib.load(full["label"]).dataobj)
    for annotated, targets in (([3], None), ([1], [3]), ([2, 3], [3])):
        item = full | {"supervision": "partial", "annotated_classes": annotated, "erode": False}
        found = plain(as_read(target_classes=targets).training([full, item])(item)["label"])[0]
        known = np.isin(label, annotated)
        if targets is None:
            np.testing.assert_array_equal(found, np.where(known, label, 4))
        else:  # other structures are background of the one to segment
            expected = np.where(known, label == 3, 2)
            unknown = ~known if 3 not in annotated else np.zeros_like(known)
            np.testing.assert_array_equal(found[known], expected[known])
            assert (found[unknown] == 2).all()


def test_cases_without_a_label(tmp_path: Path) -> None:
    """They are padded with unlabeled pixels where slices are batched."""
    items = [case(tmp_path), case(tmp_path, "bb", supervision="none")]
    del items[1]["label"]
    preparation = slices()
    data = SliceDataset(
        items,
        preparation.training(items),
        num_classes=preparation.num_classes,
        label_keys=["label"],
        progress=False,
    )
    batch = data.__getitems__([1, 4])
    assert batch["supervision"] == ["full", "none"]
    assert set(batch["label"][0].unique().tolist()) <= {0, 1, 2, 3, 4}
    assert (batch["label"][1] == 4).all()
    # Test cases may lack one as well.
    assert "label" not in preparation.evaluation(items[1])


def test_supervision_is_read_from_the_label_where_nobody_says_it(tmp_path: Path) -> None:
    """Bare items of an annotation server: their labels get free negatives, too."""
    full, _, seeds, _ = weak_cases(tmp_path)
    items = [{key: item[key] for key in ("image", "label")} for item in (full, seeds)]
    transform = as_read(target_classes=[3]).training(items)
    known = as_read(target_classes=[3]).training([full, seeds])(seeds)
    found = [transform(item) for item in items]
    assert [item["supervision"] for item in found] == ["full", "partial"]
    assert torch.equal(found[1]["label"].as_tensor(), known["label"].as_tensor())
    assert (found[1]["label"] == 0).any()


def test_color_pictures(tmp_path: Path) -> None:
    item = picture(tmp_path)
    preparation = slices(
        source_classes=["background", "cytoplasm", "nucleus"],
        slice_size=[30, 40],
        crop_size=[30, 40],
        spatial_size=[15, 20],
    )
    trained, evaluated = preparation.training([item])(item), preparation.evaluation(item)
    assert tuple(trained["image"].shape) == (3, 15, 20, 1)
    assert torch.equal(trained["image"].as_tensor(), evaluated["image"].as_tensor())
    assert torch.equal(
        trained["image"].as_tensor(), preparation.inference(item)["image"].as_tensor()
    )
    label = np.array(Image.open(item["label"])).T[None, ..., None]  # x comes first
    np.testing.assert_array_equal(plain(evaluated["label"]), label)
    expected = ResizeLabel(3)(ResizeLabel(3)(label, (30, 40, 1)), (15, 20, 1))
    np.testing.assert_array_equal(plain(trained["label"]), plain(expected))
    assert tuple(evaluated["native"].shape) == (3, 45, 60, 1)


def test_a_far_larger_scan_is_segmented_in_its_center_alone(tmp_path: Path) -> None:
    """As if the scan had been cut out by hand; what comes back has the file's own grid."""
    scan, _ = heart((61, 72, 3))
    field = np.random.default_rng(1).uniform(20, 60, (120, 150, 3)).astype(np.float32)
    field[30:91, 40:112] = scan
    affine = np.diag([1.5, 1.25, 8.0, 1.0])  # 91.5 mm × 90 mm × 24 mm of 180 × 187.5 × 24
    known = {"source_classes": CLASSES, "spacing": (2.0, 2.5, 4.0)}
    cut = save(tmp_path / "cut.nii.gz", field[30:91, 39:111], affine)
    whole = {"image": save(tmp_path / "whole.nii.gz", field, affine)}
    small = VolumePreprocessing(**known).inference({"image": cut})["image"]
    central = VolumePreprocessing(**known, center_size=(91.5, 90, None))
    item = central.inference(whole)
    assert item["image"].shape == small.shape
    torch.testing.assert_close(item["image"].as_tensor(), small.as_tensor())
    item["pred"] = MetaTensor(torch.ones(1, *small.shape[1:]), meta=item["image"].meta)
    back = Invertd("pred", central.inference, orig_keys="image", nearest_interp=True)(item)["pred"]
    expected = np.zeros((120, 150, 3))
    expected[30:91, 39:111] = 1
    assert back.shape == (1, 120, 150, 3)
    assert np.array_equal(back[0].numpy(), expected)


@pytest.mark.parametrize("fill", [0, -1024])
def test_fill_around_a_scan_changes_nothing(fill: int, tmp_path: Path) -> None:
    """A padded scan is trained on and segmented as the scan itself, by its own mean and sd."""
    image, label = heart((61, 72, 3))
    affine = np.diag([1.5, 1.25, 8.0, 1.0])
    margins = [(20, 37), (0, 51), (0, 2)]
    padded_affine = affine.copy()
    padded_affine[:3, 3] = [-20 * 1.5, 0, 0]
    bare = {
        "image": save(tmp_path / "bare.nii.gz", image, affine),
        "label": save(tmp_path / "bare_label.nii.gz", label, affine),
        "supervision": "partial",
    }
    padded = bare | {
        "image": save(
            tmp_path / "padded.nii.gz", np.pad(image, margins, constant_values=fill), padded_affine
        ),
        "label": save(tmp_path / "padded_label.nii.gz", np.pad(label, margins), padded_affine),
    }
    preparation = VolumePreprocessing(
        source_classes=CLASSES, spacing=(2.0, 2.5, 4.0), center_size=(80, None, None)
    )
    for steps in (preparation.training([bare]), preparation.evaluation, preparation.inference):
        one, other = steps(bare), steps(padded)
        torch.testing.assert_close(other["image"].as_tensor(), one["image"].as_tensor())
        torch.testing.assert_close(other["image"].affine, one["image"].affine)
    one, other = (preparation.training([bare])(item)["label"] for item in (bare, padded))
    torch.testing.assert_close(other.as_tensor(), one.as_tensor())

    item = preparation.inference(padded)
    item["pred"] = MetaTensor(torch.ones(1, *item["image"].shape[1:]))
    back = Invertd("pred", preparation.inference, orig_keys="image", nearest_interp=True)(item)
    found = plain(back["pred"])[0]
    assert found.shape == (61 + 57, 72 + 51, 3 + 2)
    rows = np.s_[20 + 4 : 20 + 57]  # 80 of 91.5 mm, which begin at the fourth row
    assert found[rows, :72, :3].all()
    assert found.sum() == found[rows, :72, :3].size


def test_an_image_of_one_value_is_kept_whole(tmp_path: Path) -> None:
    flat = {"image": save(tmp_path / "flat.nii.gz", np.full((20, 24, 5), 7, np.float32))}
    preparation = VolumePreprocessing(source_classes=CLASSES, spacing=(1.5, 1.25, 8.0))
    assert preparation.inference(flat)["image"].shape == (1, 20, 24, 5)
