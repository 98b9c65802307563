"""``mixseg.Bundle``: masks equal those of the command, arrays those of files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import mixseg
from mixseg.cli.main import app
from mixseg.networks import DualBranchUNet

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
FEATURES = [2, 4, 8]
AFFINE = np.diag([-1.5, -1.25, 8.0, 1.0])


def scan(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 500, (30 + seed, 28, 3)).astype(np.int16)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    torch.save(DualBranchUNet(features=FEATURES).state_dict(), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for seed, name in enumerate("ab"):
        nib.save(nib.Nifti1Image(scan(seed), AFFINE), folder / f"{name}.nii.gz")
    return folder


def test_import_takes_no_torch_and_knows_its_version() -> None:
    script = "import sys, mixseg; print(mixseg.__version__, 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [version("mixseg"), "False"]
    assert {"Bundle", "CaseResult", "__version__"} <= set(dir(mixseg))
    with pytest.raises(AttributeError, match="no attribute 'Bundel'"):
        mixseg.Bundel  # noqa: B018


def test_masks_are_those_of_the_command(tmp_path: Path, scans: Path, weights: Path) -> None:
    name = BUNDLES / "acdc_lv_confkd"
    words = ["predict", name, "-i", scans, "-o", tmp_path / "cli", "--weights", weights]
    words += ["--features", FEATURES, "--slice-size", "[32,32]", "--device", "cpu", "--quiet"]
    done = CliRunner().invoke(app, [*map(str, words), "--no-preview"])
    assert done.exit_code == 0, done.output
    bundle = mixseg.Bundle(name, weights=weights, device="cpu")
    settings = {"features": FEATURES, "slice_size": [32, 32]}
    results = bundle.predict(scans, **settings)
    assert [result.case_id for result in results] == ["a", "b"]
    for result, file in zip(results, sorted((tmp_path / "cli").glob("*.nii.gz")), strict=True):
        expected = nib.load(file)
        np.testing.assert_array_equal(result.mask, np.asarray(expected.dataobj))
        np.testing.assert_allclose(result.affine, expected.affine)
        assert result.path is None
        # 1.5 × 1.25 × 8 mm are 0.015 ml.
        assert result.volumes_ml == {"LV": pytest.approx(0.015 * (result.mask == 1).sum())}
        assert result.quality is not None
        assert 0 < result.quality <= 1
    array = bundle.predict(scan(1), affine=AFFINE, **settings)
    np.testing.assert_array_equal(array.mask, results[1].mask)
    assert (array.image, array.volumes_ml) == (None, results[1].volumes_ml)
    kept = bundle.predict([scans / "b.nii.gz"], tmp_path / "kept", **settings)
    assert kept[0].path is not None
    np.testing.assert_array_equal(np.asarray(nib.load(kept[0].path).dataobj), results[1].mask)
    assert (tmp_path / "kept" / "report.json").is_file()


def test_pictures_have_rows_and_columns(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = DualBranchUNet(in_channels=3, out_channels=3, features=FEATURES, branches=1)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    picture = np.random.default_rng(0).integers(0, 255, (40, 24, 3)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "cell.png")
    bundle = mixseg.Bundle(BUNDLES / "wbc_single", weights=tmp_path / "w.pt", device="cpu")
    settings = {"features": FEATURES, "slice_size": [32, 32]}
    (result,) = bundle.predict(tmp_path / "cell.png", tmp_path / "out", **settings)
    assert result.mask.shape == (40, 24)
    assert result.affine is None
    assert result.volumes_ml is None
    np.testing.assert_array_equal(result.mask, np.asarray(Image.open(result.path)))
    np.testing.assert_array_equal(bundle.predict(picture, **settings).mask, result.mask)


def test_what_cannot_be_predicted_is_named(tmp_path: Path, scans: Path, weights: Path) -> None:
    bundle = mixseg.Bundle(BUNDLES / "acdc_lv_confkd", weights=weights, device="cpu")
    settings = {"features": FEATURES, "slice_size": [32, 32]}
    (scans / "a.nii.gz").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"1 images could not .*\n .*a\.nii\.gz: .*not a readable"):
        bundle.predict(scans, **settings)
    with pytest.raises(ValueError, match=r"'feature' is not a setting .* --features"):
        bundle.predict(scans, feature=[1])
    with pytest.raises(ValueError, match="a volume needs its affine"):
        bundle.predict(scan(0))
    with pytest.raises(ValueError, match="there is no bundle 'absent'"):
        mixseg.Bundle("absent")


def test_dicom_seg_lies_beside_the_mask(
    tmp_path: Path, weights: Path, write_series: Callable[..., Path]
) -> None:
    bundle = mixseg.Bundle(BUNDLES / "acdc_lv_confkd", weights=weights, device="cpu")
    with pytest.raises(ValueError, match="give these, and an output"):
        bundle.predict(tmp_path, dicom_seg=True)
    highdicom = pytest.importorskip("highdicom", reason="needs mixseg[dicom]")
    tags = {"0010|0010": "Doe^Jane", "0010|0020": "P7", "0010|0030": "", "0010|0040": "F"} | {
        "0008|0020": "20240102", "0008|0030": "101112", "0008|0050": "", "0020|0010": "S1",
        "0008|0090": "",
    }  # fmt: skip
    series = write_series(tmp_path / "scan", scan(0), spacing=(1.5, 1.25, 8.0), tags=tags)
    (result,) = bundle.predict(
        series, tmp_path / "out", dicom_seg=True, features=FEATURES, slice_size=[32, 32]
    )
    assert result.dicom_seg is not None
    assert result.dicom_seg.parent == tmp_path / "out"
    frames = highdicom.seg.segread(result.dicom_seg).get_volume(combine_segments=True).array
    assert int((frames == 1).sum()) == int((result.mask == 1).sum()) > 0
