"""What needs MONAI Label itself; a whole server is benchmarks/label_end_to_end.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

pytest.importorskip("monailabel", reason="MONAI Label is not installed (docs/monai_label.md)")

from fastapi import HTTPException

from mixseg.apps.label import scoring as active
from mixseg.apps.label.datastore import LabelDatastore
from mixseg.apps.label.inference import StudentInferTask
from mixseg.apps.label.model import make_model_folder
from mixseg.engines import precision

BUNDLES = Path(__file__).resolve().parents[3] / "bundles"
EXTENSIONS = ["*.nii.gz"]


def test_the_most_unsure_scan_that_was_not_handed_out_comes_first() -> None:
    scores = {"a": {"entropy": 0.2}, "b": {"entropy": 0.9}, "c": {"entropy": 0.9}}
    images = ["d", "c", "b", "a"]
    assert active.pick(images, scores, {}) == "b"  # ties by name
    assert active.pick(images, scores, {"b": 100.0}) == "c"
    assert active.pick(images, scores, {"b": 100.0, "c": 101.0}) == "a"
    # 'd' has no score: after those with one, before those that were handed out.
    assert active.pick(images, scores, {"b": 9.0, "c": 8.0, "a": 10.0}) == "d"
    assert active.pick(images, scores, {"b": 9.0, "c": 8.0, "a": 10.0, "d": 11.0}) == "c"
    assert active.pick([], scores, {}) is None


def test_scores_of_other_weights_are_renewed_after_those_that_are_missing(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model.pt").write_bytes(b"1")
    now = active.weights_id(tmp_path)
    content = {"a": {"entropy": 1, "weights": "old"}, "b": {"entropy": 1, "weights": now}}
    (tmp_path / "scores.json").write_text(json.dumps(content))
    assert active.unscored(tmp_path, ["a", "b", "c"]) == ["c", "a"]


def test_a_label_survives_another_process_that_writes_the_datastore(tmp_path: Path) -> None:
    for name in "ab":
        nib.save(nib.Nifti1Image(np.zeros((2, 2, 2)), np.eye(4)), tmp_path / f"{name}.nii.gz")
    server = LabelDatastore(str(tmp_path), extensions=EXTENSIONS)
    other = LabelDatastore(str(tmp_path), extensions=EXTENSIONS)
    server.save_label("a", str(tmp_path / "a.nii.gz"), "final", {"supervision": "partial"})
    # MONAI Label's own class would write what it read before.
    other.save_label("b", str(tmp_path / "b.nii.gz"), "original", {})
    objects = json.loads((tmp_path / "datastore_v2.json").read_text())["objects"]
    assert objects["a"]["labels"]["final"]["info"]["supervision"] == "partial"
    assert list(objects["b"]["labels"]) == ["original"]
    assert LabelDatastore(str(tmp_path), extensions=EXTENSIONS).get_labeled_images() == ["a"]


@pytest.mark.parametrize(
    ("bundle", "settings"),
    [
        ("acdc_lv_confkd", {"features": [2, 4, 8], "slice_size": [32, 32]}),
        ("la_confkd", {"features": [2, 4, 8], "crop_size": [16, 16, 16], "spacing": [1, 1, 2]}),
        ("acdc_lv_mixed", {"features": [2, 4, 4], "crop_size": [32, 32], "spatial_size": [16, 16]}),
        ("la_mixed", {"features": [2, 4, 4], "crop_size": [16, 16, 16], "spacing": [1, 1, 2]}),
    ],
)
def test_the_mask_is_the_scan_s_grid_and_the_entropy_a_share(
    bundle: str, settings: dict, tmp_path: Path
) -> None:
    folder = tmp_path / bundle
    make_model_folder(BUNDLES / bundle, folder, None, settings)
    image = np.random.default_rng(0).normal(size=(20, 24, 12)).astype(np.float32)
    affine = np.diag([-1.5, 1.5, 2.0, 1.0])
    affine[:3, 3] = 4, 5, 6
    nib.save(nib.Nifti1Image(image, affine), tmp_path / "scan.nii.gz")
    task = StudentInferTask(folder, {})
    name = "lv" if bundle.startswith("acdc") else "la"
    assert task.info()["labels"] == {name: 1, "unlabeled": 2, "background_brush": 3}
    assert task.info()["dimension"] == 3
    path, answer = task({"image": str(tmp_path / "scan.nii.gz"), "device": "cpu"})
    mask = nib.load(path)
    assert mask.shape == image.shape
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_allclose(mask.affine, affine, atol=1e-5)
    assert answer["label_names"] == task.labels
    assert 0 < task.entropy(str(tmp_path / "scan.nii.gz"), "cpu") < 1


def test_the_network_runs_in_the_bundle_s_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    settings = {"features": [2, 4, 4], "crop_size": [32, 32], "spatial_size": [16, 16]}
    make_model_folder(BUNDLES / "acdc_lv_mixed", folder, None, settings)
    task = StudentInferTask(folder, {})
    network = task.bundle_config.get_parsed_content("network_def")
    network.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True))
    image = torch.rand(1, 16, 16, 1)
    for native, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(precision, "_has_native_bfloat16", lambda native=native: native)
        data = {"image": image, "model_filename": "model.pt", "logging": "WARNING"}
        found = task.run_inferer(data, device="cpu")["pred"]
        inferer = task.bundle_config.get_parsed_content("inferer")
        with torch.no_grad(), torch.autocast("cpu", dtype, enabled=native):
            wanted = inferer(image[None], network.eval())[0]
        assert torch.equal(torch.as_tensor(found), torch.as_tensor(wanted))


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder with the scan 'a', and a label of it that a colleague has put there."""
    folder = tmp_path / "studies"
    for path in (folder / "a.nii.gz", folder / "labels" / "final" / "a.nii.gz"):
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.ones((2, 2, 2)), np.eye(4)), path)
    return folder


