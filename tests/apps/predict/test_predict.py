"""``mixseg predict``: the bundle's own masks, and what is written beside them."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import itk
import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import entropy as scipy_entropy
from typer.testing import CliRunner

from mixseg.apps.predict.images import InputCase, join_channels
from mixseg.apps.predict.pipeline import Prediction
from mixseg.cli.main import app
from mixseg.networks import DualBranchUNet, DualBranchVNet


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_masks_are_those_of_the_bundle(
    predictor: Any, images: Path, tmp_path: Path, read_report: Any
) -> None:
    output, other = tmp_path / "masks", tmp_path / "monai"
    result = predictor(images, output)
    assert result.exit_code == 0, result.output
    assert f"3 predicted: masks and report.html are in {output}" in result.output
    predictor.by_monai(images, other)
    names = [f"{name}_LV.nii.gz" for name in "abc"]
    # The empty lock stays, hidden.
    written = [".lock", *names, "report.csv", "report.html", "report.json"]
    assert sorted(path.name for path in output.iterdir()) == written
    for name in names:
        mask, image = nib.load(output / name), nib.load(images / name.replace("_LV", ""))
        np.testing.assert_array_equal(voxels(output / name), voxels(other / name))
        assert mask.shape == image.shape
        assert mask.get_data_dtype() == np.uint8
        assert mask.header.get_xyzt_units() == ("mm", "sec")
        np.testing.assert_allclose(mask.affine, image.affine, atol=1e-6)
        assert 0 < voxels(output / name).mean() < 1
    report = read_report(output)
    assert report["images"] == {"given": 3, "predicted": 3, "found_finished": 0, "failed": 0}
    digest = hashlib.sha256(predictor.weights.read_bytes()).hexdigest()
    assert (report["bundle"], report["weights_sha256"]) == ("acdc_lv_confkd", digest)
    assert (report["device"], report["settings"]) == ("cpu", predictor.settings)
    assert report["versions"]["torch"] == version("torch")
    assert report["peak_memory_mb"] > 50
    (second,) = [case for case in report["cases"] if case["case_id"] == "b"]
    count = int(voxels(output / "b_LV.nii.gz").sum())
    assert (second["shape"], second["spacing_mm"]) == ([31, 28, 5], [1.5, 1.25, 8.0])
    assert second["voxels"] == {"LV": count}
    # 1.5 · 1.25 · 8 = 15 mm³ a voxel, 1000 mm³ a millilitre.
    assert second["ml"]["LV"] == pytest.approx(count * 0.015, abs=5e-4)
    assert second["warnings"] == []
    with (output / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case_id"] for row in rows] == ["a", "b", "c"]
    assert rows[1]["status"] == "predicted"
    assert (rows[1]["voxels_LV"], rows[1]["shape"]) == (str(count), "31x28x5")
    assert float(rows[1]["ml_LV"]) == second["ml"]["LV"]


def test_probabilities_and_entropy_belong_to_the_mask(
    predictor: Any, images: Path, tmp_path: Path, read_report: Any
) -> None:
    output = tmp_path / "masks"
    # The crop leaves a frame that the network does not see.
    result = predictor(
        images / "a.nii.gz", output, "--probabilities", "--entropy", crop_size=[16, 16]
    )
    assert result.exit_code == 0, result.output
    mask = nib.load(output / "a_LV.nii.gz")
    stored = nib.load(output / "a_LV_probabilities.nii.gz")
    uncertain = nib.load(output / "a_LV_entropy.nii.gz")
    for image in (stored, uncertain):
        assert image.get_data_dtype() == np.float32
        assert image.header.get_xyzt_units()[0] == "mm"
        np.testing.assert_allclose(image.affine, mask.affine)
    p = stored.get_fdata()
    assert p.shape == (30, 28, 4, 2)
    np.testing.assert_allclose(p.sum(axis=-1), 1, atol=2e-3)
    np.testing.assert_array_equal(p.argmax(axis=-1), mask.get_fdata())
    assert p[0, 0, 0].tolist() == [1, 0]
    expected = scipy_entropy(p, axis=-1, base=2)
    np.testing.assert_allclose(uncertain.get_fdata(), expected, atol=2e-3)
    assert uncertain.get_fdata()[0, 0, 0] == 0
    (case,) = read_report(output)["cases"]
    assert case["mean_entropy"] == pytest.approx(expected.mean(), abs=1e-3)


def test_entropy_is_one_where_nothing_is_known() -> None:
    third = np.full((3, 1, 1, 2), 1 / 3, np.float32)
    third[:, 0, 0, 1] = (1, 0, 0)
    mask = np.zeros((1, 1, 2), np.uint8)
    prediction = Prediction(mask, third, {}, None, constant=False, warnings=())
    entropy = prediction.entropy()
    assert entropy is not None
    np.testing.assert_allclose(entropy, [[[1, 0]]], atol=1e-6)


def test_volumes_of_the_3d_bundle_in_every_format_and_orientation(
    predictor: Any, tmp_path: Path, read_report: Any
) -> None:
    predictor.bundle = predictor.bundle.with_name("la_confkd")
    predictor.settings = {
        "features": [2, 2, 4, 4, 4],
        "spacing": [2.0, 2.0, 2.0],
        "crop_size": [16, 16, 16],
        "dropout": 0,
    }
    torch.manual_seed(3)  # one that predicts both classes
    network = DualBranchVNet(features=predictor.settings["features"], dropout=0)
    torch.save(network.state_dict(), predictor.weights)
    images, output, other = (tmp_path / name for name in ("scans", "masks", "monai"))
    images.mkdir()
    values = np.random.default_rng(0).integers(0, 300, (20, 24, 18)).astype(np.int16)
    turned = np.array([[0, -1.5, 0, 9], [-2, 0, 0, 8], [0, 0, 1.0, -7], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(values, turned), images / "one.nii")
    image = itk.image_from_array(np.ascontiguousarray(values.T))
    image.SetSpacing([1.0, 2.0, 2.5])
    itk.imwrite(image, str(images / "two.nrrd"))
    itk.imwrite(image, str(images / "three.mha"))
    result = predictor(images, output, "--preview", "--preview-cases", "1")
    assert result.exit_code == 0, result.output
    predictor.by_monai(images, other)
    for name in ("one", "two", "three"):
        mask = voxels(output / f"{name}_LA.nii.gz")
        np.testing.assert_array_equal(mask, voxels(other / f"{name}_LA.nii.gz"))
        assert mask.shape == (20, 24, 18)
        assert 0 < mask.mean() < 1
    np.testing.assert_allclose(nib.load(output / "one_LA.nii.gz").affine, turned)
    cases = {case["case_id"]: case for case in read_report(output)["cases"]}
    # Columns of the affine: 2, 1.5 and 1 mm, 0.003 ml; units unknown, but not 1 × 1 × 1.
    assert cases["one"]["spacing_mm"] == [2, 1.5, 1]
    assert cases["one"]["ml"]["LA"] == pytest.approx(0.003 * cases["one"]["voxels"]["LA"])
    assert cases["two"]["spacing_mm"] == [1, 2, 2.5]
    # Three planes of three cells of the first case alone.
    assert [path.name for path in (output / "preview").iterdir()] == ["one_LA.png"]
    with Image.open(output / "preview" / "one_LA.png") as picture:
        assert picture.size[1] > picture.size[0] / 3


def test_pictures_get_masks_of_their_size(predictor: Any, tmp_path: Path, read_report: Any) -> None:
    torch.manual_seed(3)
    network = DualBranchUNet(features=[2, 4, 8], in_channels=3)
    torch.save(network.state_dict(), predictor.weights)
    pixels = np.random.default_rng(0).integers(0, 255, (20, 24, 3)).astype(np.uint8)
    (tmp_path / "cells").mkdir()
    Image.fromarray(pixels).save(tmp_path / "cells" / "one.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "cells" / "two.png")
    bundle = tmp_path / "colors"
    shutil.copytree(predictor.bundle / "configs", bundle / "configs")
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    metadata["network_data_format"]["inputs"]["image"]["num_channels"] = 3
    (bundle / "configs" / "metadata.json").write_text(json.dumps(metadata))
    predictor.bundle = bundle
    more = {"in_channels": 3, "output_ext": ".png"}
    result = predictor(tmp_path / "cells", tmp_path / "masks", "--preview", **more)
    assert result.exit_code == 1
    assert "two.png: the image has 1 channels (24×20), the bundle takes 3" in result.output
    with Image.open(tmp_path / "masks" / "one_LV.png") as mask:
        assert mask.size == (24, 20)
        count = int(np.count_nonzero(np.asarray(mask)))
    assert count > 0
    (case,) = read_report(tmp_path / "masks")["cases"]
    assert (case["voxels"], case["ml"], case["spacing_mm"]) == ({"LV": count}, None, None)
    assert case["warnings"] == ["the voxel size is not known: sizes are in voxels, not in ml"]
    assert (tmp_path / "masks" / "preview" / "one_LV.png").is_file()


def test_stored_halves_predict_as_monai_predicts_with_them(
    predictor: Any, as_run: Callable[..., Path], images: Path, tmp_path: Path, read_report: Any
) -> None:
    state = torch.load(predictor.weights, weights_only=True)
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    torch.save(half, tmp_path / "half.pt")
    bundle = as_run(
        predictor.bundle, tmp_path / "small", tmp_path / "half.pt", **predictor.settings
    )
    words = ["predict", bundle, "-i", images, "-o", tmp_path / "masks", "--quiet", "--no-preview"]
    result = CliRunner(env={"COLUMNS": "600"}).invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    weights = str(bundle / "models" / "model.pt")
    monai.bundle.run(
        run_id="inference",
        config_file=str(bundle / "configs" / "inference.yaml"),
        logging_file=False,
        dataset_dir=str(images),
        output_dir=str(tmp_path / "monai"),
        checkpoint=weights,
        progress=False,
    )
    for name in "abc":
        mask = voxels(tmp_path / "masks" / f"{name}_LV.nii.gz")
        np.testing.assert_array_equal(mask, voxels(tmp_path / "monai" / f"{name}_LV.nii.gz"))
    assert read_report(tmp_path / "masks")["weights"] == weights


def test_configurations_and_settings_are_passed_on(
    predictor: Any, images: Path, tmp_path: Path
) -> None:
    teacher, student, other = (tmp_path / name for name in ("teacher", "student", "other"))
    assert predictor(images / "a.nii.gz", student).exit_code == 0
    assert predictor(images / "a.nii.gz", teacher, branch="teacher").exit_code == 0
    overlay = tmp_path / "other.yaml"
    overlay.write_text("branch: teacher\noutput_postfix: heart\n")
    assert predictor(images / "a.nii.gz", other, "--config", overlay).exit_code == 0
    one, two = voxels(teacher / "a_LV.nii.gz"), voxels(student / "a_LV.nii.gz")
    assert (one != two).any()
    np.testing.assert_array_equal(voxels(other / "a_heart.nii.gz"), one)


def test_a_dicom_series_gets_the_mask_of_the_same_scan_in_nifti(
    predictor: Any, tmp_path: Path, write_series: Callable[..., Path]
) -> None:
    values = np.random.default_rng(0).integers(0, 500, (24, 20, 4)).astype(np.int16)
    series = write_series(
        tmp_path / "1.2.840.113619", values, spacing=(1.5, 1.25, 8.0), origin=(3, -4, 10)
    )
    affine = np.diag([-1.5, -1.25, 8.0, 1.0])
    affine[:3, 3] = (-3, 4, 10)
    image = nib.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "same.nii.gz")
    assert predictor(series, tmp_path / "one").exit_code == 0
    assert predictor(tmp_path / "same.nii.gz", tmp_path / "two").exit_code == 0
    one = nib.load(tmp_path / "one" / "1.2.840.113619_LV.nii.gz")
    two = nib.load(tmp_path / "two" / "same_LV.nii.gz")
    np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(two.dataobj))
    np.testing.assert_allclose(one.affine, affine, atol=1e-5)
    again = predictor(series, tmp_path / "one")
    assert "0 predicted, 1 were finished already" in again.output


def test_files_named_as_channels_are_one_case_where_the_bundle_takes_as_many() -> None:
    names = ("a_0000", "a_0001", "b_0000", "b_0001")
    cases = [InputCase(Path(f"in/{name}.nii.gz"), name) for name in names]
    joined = join_channels(cases, 2)
    assert [case.case_id for case in joined] == ["a", "b"]
    assert joined[1].source == ["in/b_0000.nii.gz", "in/b_0001.nii.gz"]
    assert join_channels(cases, 1) == cases
    assert join_channels(cases[:3], 2) == cases[:3]


def test_masks_of_nrrd_as_nrrd_lie_on_their_images(
    predictor: Any, images: Path, tmp_path: Path
) -> None:
    """An oblique scan, read and written, against ITK's own reading of both headers."""
    turn = np.deg2rad(25)
    direction = np.array(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, -1.0]]
    )
    values = np.asarray(nib.load(images / "b.nii.gz").dataobj)
    scan = itk.image_from_array(np.ascontiguousarray(values.T.astype(np.int16)))
    scan.SetSpacing((1.5, 1.25, 8.0))
    scan.SetOrigin((12.0, -7.0, 30.0))
    scan.SetDirection(itk.matrix_from_array(direction))
    (tmp_path / "in").mkdir()
    itk.imwrite(scan, str(tmp_path / "in" / "s.nrrd"))
    for ext in (".nrrd", ".mha", ".nii.gz"):
        result = predictor(tmp_path / "in", tmp_path / ext[1:], "--output_ext", ext)
        assert result.exit_code == 0, result.output
    same = np.asarray(nib.load(tmp_path / "nii.gz" / "s_LV.nii.gz").dataobj)
    assert 0 < same.mean() < 1
    for ext in (".nrrd", ".mha"):
        mask = itk.imread(str(tmp_path / ext[1:] / f"s_LV{ext}"))
        np.testing.assert_array_equal(itk.array_from_image(mask).T, same)
        assert itk.array_from_image(mask).dtype == np.uint8
        for name in ("GetSpacing", "GetOrigin"):
            np.testing.assert_allclose(getattr(mask, name)(), getattr(scan, name)(), atol=1e-4)
        np.testing.assert_allclose(itk.array_from_matrix(mask.GetDirection()), direction, atol=1e-6)
    refused = predictor(tmp_path / "in", tmp_path / "no", "--output_ext", ".xyz")
    assert "output_ext must be one of .nii.gz, .nii, .nrrd, .mha, .png, got '.xyz'" in " ".join(
        refused.output.split()
    )


