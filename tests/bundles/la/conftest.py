"""Tiny scans on disk, and the left-atrium bundle run on them in seconds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pytest

from mixseg.configuration.loading import cause_of

from ..runs import Run, run_files, save_datalist

CONFIGS = Path(__file__).resolve().parents[3] / "bundles" / "la_confkd" / "configs"
CLASSES = ["background", "LA"]
#: What inference must be told, too.
NETWORK: dict[str, Any] = {
    "features": [2, 2, 4, 4, 4],
    "spacing": [1.0, 1.0, 1.0],
    "crop_size": [32, 32, 16],
    "device": "cpu",
    "progress": False,
}
#: Settings that make a run take seconds.
TINY: dict[str, Any] = {
    **NETWORK,
    "epoch_length": 2,
    "batch_full": 1,
    "batch_partial": 2,
    "num_full": 1,
    "num_partial": 2,
    "max_epochs": 2,
    "val_interval": 2,
}


def atrium(shape: tuple[int, int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A scan and its mask, an ellipsoid off the center."""
    grid = np.indices(shape) / np.array(shape).reshape(3, 1, 1, 1)
    center = np.array([0.45, 0.55, 0.5]).reshape(3, 1, 1, 1)
    label = ((((grid - center) / [[[[0.3]]], [[[0.2]]], [[[0.35]]]]) ** 2).sum(0) < 1).astype(
        np.uint8
    )
    noise = np.random.default_rng(seed).normal(0, 8, shape)
    return np.round(60 + 90 * label + noise).clip(0).astype(np.int16), label


def save(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> None:
    """Write a NIfTI with voxels of 1 mm unless told otherwise."""
    image = nib.Nifti1Image(values, np.eye(4) if affine is None else affine)
    image.header.set_xyzt_units("mm")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)


def save_nrrd(path: Path, values: np.ndarray, affine: np.ndarray) -> None:
    """Write a NRRD of the same geometry as :func:`save` with this affine (RAS)."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = itk.image_from_array(np.ascontiguousarray(values.T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(lps[:3, :3] / spacing)))
    path.parent.mkdir(parents=True, exist_ok=True)
    itk.imwrite(image, str(path))


def write_datalist(folder: Path, training: int = 3) -> dict[str, Any]:
    """Scans c0… and their datalist.json: training, one for validation, one for test."""
    content: dict[str, Any] = {"classes": CLASSES, "unlabeled": 2}
    names = {"training": range(training), "validation": [training], "test": [training + 1]}
    for split, numbers in names.items():
        content[split] = []
        for i in numbers:
            entry = {"case_id": f"c{i}", "supervision": "full"}
            for kind, values in zip(("image", "label"), atrium((36 + i, 34, 20), i), strict=True):
                entry[kind] = f"{kind}/c{i}.nii.gz"
                save(folder / entry[kind], values)
            content[split].append(entry)
    save_datalist(folder, content)
    return content


def run_bundle(run_id: str, *names: str, **settings: Any) -> None:
    """Run files of the bundle."""
    run_files(run_id, [CONFIGS / name for name in names], **settings)


@pytest.fixture(scope="session")
def la_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One training run of two epochs."""
    folder = tmp_path_factory.mktemp("la_trained")
    run = Run(folder / "la", folder / "output", folder / "models")
    write_datalist(run.data)
    settings = {"dataset_dir": run.data, "output_dir": run.output, "ckpt_dir": run.models}
    run_bundle("training", "train.yaml", **TINY, **settings)
    return run


@pytest.fixture(scope="session")
def la_tools() -> SimpleNamespace:
    """This file's functions and constants, since test modules cannot import a conftest."""
    return SimpleNamespace(
        configs=CONFIGS,
        network=NETWORK,
        tiny=TINY,
        save=save,
        save_nrrd=save_nrrd,
        atrium=atrium,
        write_datalist=write_datalist,
        save_datalist=save_datalist,
        run_bundle=run_bundle,
        cause=lambda error: str(cause_of(error)),
    )
