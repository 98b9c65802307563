"""The flagship's four bundles: one recipe, and from files to masks on tiny data."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from PIL import Image
from typer.testing import CliRunner

from mixseg.cli.main import app
from mixseg.configuration.loading import cause_of

from .runs import run_files

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
NAMES = ("acdc_lv_mixed", "acdc_mixed", "la_mixed", "wbc_mixed")
SISTERS = NAMES[1:]
#: Settings whose values are the data set's.
OF_DATA = {"num_full", "num_partial", "weak_label", "source_classes", "target_classes"} | {
    "class_names",
    "in_channels",
    "normalization",
    "intensity_range",
    "intensity_mean",
    "intensity_sd",
    "slice_size",
    "crop_size",
    "spatial_size",
    "features",
    "max_epochs",
    "lambda_partial",
    "match_classes",
    "negatives_margin",
    "batch_full",
    "batch_partial",
    "keep_component",
}
#: Settings that only some have.
SLICES = {"slice_size", "spatial_size", "orientation"}
VOLUMES = {"spacing", "center_size", "cache_dir", "cache_device"}
#: Places in train.yaml where a network in 3D is another one than in 2D.
OF_DIMENSION = (
    "network_def#spatial_dims",
    "preparation",
    "train#dataset",
    "augmentation#spatial_dims",
    "validate#inferer",
    "validate#scorer#planes",
)
#: Settings of a run of seconds, by what the data are.
SMALL: dict[str, Any] = {
    "features": [4, 8, 8],
    "epoch_length": 4,
    "num_full": 2,
    "num_partial": 3,
    "max_epochs": 2,
    "val_interval": 2,
    "checkpoint_interval": 1,
}
TINY: dict[str, dict[str, Any]] = {
    "acdc": {"slice_size": 40, "crop_size": [32, 32], "spatial_size": [32, 32]},
    "la": {"spacing": [1.5, 1.5, 2.0], "crop_size": [16, 16, 8]},
    "wbc": {"slice_size": 40, "crop_size": [32, 40], "spatial_size": [16, 32]},
}


def read(bundle: str, name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((BUNDLES / bundle / "configs" / name).read_text())
    return content


def settings(content: dict[str, Any], end: str = "num_classes") -> dict[str, Any]:
    names = list(content)
    return {name: content[name] for name in names[names.index("bundle_root") : names.index(end)]}


def without(content: dict[str, Any], *places: str) -> dict[str, Any]:
    copied: dict[str, Any] = yaml.safe_load(yaml.safe_dump(content))
    for place in places:
        *path, last = place.split("#")
        node = copied
        for key in path:
            node = node[key]
        node.pop(last, None)
    return copied


@pytest.mark.parametrize("sister", SISTERS)
def test_settings_are_the_same_but_for_the_datas(sister: str) -> None:
    one, other = (settings(read(name, "train.yaml")) for name in (NAMES[0], sister))
    lacking = SLICES if sister == "la_mixed" else set()
    more = VOLUMES if sister == "la_mixed" else set()
    assert one.keys() - lacking == other.keys() - more
    shared = [name for name in one if name in other]
    assert shared == [name for name in other if name in one]  # their order, too
    assert {name for name in shared if one[name] != other[name]} <= OF_DATA


@pytest.mark.parametrize("sister", SISTERS)
def test_components_are_the_same_but_for_dimensions(sister: str) -> None:
    both = []
    for name in (NAMES[0], sister):
        content = read(name, "train.yaml")
        components = {k: v for k, v in content.items() if k not in settings(content)}
        both.append(without(components, *(OF_DIMENSION if sister == "la_mixed" else ())))
    assert both[0] == both[1]


@pytest.mark.parametrize("sister", SISTERS)
@pytest.mark.parametrize("name", ["evaluate.yaml", "multi_gpu_train.yaml"])
def test_overlays_are_the_same(sister: str, name: str) -> None:
    assert read(NAMES[0], name) == read(sister, name)


@pytest.mark.parametrize("sister", SISTERS)
@pytest.mark.parametrize("name", ["LICENSE", "configs/logging.conf"])
def test_files_are_the_same(sister: str, name: str) -> None:
    assert (BUNDLES / NAMES[0] / name).read_bytes() == (BUNDLES / sister / name).read_bytes()


def scan(folder: Path, name: str, seed: int, tools: SimpleNamespace) -> dict[str, str]:
    """A bright ellipsoid off the center of a scan of 24 × 27 × 14 voxels."""
    grid = np.indices((24, 27, 14)) / np.array([24, 27, 14]).reshape(3, 1, 1, 1)
    place = np.array([0.45, 0.55, 0.5]).reshape(3, 1, 1, 1)
    size = np.array([0.3, 0.25, 0.35]).reshape(3, 1, 1, 1)
    label = ((((grid - place) / size) ** 2).sum(0) < 1).astype(np.uint8)
    noise = np.random.default_rng(seed).normal(0, 8, label.shape)
    affine = np.array([[0, -1.2, 0, 5], [-1.3, 0, 0, 9], [0, 0, 1.6, -4], [0, 0, 0, 1]])
    tools.save(folder / "image" / f"{name}.nii.gz", (60 + 90 * label + noise).round(), affine)
    tools.save(folder / "label" / f"{name}.nii.gz", label, affine)
    return {"image": f"image/{name}.nii.gz", "label": f"label/{name}.nii.gz"}


def write_data(name: str, folder: Path, tools: SimpleNamespace) -> None:
    """Six training cases, one each to validate and to test."""
    kind = name.partition("_")[0]
    if kind == "acdc":
        tools.write_datalist(folder, scribbles=True)
    elif kind == "wbc":
        tools.write_cells(folder)
    else:
        cases = [
            scan(folder, f"c{i}", i, tools) | {"case_id": f"c{i}", "supervision": "full"}
            for i in range(8)
        ]
        splits = {"training": cases[:6], "validation": cases[6:7], "test": cases[7:]}
        tools.save_datalist(folder, {"classes": ["background", "LA"], "unlabeled": 2, **splits})


def run(bundle: str, run_id: str, *files: str, **settings: Any) -> None:
    paths = [BUNDLES / bundle / "configs" / file for file in files]
    run_files(run_id, paths, device="cpu", progress=False, **settings)


@pytest.fixture(scope="module", params=NAMES)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tools: SimpleNamespace
) -> SimpleNamespace:
    """A finished run of seconds, scored, with the masks of all its images."""
    name: str = request.param
    folder = tmp_path_factory.mktemp(name)
    write_data(name, folder / "data", tools)
    tiny = TINY[name.partition("_")[0]]
    batch = {} if name == "la_mixed" else {"batch_full": 2, "batch_partial": 2}
    places = {"dataset_dir": folder / "data", "output_dir": folder / "run"}
    run(name, "training", "train.yaml", **SMALL, **tiny, **batch, **places)
    run(name, "evaluating", "train.yaml", "evaluate.yaml", **SMALL, **tiny, **places)
    network = {"features": SMALL["features"], **tiny}
    images, weights = folder / "data" / "image", folder / "run" / "models" / "model.pt"
    run(name, "inference", "inference.yaml", **network, dataset_dir=images,
        output_dir=folder / "masks", checkpoint=weights)  # fmt: skip
    return SimpleNamespace(name=name, folder=folder, network=network, weights=weights)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def voxels(path: Path) -> np.ndarray:
    if path.suffix == ".png":
        return np.asarray(Image.open(path))
    return np.asarray(nib.load(path).dataobj)


def test_a_run_leaves_its_history_and_weights(trained: Any) -> None:
    rows = rows_of(trained.folder / "run" / "history.csv")
    assert [row["iteration"] for row in rows] == ["4", "8"]
    weight = read(trained.name, "train.yaml")["lambda_partial"]
    for row in rows:
        terms = float(row["full"]) + weight * float(row["partial"])
        assert float(row["loss"]) == pytest.approx(terms)
    assert rows[0]["val_dice_main"] == ""
    assert 0 <= float(rows[1]["val_dice_main"]) <= 1
    network = ConfigParser(read(trained.name, "inference.yaml"))
    network.update(trained.network)
    state = torch.load(trained.weights, weights_only=True)
    network.get_parsed_content("network_def").load_state_dict(state, strict=True)
    # The weights that came with the bundle stay what they are.
    assert not (BUNDLES / trained.name / "eval").exists()
    full = torch.load(trained.folder / "run" / "checkpoint.pt", weights_only=True)
    assert full["handlers"]["augmentation"]["generator"].dtype == torch.uint8
    assert full["precision"] in ("bfloat16", "float32")


def test_scores_are_those_of_the_masks_that_inference_writes(trained: Any) -> None:
    rows = rows_of(trained.folder / "run" / "metrics.csv")
    source = yaml.safe_load((trained.folder / "data" / "datalist.json").read_text())["classes"]
    content = read(trained.name, "train.yaml")
    names = content["class_names"] if trained.name == "acdc_lv_mixed" else source
    targets = [3] if trained.name == "acdc_lv_mixed" else list(range(1, len(source)))
    assert [(row["case_id"], row["branch"], row["class"]) for row in rows] == [
        ("c7", "main", name) for name in names[1:]
    ]
    (path,) = (trained.folder / "masks").glob("c7_*")
    label = voxels(next((trained.folder / "data" / "label").glob("c7.*")))
    for value, (target, row) in enumerate(zip(targets, rows, strict=True), start=1):
        mask, reference = voxels(path) == value, label == target
        total = mask.sum() + reference.sum()
        dice = 2 * (mask & reference).sum() / total
        assert float(row["dice"]) == pytest.approx(dice, abs=1e-6)
        assert int(row["prediction_voxels"]) == mask.sum()


def test_masks_have_their_images_grid(trained: Any) -> None:
    images = sorted((trained.folder / "data" / "image").iterdir())
    masks = sorted((trained.folder / "masks").iterdir())
    assert len(images) == len(masks) == 8
    postfix = {"acdc_lv_mixed": "LV", "acdc_mixed": "heart", "la_mixed": "LA", "wbc_mixed": "cell"}
    for image, mask in zip(images, masks, strict=True):
        stem, dot, suffix = image.name.partition(".")
        assert mask.name == f"{stem}_{postfix[trained.name]}{dot}{suffix}"
        assert voxels(mask).shape == voxels(image).shape[: voxels(mask).ndim]
        assert voxels(mask).dtype == np.uint8
        if mask.suffix != ".png":
            np.testing.assert_allclose(nib.load(mask).affine, nib.load(image).affine, atol=1e-5)


def test_mixseg_predict_writes_the_same_masks(trained: Any, tmp_path: Path) -> None:
    """From a copy of the bundle's folder, where its own training's weights are found."""
    bundle = tmp_path / trained.name
    (bundle / "configs").mkdir(parents=True)
    for name in ("inference.yaml", "metadata.json"):
        source = BUNDLES / trained.name / "configs" / name
        (bundle / "configs" / name).write_bytes(source.read_bytes())
    (bundle / "models").mkdir()
    (bundle / "models" / "model.pt").write_bytes(b"what the bundle came with")
    (bundle / "eval" / "models").mkdir(parents=True)
    (bundle / "eval" / "models" / "model.pt").write_bytes(trained.weights.read_bytes())
    words = ["predict", bundle, "-i", trained.folder / "data" / "image", "-o", tmp_path / "out"]
    for name, value in trained.network.items():
        words += [f"--{name}", json.dumps(value)]
    words += ["--device", "cpu", "--preview-cases", 1, "--quiet"]
    result = CliRunner(env={"COLUMNS": "600"}).invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    assert str(bundle / "eval" / "models" / "model.pt") in result.output
    for mask in (trained.folder / "masks").iterdir():
        np.testing.assert_array_equal(voxels(tmp_path / "out" / mask.name), voxels(mask))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["images"]["predicted"] == 8
    assert len(list((tmp_path / "out" / "preview").iterdir())) == 1


@pytest.mark.parametrize("name", [*NAMES, "acdc_lv_confkd", "la_uamt", "wbc_dcr"])
def test_a_bundle_without_weights_says_how_to_get_some(
    name: str, tmp_path: Path, tools: SimpleNamespace
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    image = scan(tmp_path, "a", 0, tools)["image"]
    small = {} if name in NAMES else {"features": [2, 4, 4, 4, 4]}
    with pytest.raises(RuntimeError) as caught:
        run(name, "inference", "inference.yaml", bundle_root=folder, dataset_dir=tmp_path / image,
            output_dir=tmp_path / "out", **small)  # fmt: skip
    assert str(cause_of(caught.value)) == (
        f"'{name}' has no trained weights: train it in its folder with 'python -m monai.bundle run "
        "training --config_file configs/train.yaml --dataset_dir DATA', or use a bundle that comes "
        "with weights: acdc_mixed, acdc_lv_mixed, la_mixed or wbc_mixed"
    )


@pytest.mark.parametrize("path", sorted(BUNDLES.glob("*/configs/inference.yaml")), ids=str)
def test_every_inference_looks_for_weights_in_one_way(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    assert config["handlers"] == [{"_target_": "mixseg.handlers.inference_handlers"}]
    assert {"network", "bundle_root", "checkpoint"} <= set(config)  # which these read by name