def test_dicom_seg_beside_the_mask(
    predictor: Any, tmp_path: Path, write_series: Callable[..., Path]
) -> None:
    highdicom = pytest.importorskip("highdicom", reason="needs mixseg[dicom]")
    values = np.random.default_rng(0).integers(0, 500, (24, 20, 4)).astype(np.int16)
    tags = {"0010|0010": "Doe^Jane", "0010|0020": "P7", "0010|0030": "", "0010|0040": "F"} | {
        "0008|0020": "20240102", "0008|0030": "101112", "0008|0050": "", "0020|0010": "S1",
        "0008|0090": "",
    }  # fmt: skip
    series = write_series(tmp_path / "scan", values, spacing=(1.5, 1.25, 8.0), tags=tags)
    result = predictor(series, tmp_path / "out", "--dicom-seg")
    assert result.exit_code == 0, result.output
    mask = np.asarray(nib.load(tmp_path / "out" / "scan_LV.nii.gz").dataobj)
    seg = highdicom.seg.segread(tmp_path / "out" / "scan_LV.dcm")
    assert seg.get_segment_description(1).segment_label == "LV"
    frames = seg.get_volume(combine_segments=True).array
    assert int((frames == 1).sum()) == int(mask.sum()) > 0
    again = predictor(series, tmp_path / "out", "--dicom-seg")
    assert "0 predicted, 1 were finished already" in again.output


def test_dicom_seg_is_refused_where_it_cannot_be(
    predictor: Any, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixseg.apps.predict.predict.require_highdicom", lambda: None)
    refused = predictor(images, tmp_path / "out", "--dicom-seg")
    assert refused.exit_code == 1
    said = " ".join(refused.output.split())
    assert "--dicom-seg needs DICOM scans, but 3 of 3 images are not" in said
    assert not (tmp_path / "out").exists()
