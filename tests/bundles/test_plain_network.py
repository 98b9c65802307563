"""A bundle of one branch with a plain network of MONAI's, chosen by network_def alone."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

CONFIGS = Path(__file__).resolve().parents[2] / "bundles" / "acdc_lv_confkd" / "configs"
IMAGE: dict[str, Any] = {
    "spatial_dims": 2,
    "in_channels": "@in_channels",
    "out_channels": "@num_classes",
}
SEGRESNET = {"_target_": "SegResNet", **IMAGE, "blocks_down": [1, 1, 1], "blocks_up": [1, 1]}
SWIN = {"_target_": "SwinUNETR", **IMAGE, "feature_size": 12, "depths": [1, 1, 1, 1]}


@pytest.mark.parametrize(
    ("network", "divisor", "size"), [(SEGRESNET, 4, 32), (SWIN, 32, 64)], ids=["SegResNet", "Swin"]
)
def test_it_trains_and_segments(
    tmp_path: Path, tools: SimpleNamespace, network: dict[str, Any], divisor: int, size: int
) -> None:
    """Two iterations; the scores are those of the masks that inference writes."""
    tools.write_datalist(tmp_path / "data")
    overlay = tmp_path / "segresnet.yaml"
    target = "mixseg.networks.SingleBranchNetwork"
    wrapped = {"_target_": target, "size_divisor": divisor, "network": network}
    row = yaml.safe_load((CONFIGS / "rows" / "single.yaml").read_text())
    settings = {name: value for name, value in row.items() if "#" not in name}
    overlay.write_text(yaml.safe_dump({"network_def": wrapped, **settings}))

    def run(run_id: str, *files: Path | str, **places: Any) -> None:
        known = ("slice_size", "device", "progress") if run_id == "inference" else tools.tiny
        values = {name: tools.tiny[name] for name in known if name != "features"}
        values["slice_size"] = [size, size]
        if run_id != "inference":
            values["max_epochs"] = 1
        if run_id == "inference":
            paths = {"checkpoint": tmp_path / "models" / "model.pt", **places}
        else:
            paths = {"dataset_dir": tmp_path / "data", "ckpt_dir": tmp_path / "models", **places}
        monai.bundle.run(
            run_id=run_id,
            config_file=[str(CONFIGS / file) for file in files],
            logging_file=False,
            **values,
            **{name: str(path) for name, path in paths.items()},
        )

    run("training", "train.yaml", overlay, output_dir=tmp_path / "run")
    state = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert {name.partition(".")[0] for name in state} == {"main"}
    run("evaluating", "train.yaml", overlay, "evaluate.yaml", output_dir=tmp_path / "scores")
    with open(tmp_path / "scores" / "metrics.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["branch"] == "main"
    image = tmp_path / "data" / "image" / f"{row['case_id']}.nii.gz"
    masks = tmp_path / "masks"
    run("inference", "inference.yaml", overlay, output_dir=masks, dataset_dir=image)
    (path,) = masks.iterdir()
    mask = np.asarray(nib.load(path).dataobj)
    label = np.asarray(nib.load(image.parents[1] / "label" / image.name).dataobj) == 3
    dice = 2 * (mask & label).sum() / (mask.sum() + label.sum())
    assert float(row["dice"]) == pytest.approx(dice, abs=1e-6)