@contextmanager
def refused(status: int) -> Iterator[None]:
    """An answer of that status is given in place of the work."""
    with pytest.raises(HTTPException) as caught:
        yield
    assert caught.value.status_code == status


def test_ids_and_tags_stay_in_the_folder(scans: Path, tmp_path: Path) -> None:
    store = LabelDatastore(str(scans), extensions=EXTENSIONS)
    upload = tmp_path / "upload.nii.gz"
    upload.write_bytes(b"x")
    before = sorted(tmp_path.rglob("*"))
    with refused(400):
        store.add_image("../outside", str(upload), {})
    for tag in ("../../outside", "/tmp", ".."):
        with refused(400):
            store.save_label("a", str(upload), tag, {})
    # Another kind of file: 'datastore_v2' with the suffix '.json' would be the store itself.
    other = tmp_path / "upload.json"
    other.write_text("{}")
    with refused(400):
        store.add_image("datastore_v2", str(other), {})
    assert sorted(tmp_path.rglob("*")) == sorted([*before, other])


def test_nothing_is_deleted_that_the_server_did_not_write(scans: Path, tmp_path: Path) -> None:
    store = LabelDatastore(str(scans), extensions=EXTENSIONS)
    upload = tmp_path / "upload.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2)), np.eye(4)), upload)
    label = scans / "labels" / "final" / "a.nii.gz"
    theirs = label.read_bytes()
    store.update_image_info("a", {"written_by_server": True})  # a client that says so
    with refused(403):
        store.remove_image("a")
    with refused(403):
        store.remove_label("a", "final")
    with refused(409):
        store.add_image("a", str(upload), {})
    assert (scans / "a.nii.gz").is_file()
    assert label.read_bytes() == theirs
    # A label that replaces the colleague's keeps it; the submitted one may go again.
    store.save_label("a", str(upload), "final", {})
    assert (scans / "labels" / ".replaced" / "final" / "a.nii.gz").read_bytes() == theirs
    assert label.read_bytes() == upload.read_bytes()
    store.remove_label("a", "final")
    assert not label.exists()
    store.add_image("b", str(upload), {})
    store.remove_image("b")
    assert sorted(path.name for path in scans.glob("*.nii.gz")) == ["a.nii.gz"]
