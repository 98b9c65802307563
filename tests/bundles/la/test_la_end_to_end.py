"""Training, evaluation and inference of the 3D bundle on tiny scans, from files to files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch

from mixseg.networks import DualBranchVNet

Tools = SimpleNamespace


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def infer(tools: Tools, run: Any, source: Path, output: Path, **settings: Any) -> None:
    weights = run.models / "model.pt"
    places = {"dataset_dir": source, "output_dir": output, "checkpoint": weights}
    tools.run_bundle("inference", "inference.yaml", **{**tools.network, **places, **settings})


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_training_leaves_weights_history_and_pictures(la_run: Any) -> None:
    network = DualBranchVNet(features=[2, 2, 4, 4, 4])
    state = torch.load(la_run.models / "model.pt", weights_only=True)
    network.load_state_dict(state, strict=True)
    assert all(torch.isfinite(v).all() for v in state.values())
    rows = read_csv(la_run.output / "history.csv")
    assert [row["iteration"] for row in rows] == ["2", "4"]
    for row in rows:
        # The joint objective, eq. 5, with the default weights.
        terms = {name: float(row[name]) for name in ("ce_full", "ce_weak", "kd", "entropy")}
        joint = terms["ce_full"] + 0.001 * terms["ce_weak"] + 50 * terms["kd"] + terms["entropy"]
        assert float(row["loss"]) == pytest.approx(joint, rel=1e-5)
    for name in ("curves.png", "cases.png"):
        assert (la_run.output / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_weights(
    la_run: Any, la_tools: Tools, tmp_path: Path
) -> None:
    places = {"output_dir": tmp_path / "out", "ckpt_dir": tmp_path / "models"}
    settings = {**la_tools.tiny, **places, "dataset_dir": la_run.data}
    la_tools.run_bundle("training", "train.yaml", **{**settings, "max_epochs": 1})
    la_tools.run_bundle("training", "train.yaml", **settings, resume=True)
    once, twice = (
        torch.load(folder / "checkpoint.pt", weights_only=True)
        for folder in (la_run.output, tmp_path / "out")
    )
    assert twice["iteration"] == 4
    for name, value in once["networks"].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, twice["networks"][name]), name


def test_scores_in_voxels_and_mm_are_those_of_the_masks(
    la_run: Any, la_tools: Tools, tmp_path: Path
) -> None:
    """The test scan has voxels of 0.5 × 0.5 × 2 mm, axes to the left, back and head."""
    data, affine = tmp_path / "data", np.diag([-0.5, -0.5, 2.0, 1.0])
    content = la_tools.write_datalist(data, training=1)
    image, label = la_tools.atrium((60, 64, 14), 9)
    for kind, values in (("image", image), ("label", label)):
        la_tools.save(data / content["test"][0][kind], values, affine)
    places = {"dataset_dir": data, "output_dir": tmp_path / "scores", "ckpt_dir": la_run.models}
    la_tools.run_bundle("evaluating", "train.yaml", "evaluate.yaml", **la_tools.tiny, **places)
    rows = {row["branch"]: row for row in read_csv(tmp_path / "scores" / "metrics.csv")}
    assert set(rows) == {"teacher", "student", "ensemble"}
    infer(la_tools, la_run, data / content["test"][0]["image"], tmp_path / "masks")
    (path,) = (tmp_path / "masks").iterdir()
    mask, reference = voxels(path) == 1, label == 1
    row = rows["student"]
    dice = 2 * (mask & reference).sum() / (mask.sum() + reference.sum())
    assert float(row["dice"]) == pytest.approx(dice, abs=1e-6)
    assert int(row["reference_voxels"]) == reference.sum()
    # An empty or full prediction has no surface to speak of; the untrained network's may be either.
    voxel, millimeter = float(row["hd95_vox"]), float(row["hd95_mm"])
    assert 0.5 * voxel <= millimeter <= 2.0 * voxel
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text())
    assert summary["configuration"]["crop_size"] == [32, 32, 16]
    assert (tmp_path / "scores" / "cases.png").read_bytes().startswith(b"\x89PNG")


def oblique(degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    affine = np.diag([0.9, 1.1, 1.5, 1.0])
    affine[:3, 3] = (12.0, -7.0, 30.0)
    rotation = np.eye(4)
    rotation[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return rotation @ affine


@pytest.mark.parametrize(
    "affine",
    [np.diag([1.0, 1, 1, 1]), np.diag([-0.625, -0.625, 1.25, 1]), oblique(20)],
    ids=["RAS", "LPS, anisotropic", "oblique"],
)
def test_masks_keep_the_scans_geometry_whatever_the_format(
    la_run: Any, la_tools: Tools, tmp_path: Path, affine: np.ndarray
) -> None:
    image = la_tools.atrium((40, 33, 18), 4)[0]
    la_tools.save(tmp_path / "nifti" / "scan.nii.gz", image, affine)
    la_tools.save_nrrd(tmp_path / "nrrd" / "scan.nrrd", image, affine)
    masks = []
    for kind in ("nifti", "nrrd"):
        infer(la_tools, la_run, tmp_path / kind, tmp_path / f"{kind}_masks")
        mask = nib.load(tmp_path / f"{kind}_masks" / "scan_LA.nii.gz")
        assert mask.shape == image.shape
        np.testing.assert_allclose(mask.affine, affine, atol=1e-4)
        assert mask.header.get_xyzt_units()[0] == "mm"
        masks.append(np.asarray(mask.dataobj))
    np.testing.assert_array_equal(*masks)


def test_the_same_scan_turned_otherwise_gives_the_same_mask(
    la_run: Any, la_tools: Tools, tmp_path: Path
) -> None:
    image = la_tools.atrium((32, 48, 16), 3)[0]
    la_tools.save(tmp_path / "scan" / "straight.nii.gz", image)
    # The same voxels at the same places in the room, stored with other axes.
    turned = nib.as_closest_canonical(nib.Nifti1Image(image, np.eye(4))).as_reoriented(
        np.array([[1, -1], [2, 1], [0, -1]])
    )
    la_tools.save(tmp_path / "scan" / "turned.nii.gz", np.asarray(turned.dataobj), turned.affine)
    infer(la_tools, la_run, tmp_path / "scan", tmp_path / "masks")
    straight, other = (
        nib.load(tmp_path / "masks" / f"{name}_LA.nii.gz") for name in ("straight", "turned")
    )
    assert other.shape == turned.shape != straight.shape
    back = nib.as_closest_canonical(other)
    np.testing.assert_array_equal(np.asarray(back.dataobj), np.asarray(straight.dataobj))


def test_windows_and_the_whole_volume_see_the_same_scan(
    la_run: Any, la_tools: Tools, tmp_path: Path
) -> None:
    """Where one window holds the scan, both ways are one forward pass."""
    la_tools.save(tmp_path / "scan.nii.gz", la_tools.atrium((32, 32, 16), 2)[0])
    for whole in (True, False):
        output = tmp_path / f"whole_{whole}"
        infer(la_tools, la_run, tmp_path / "scan.nii.gz", output, whole_volume=whole)
    masks = [voxels(tmp_path / f"whole_{whole}" / "scan_LA.nii.gz") for whole in (True, False)]
    np.testing.assert_array_equal(*masks)


@pytest.mark.slow
def test_an_exported_network_gives_the_same_mask(
    la_run: Any, la_tools: Tools, tmp_path: Path
) -> None:
    la_tools.save(tmp_path / "scan.nii.gz", la_tools.atrium((40, 36, 20), 2)[0])
    monai.bundle.ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(la_run.models / "model.pt"),
        meta_file=str(la_tools.configs / "metadata.json"),
        config_file=str(la_tools.configs / "inference.yaml"),
        use_trace=True,
        features=la_tools.network["features"],
    )
    masks = []
    for name, settings in {"weights": {}, "exported": {"exported": tmp_path / "model.ts"}}.items():
        infer(la_tools, la_run, tmp_path / "scan.nii.gz", tmp_path / name, **settings)
        masks.append(voxels(tmp_path / name / "scan_LA.nii.gz"))
    np.testing.assert_array_equal(*masks)


def test_the_largest_component_alone_is_kept(la_run: Any, la_tools: Tools, tmp_path: Path) -> None:
    """Weights that answer with the image itself: two bright blocks, the smaller one goes."""
    image = np.zeros((40, 36, 20), np.int16)
    image[4:10, 4:10, 4:10] = 100
    image[20:34, 16:30, 4:14] = 100
    la_tools.save(tmp_path / "scan.nii.gz", image)
    sizes = []
    for keep in (False, True):
        infer(
            la_tools,
            la_run,
            tmp_path / "scan.nii.gz",
            tmp_path / f"{keep}",
            largest_component=keep,
            **{"network": "$torch.nn.Sequential(torch.nn.Conv3d(1, 2, 1))"},
            **{
                "handlers": [],
                "initialize": "$@network[0].load_state_dict({'weight': torch.tensor([-1.0, 1.0])"
                ".reshape(2, 1, 1, 1, 1), 'bias': torch.zeros(2)})",
            },
        )
        sizes.append(int(voxels(tmp_path / f"{keep}" / "scan_LA.nii.gz").sum()))
    assert sizes == [6**3 + 14 * 14 * 10, 14 * 14 * 10]
