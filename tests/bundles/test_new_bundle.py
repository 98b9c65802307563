"""Bundles that ``mixseg new`` writes train, evaluate and predict as they are."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from mixseg.apps.pack.verify import verify_bundle
from mixseg.cli.main import app

CLASSES = ["background", "shell", "core", "spot"]


@dataclass(frozen=True)
class Data:
    """One kind of data.

    Attributes:
        classes: number of classes.
        write: (path stem, image (x, y[, z][, colors]), or a label) → file.
        read: a file as its array, axes as ``write`` takes them.
        shape: of an image, without colors.
        channels: 1 or 3.
        partial: how the training cases after the first two are labeled.
        words: further words of ``mixseg new``.
        unlabeled: the datalist's value.
        settings: that make training short.
        suffix: of the masks.
    """

    classes: int
    write: Callable[[Path, np.ndarray], Path]
    read: Callable[[Path], np.ndarray]
    shape: tuple[int, ...]
    channels: int = 1
    partial: str = "full"
    words: tuple[str, ...] = ()
    unlabeled: int | None = None
    settings: Any = None
    suffix: str = ".nii.gz"


def write_png(stem: Path, array: np.ndarray) -> Path:
    path = stem.with_name(stem.name + ".png")
    Image.fromarray(array.swapaxes(0, 1).astype(np.uint8)).save(path)
    return path


def read_png(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).swapaxes(0, 1)


def write_sagittal(stem: Path, array: np.ndarray) -> Path:
    """Slices across the first axis, 6 mm apart; the other axes run to inferior and anterior."""
    affine = np.array([[6, 0, 0, 3], [0, 0, 1.5, 7], [0, -1.5, 0, 40], [0, 0, 0, 1.0]])
    return write_nifti(stem, array, affine)


def write_nifti(stem: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path = stem.with_name(stem.name + ".nii.gz")
    image = nib.Nifti1Image(array, np.diag([1.25, 1.25, 2.0, 1.0]) if affine is None else affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def read_nifti(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


SMALL: dict[str, Any] = {"features": [4, 8, 8], "device": "cpu", "progress": False}
SHORT: dict[str, Any] = {"epoch_length": 2, "max_epochs": 1, "val_interval": 1}
KINDS = {
    "slices": Data(4, write_sagittal, read_nifti, (4, 40, 36), partial="scribbles", unlabeled=255),
    "color pictures": Data(
        3, write_png, read_png, (40, 36), 3, words=("--num-full", "2"), suffix=".png"
    ),
    "gray pictures": Data(2, write_png, read_png, (40, 36), suffix=".png"),
    "volumes": Data(
        3,
        write_nifti,
        read_nifti,
        (36, 40, 24),
        partial="scribbles",
        settings={"features": [2, 4, 4], "batch_full": 1, "batch_partial": 2},
    ),
    "volumes of confkd": Data(
        3,
        write_nifti,
        read_nifti,
        (36, 40, 24),
        partial="scribbles",
        words=("--from", "confkd"),
        settings={"features": [2, 2, 4, 4, 4], "batch_full": 1, "batch_partial": 2},
    ),
}


def picture(data: Data, number: int) -> tuple[np.ndarray, np.ndarray]:
    """An image and its mask: boxes within boxes, one class each, as bright as their number."""
    label = np.zeros(data.shape, np.uint8)
    for value in range(1, data.classes):
        # A slice axis is too short for margins.
        box = tuple(
            slice(4 * value, size - 4 * value - number % 3) if size > 30 else slice(None)
            for size in data.shape
        )
        label[box] = value
    noise = np.random.default_rng(number).normal(0, 5, (*data.shape, data.channels))
    image = 40 + 50.0 * label[..., None] + noise
    image = image.clip(0, 255).astype(np.uint8 if data.suffix == ".png" else np.int16)
    return image[..., 0] if data.channels == 1 else image, label


def write_data(data: Data, folder: Path) -> Path:
    """Four training cases, two for validation, two for test, and their datalist."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    unlabeled = data.classes if data.unlabeled is None else data.unlabeled
    content: dict[str, Any] = {"classes": CLASSES[: data.classes], "unlabeled": unlabeled}
    content |= {"training": [], "validation": [], "test": []}
    for i in range(8):
        image, label = picture(data, i)
        split = "training" if i < 4 else "validation" if i < 6 else "test"
        kind = "full"
        if data.partial == "scribbles" and i in (2, 3):
            kind, scribble = "partial", np.full_like(label, unlabeled)
            scribble[:, ::5] = label[:, ::5]
            label = scribble
        entry = {"case_id": f"c{i}", "supervision": kind}
        entry["image"] = str(data.write(folder / "images" / f"c{i}", image).relative_to(folder))
        entry["label"] = str(data.write(folder / "labels" / f"c{i}", label).relative_to(folder))
        content[split].append(entry)
    (folder / "datalist.json").write_text(json.dumps(content))
    return folder / "datalist.json"


