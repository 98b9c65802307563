"""Tiny data sets on disk, and bundles run on them in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.utils import set_determinism
from PIL import Image

from mixseg.configuration.loading import cause_of

from .runs import Run, run_files, save_datalist

CONFIGS = Path(__file__).resolve().parents[2] / "bundles" / "acdc_lv_confkd" / "configs"
CLASSES = ["background", "RV", "myocardium", "LV"]
#: Settings that make a run take seconds.
TINY: dict[str, Any] = {
    "features": [4, 8, 16],
    "slice_size": [32, 32],
    "epoch_length": 2,
    "batch_full": 2,
    "batch_partial": 3,
    "num_full": 2,
    "num_partial": 3,
    "max_epochs": 2,
    "val_interval": 2,
    "device": "cpu",
    "progress": False,
}


def save(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> None:
    """Write a NIfTI with voxels of 1.5 × 1.25 × 8 mm unless told otherwise."""
    image = nib.Nifti1Image(values, np.diag([1.5, 1.25, 8.0, 1.0]) if affine is None else affine)
    image.header.set_xyzt_units("mm", "sec")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


def heart(shape: tuple[int, int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image and its mask, with every class in every slice."""
    label = np.zeros(shape, np.uint8)
    label[2:6, 6:12] = 1
    label[7:19, 5:19] = 2
    label[9:17, 8:16] = 3
    noise = np.random.default_rng(seed).normal(0, 5, shape)
    return (40.0 * label + 50 + noise).astype(np.float32), label


def write_datalist(folder: Path, training: int = 6, scribbles: bool = False) -> dict[str, Any]:
    """Cases c0… with one patient each and their datalist.json: training, one val, one test."""
    content: dict[str, Any] = {"classes": CLASSES, "unlabeled": 4}
    names = {"training": range(training), "validation": [training], "test": [training + 1]}
    for split, numbers in names.items():
        content[split] = []
        for i in numbers:
            image, label = heart((26 + i, 30, 2 + i % 2), i)
            entry = {"case_id": f"c{i}", "supervision": "full"}
            for kind, values in (("image", image), ("label", label)):
                entry[kind] = f"{kind}/c{i}.nii.gz"
                save(folder / entry[kind], values)
            if scribbles:
                entry["scribble"] = f"scribble/c{i}.nii.gz"
                drawn = np.full_like(label, 4)
                drawn[12] = label[12]
                save(folder / entry["scribble"], drawn)
            content[split].append(entry)
    save_datalist(folder, content)
    return content


def write_cells(folder: Path, training: int = 6) -> dict[str, Any]:
    """Color pictures c0… of a cell with its nucleus, each a patient, and their datalist.json."""
    content: dict[str, Any] = {"classes": ["background", "cytoplasm", "nucleus"], "unlabeled": 3}
    names = {"training": range(training), "validation": [training], "test": [training + 1]}
    y, x = np.mgrid[:30, :34]
    for split, numbers in names.items():
        content[split] = []
        for i in numbers:
            distance = np.hypot(y - 14 - i % 3, x - 16 + i % 2)
            label = ((distance < 10).astype(np.uint8) + (distance < 5)).astype(np.uint8)
            noise = np.random.default_rng(i).integers(-20, 20, (*label.shape, 3))
            colors = np.array([[230, 220, 225], [200, 180, 210], [110, 70, 150]])
            files = {"image": np.clip(colors[label] + noise, 0, 255), "label": label}
            entry = {"case_id": f"c{i}", "supervision": "full"}
            for kind, values in files.items():
                entry[kind] = f"{kind}/c{i}.png"
                (folder / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(values.astype(np.uint8)).save(folder / entry[kind])
            content[split].append(entry)
    save_datalist(folder, content)
    return content


def write_official(folder: Path, patients: int = 10) -> None:
    """The layout of the official ACDC download, with end-diastole and end-systole."""
    for i in range(1, patients + 1):
        name = f"patient{i:03d}"
        for frame in (1, 9):
            image, label = heart((24 + i, 31, 2 + i % 2), 10 * i + frame)
            save(folder / name / f"{name}_frame{frame:02d}.nii.gz", image)
            save(folder / name / f"{name}_frame{frame:02d}_gt.nii.gz", label)
        (folder / name / "Info.cfg").write_text(f"ED: 1\nES: 9\nGroup: {'NOR' if i % 2 else 'DCM'}")


def run_bundle(run_id: str, *names: str, **settings: Any) -> None:
    """Run files of the bundle."""
    run_files(run_id, [CONFIGS / name for name in names], **settings)


@pytest.fixture(autouse=True)
def _random_again() -> Iterator[None]:
    """Runs fix the global seeds; other tests shall not depend on it."""
    yield
    set_determinism(None)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One training run on the official layout, two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    run = Run(folder / "acdc", folder / "output", folder / "models")
    write_official(run.data)
    settings = {"dataset_dir": run.data, "output_dir": run.output, "ckpt_dir": run.models}
    run_bundle("training", "train.yaml", **TINY, **settings)
    return run


@pytest.fixture(scope="session")
def tools() -> SimpleNamespace:
    """This file's functions and constants, since test modules cannot import a conftest."""
    return SimpleNamespace(
        configs=CONFIGS,
        tiny=TINY,
        save=save,
        heart=heart,
        write_cells=write_cells,
        write_datalist=write_datalist,
        save_datalist=save_datalist,
        run_bundle=run_bundle,
        run_files=run_files,
        cause=lambda error: str(cause_of(error)),
    )
