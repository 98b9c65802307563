"""What the model zoo's gate and Python users do with a packed bundle, by ``monai.bundle`` alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, create_workflow
from monai.data import load_net_with_metadata

from mixseg.apps.bundle.archive import unpack
from mixseg.apps.bundle.weights import build_network
from mixseg.apps.pack.export import export_bundle
from mixseg.apps.pack.pack import pack_bundle
from mixseg.configuration.loading import load

from .packed_place import put_weights

SOURCE = Path(__file__).resolve().parents[3] / "bundles" / "acdc_lv_confkd"
FEATURES = [2, 4, 8]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a packed bundle with a narrow network and random weights."""
    folder = tmp_path_factory.mktemp("packed")
    bundle = Path(shutil.copytree(SOURCE, folder / "source" / "acdc_lv_confkd"))
    put_weights(bundle, features=FEATURES)
    return unpack(pack_bundle(bundle, output=folder / "dist")[0], folder)


@pytest.fixture
def network(packed: Path) -> torch.nn.Module:
    """The bundle's own network with its weights."""
    network = build_network(packed / "configs" / "inference.yaml", {})
    network.load_state_dict(torch.load(packed / "models" / "model.pt", weights_only=True))
    return network.eval()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).normal(size=(40, 36, 3)).astype(np.float32)
    (tmp_path / "images").mkdir()
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "images" / "a.nii.gz")
    return tmp_path / "images"


def test_the_gate_of_the_model_zoo(packed: Path, tmp_path: Path) -> None:
    configs = packed / "configs"
    schema = shutil.copy(configs / "metadata.schema.json", tmp_path)
    monai.bundle.verify_metadata(meta_file=str(configs / "metadata.json"), filepath=str(schema))
    monai.bundle.verify_net_in_out(
        net_id="network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.yaml"),
        device="cpu",
        n=2,
    )


@torch.no_grad()
@pytest.mark.parametrize("by", ["monai.bundle", "mixseg"])
def test_torchscript_gives_the_networks_output(
    by: str, packed: Path, network: torch.nn.Module, tmp_path: Path
) -> None:
    target, weights = tmp_path / "model.ts", packed / "models" / "model.pt"
    if by == "mixseg":
        export_bundle(packed, "ts", weights, target, {"branch": "teacher"})
    else:
        monai.bundle.ckpt_export(
            net_id="network_def",
            filepath=str(target),
            ckpt_file=str(weights),
            meta_file=str(packed / "configs" / "metadata.json"),
            config_file=str(packed / "configs" / "inference.yaml"),
        )
    exported, metadata, more = load_net_with_metadata(
        str(target), more_extra_files=("inference.json",)
    )
    branch = {"mixseg": "teacher", "monai.bundle": "student"}[by]
    for shape in ((1, 1, 20, 24), (3, 1, 32, 16)):
        x = torch.randn(shape)
        torch.testing.assert_close(exported.eval()(x), network(x, branch), rtol=1e-4, atol=1e-5)
    assert metadata["name"] == load(packed / "configs" / "metadata.json")["name"]
    described = json.loads(more["inference.json"])
    assert (described["features"], described["branch"]) == (FEATURES, branch)


@torch.no_grad()
def test_load_builds_the_network_with_its_weights(
    packed: Path, network: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded: Any = monai.bundle.load(
        packed.name, bundle_dir=packed.parent, workflow_type="inference", device="cpu"
    )
    x = torch.randn(1, 1, 16, 16)
    torch.testing.assert_close(loaded.eval()(x), network(x))


def test_a_workflow_in_python_twice(packed: Path, image: Path, tmp_path: Path) -> None:
    workflow = create_workflow(
        config_file=str(packed / "configs" / "inference.yaml"),
        workflow_type="inference",
        logging_file=False,
        bundle_root=str(packed),
        dataset_dir=str(image),
        output_dir=str(tmp_path / "masks"),
        device="cpu",
        progress=False,
    )
    assert isinstance(workflow, ConfigWorkflow)
    masks = []
    for _ in range(2):
        workflow.run()
        workflow.finalize()
        (path,) = (tmp_path / "masks").iterdir()
        masks.append(np.asarray(nib.load(path).dataobj))
        path.unlink()
        workflow.initialize()
    assert masks[0].shape == (40, 36, 3)
    np.testing.assert_array_equal(*masks)


def test_options_in_a_file(packed: Path, image: Path, tmp_path: Path) -> None:
    arguments = {
        "run_id": "inference",
        "config_file": str(packed / "configs" / "inference.yaml"),
        "logging_file": False,
        "bundle_root": str(packed),
        "dataset_dir": str(image),
        "output_dir": str(tmp_path / "masks"),
        "device": "cpu",
        "progress": False,
        "branch": "teacher",
    }
    (tmp_path / "args.json").write_text(json.dumps(arguments))
    monai.bundle.run(args_file=str(tmp_path / "args.json"))
    assert len(list((tmp_path / "masks").iterdir())) == 1