def run(bundle: Path, run_id: str, *names: str, **settings: Any) -> None:
    """``python -m monai.bundle run`` in the bundle's folder, in this process."""
    files = [str(bundle / "configs" / name) for name in names]
    texts = {k: str(v) if isinstance(v, Path) else v for k, v in settings.items()}
    monai.bundle.run(
        run_id=run_id, config_file=files, logging_file=False, bundle_root=str(bundle), **texts
    )


@dataclass(frozen=True)
class Made:
    """A bundle that was made and trained."""

    data: Data
    datalist: Path
    bundle: Path
    settings: dict[str, Any]


@pytest.fixture(scope="module", params=sorted(KINDS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    data, folder = KINDS[request.param], tmp_path_factory.mktemp("own")
    datalist = write_data(data, folder / "data")
    words = ["new", "own", "--datalist", datalist, "--output", folder, "--quiet", *data.words]
    result = CliRunner().invoke(app, [str(w) for w in [*words, "--device", "cpu"]])
    assert result.exit_code == 0, result.output
    small = SMALL | {k: v for k, v in (data.settings or {}).items() if k == "features"}
    run(folder / "own", "training", "train.yaml", **(SMALL | SHORT | (data.settings or {})))
    return Made(data, datalist, folder / "own", small)


def confkd(data: Data) -> bool:
    return "confkd" in data.words


def test_training_leaves_weights_and_a_history(made: Made) -> None:
    state = torch.load(made.bundle / "eval" / "models" / "model.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in state.values())
    with open(made.bundle / "eval" / "history.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["iteration"] == "2"
    partial = made.data.partial == "scribbles" or bool(made.data.words)
    assert ("partial" in row or "ce_weak" in row) == partial
    branches = ("teacher", "student", "ensemble") if confkd(made.data) else ("main",)
    assert [name for name in row if name.startswith("val_dice_")] == [
        f"val_dice_{branch}" for branch in branches
    ]
    assert all(0 <= float(row[f"val_dice_{branch}"]) <= 1 for branch in branches)


def test_scores_are_those_of_the_masks_that_inference_writes(made: Made, tmp_path: Path) -> None:
    data = made.data
    settings = made.settings
    run(
        made.bundle,
        "evaluating",
        "train.yaml",
        "evaluate.yaml",
        output_dir=tmp_path / "t",
        **settings,
    )
    images = made.datalist.parent / "images"
    run(
        made.bundle,
        "inference",
        "inference.yaml",
        dataset_dir=images,
        output_dir=tmp_path / "m",
        **settings,
    )
    masks = sorted(p.name for p in (tmp_path / "m").iterdir())
    assert masks == [f"c{i}_seg{data.suffix}" for i in range(8)]
    with open(tmp_path / "t" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (3 if confkd(data) else 1) * (data.classes - 1)
    for row in rows:
        if row["branch"] not in ("student", "main"):
            continue
        case, value = row["case_id"], CLASSES.index(row["class"])
        mask = data.read(tmp_path / "m" / f"{case}_seg{data.suffix}")
        label = data.read(next((made.datalist.parent / "labels").glob(f"{case}.*")))
        assert mask.shape == label.shape == data.shape
        one, other = mask == value, label == value
        dice = 2 * (one & other).sum() / max((one | other).sum() + (one & other).sum(), 1)
        assert float(row["dice"]) == pytest.approx(dice, abs=1e-6)
        # Pictures have no spacing.
        assert (row["hd95_mm"] == "") == (data.suffix == ".png")


def test_masks_lie_on_their_images_grid(made: Made, tmp_path: Path) -> None:
    if made.data.suffix == ".png":
        pytest.skip("pictures have no geometry")
    image = next((made.datalist.parent / "images").glob("c6.*"))
    run(
        made.bundle,
        "inference",
        "inference.yaml",
        dataset_dir=image,
        output_dir=tmp_path,
        **made.settings,
    )
    mask = nib.load(tmp_path / "c6_seg.nii.gz")
    np.testing.assert_allclose(mask.affine, nib.load(image).affine, atol=1e-5)
    assert set(np.unique(mask.dataobj)) <= set(range(made.data.classes))


@pytest.mark.slow
def test_the_bundle_passes_verify_where_the_data_are_not(made: Made, tmp_path: Path) -> None:
    bundle = tmp_path / "own"
    shutil.copytree(made.bundle, bundle, ignore=shutil.ignore_patterns("models", "eval"))
    train = bundle / "configs" / "train.yaml"
    train.write_text(train.read_text().replace(str(made.datalist), "/absent/datalist.json"))
    outcomes = verify_bundle(bundle, run=True)
    assert {name: outcome.faults for name, outcome in outcomes.items() if outcome.faults} == {}
    ran = {name for name, outcome in outcomes.items() if not outcome.not_checked}
    assert {"metadata", "train and inference agree", "properties", "network in and out"} <= ran
