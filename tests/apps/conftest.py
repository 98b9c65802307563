"""Small images, made-up weights and the ``predict`` command, for the tests of predictions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner, Result

from mixseg.cli.main import app
from mixseg.configuration.yaml_text import set_values
from mixseg.networks import DualBranchUNet

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"


class Predictor:
    """The command on a bundle with weights of a small random network.

    Attributes:
        settings: of the network and its input, by name.
        weights: the file.
    """

    bundle = BUNDLES / "acdc_lv_confkd"

    def __init__(self, folder: Path) -> None:
        self.settings: dict[str, Any] = {"features": [2, 4, 8], "slice_size": [32, 32]}
        self.weights = folder / "weights.pt"
        torch.manual_seed(3)
        torch.save(DualBranchUNet(features=self.settings["features"]).state_dict(), self.weights)

    def __call__(self, source: Path, output: Path, *more: object, **settings: Any) -> Result:
        """Run ``mixseg predict``; ``more`` are further words, ``settings`` replace some."""
        words: list[object] = ["predict", self.bundle, "-i", source, "-o", output, "--quiet"]
        words += ["--checkpoint", self.weights, "--device", "cpu", "--no-preview", *more]
        for name, value in (self.settings | settings).items():
            words += [f"--{name}", json.dumps(value)]
        return CliRunner(env={"COLUMNS": "600"}).invoke(app, list(map(str, words)))

    def by_monai(self, source: Path, output: Path, **settings: Any) -> None:
        """The same masks by ``monai.bundle run inference``."""
        monai.bundle.run(
            run_id="inference",
            config_file=str(self.bundle / "configs" / "inference.yaml"),
            logging_file=False,
            dataset_dir=str(source),
            output_dir=str(output),
            checkpoint=str(self.weights),
            device="cpu",
            progress=False,
            **(self.settings | settings),
        )


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    """The command and its weights."""
    return Predictor(tmp_path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three volumes a, b, c of voxels of 1.5 × 1.25 × 8 mm, of 4, 5 and 6 slices."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, name in enumerate("abc"):
        shape = (30 + number, 28, 4 + number)
        values = np.random.default_rng(number).integers(0, 500, shape).astype(np.int16)
        image = nib.Nifti1Image(values, np.diag([-1.5, -1.25, 8.0, 1.0]))
        image.header.set_xyzt_units("mm", "sec")
        nib.save(image, folder / f"{name}.nii.gz")
    return folder


def report_of(output: Path) -> dict[str, Any]:
    """The report of a run."""
    content: dict[str, Any] = json.loads((output / "report.json").read_text())
    return content


@pytest.fixture
def read_report() -> Any:
    """Reads ``report.json`` of an output folder."""
    return report_of


@pytest.fixture(scope="session")
def as_run() -> Callable[..., Path]:
    """A bundle's folder as a training with some settings leaves it: (bundle, folder, weights)."""

    def make(bundle: Path, folder: Path, weights: Path, **settings: Any) -> Path:
        left_out = shutil.ignore_patterns("models", "eval", "large_files*")
        shutil.copytree(bundle, folder, ignore=left_out)
        for name in ("train.yaml", "inference.yaml"):
            path = folder / "configs" / name
            known = yaml.safe_load(path.read_text())
            own = {k: v for k, v in settings.items() if k in known}
            path.write_text(set_values(path.read_text(), own))
        (folder / "models").mkdir()
        shutil.copyfile(weights, folder / "models" / "model.pt")
        (folder / "record.json").write_text(json.dumps({"bundle": bundle.name}))
        return folder

    return make
