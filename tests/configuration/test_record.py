"""A run's folder as a bundle, written without a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from monai.bundle import ConfigParser

from mixseg.apps.bundle.weights import build_network
from mixseg.configuration.record import (
    bundle_facts,
    changed_settings,
    own_configuration,
    read_record,
    write_record,
)
from mixseg.configuration.start import _inference_branch

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"


def record(bundle: str, folder: Path, *overlays: str, **changed: Any) -> dict[str, Any]:
    """Write what a training of the bundle writes; returns its configuration."""
    configs = BUNDLES / bundle / "configs"
    files = [str(configs / name) for name in ("train.yaml", *overlays)]
    parser = ConfigParser(ConfigParser.load_config_files(files))
    parser.update(changed)
    own = own_configuration(parser.get(), configs)
    branch = _inference_branch(own, configs)
    write_record(folder, configs, own, "/data", None, branch, {"bundle": bundle})
    return own


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = ConfigParser.load_config_files(str(path))
    return content


@pytest.mark.parametrize("bundle", ["acdc_lv_confkd", "la_mixed", "la_uamt", "wbc_uamt"])
def test_what_is_written_is_what_was_run(bundle: str, tmp_path: Path) -> None:
    changed = {"lr": 0.125, "features": [4, 8], "train#trainer#clip_grad_norm": 3.5}
    own = record(bundle, tmp_path, **changed)
    train = read(tmp_path / "configs" / "train.yaml")
    places = {"imports", "bundle_root", "dataset_dir", "output_dir", "ckpt_dir"}
    assert own.keys() == train.keys()
    assert {k: train[k] for k in own if k not in places} == {
        k: own[k] for k in own if k not in places
    }
    assert train["train"]["trainer"]["clip_grad_norm"] == 3.5
    evaluate = read(tmp_path / "configs" / "evaluate.yaml")
    assert {k: evaluate[k] for k in changed if "#" not in k} == {"lr": 0.125, "features": [4, 8]}
    assert evaluate["evaluating"] == "@run"
    assert "training" not in evaluate
    source = yaml.safe_load((BUNDLES / bundle / "configs" / "evaluate.yaml").read_text())
    assert evaluate["run"] == source["run"]
    assert read(tmp_path / "configs" / "inference.yaml")["features"] == [4, 8]


@pytest.mark.parametrize("content", ["[]", "{", "3", '{"bundle": "b"}'])
def test_a_broken_record_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(ValueError, match=r"record\.json' (cannot be read|is not a run's record)"):
        read_record(tmp_path, "bundle", "data")


def test_a_record_of_a_record_is_the_same(tmp_path: Path) -> None:
    """As a resumed run writes it, from its own files."""
    record("acdc_mixed", tmp_path, lr=0.125)
    before = {path.name: path.read_text() for path in (tmp_path / "configs").iterdir()}
    configs = tmp_path / "configs"
    own = own_configuration(read(configs / "train.yaml"), configs)
    write_record(tmp_path, configs, own, "/data", None, None, {"bundle": "acdc_mixed"})
    assert {path.name: path.read_text() for path in configs.iterdir()} == before


def test_another_network_is_that_of_the_inference_too(tmp_path: Path) -> None:
    record("wbc_uamt", tmp_path, "deeplab.yaml", features=[2, 4, 4, 8])
    networks = [
        build_network(tmp_path / "configs" / f"{name}.yaml", {}) for name in ("train", "inference")
    ]
    assert [type(network).__name__ for network in networks] == 2 * ["DualBranchDeepLab"]
    shapes = [{k: v.shape for k, v in network.state_dict().items()} for network in networks]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("weights", "branch"),
    [({}, "student"), ({"lambda_w": 0, "lambda_kd": 0, "lambda_ent": 0}, "teacher")],
)
def test_the_branch_that_the_method_predicts_with(
    tmp_path: Path, weights: dict[str, Any], branch: str
) -> None:
    record("acdc_lv_confkd", tmp_path, **weights)
    assert read(tmp_path / "configs" / "inference.yaml")["branch"] == branch


def test_the_metadata_name_the_runs_classes_and_channels(tmp_path: Path) -> None:
    names = ["background", "heart"]
    record("acdc_mixed", tmp_path, class_names=names, target_classes=[[1, 2, 3]], in_channels=2)
    formats = json.loads((tmp_path / "configs" / "metadata.json").read_text())
    formats = formats["network_data_format"]
    assert formats["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "heart"}
    assert formats["outputs"]["pred"]["num_channels"] == 2
    assert formats["inputs"]["image"]["num_channels"] == 2


def test_data_inside_the_run_move_with_it(tmp_path: Path) -> None:
    configs = BUNDLES / "acdc_mixed" / "configs"
    own = own_configuration(read(configs / "train.yaml"), configs)
    datalist = str(tmp_path / "data" / "datalist.json")
    write_record(tmp_path, configs, own, str(tmp_path), datalist, None, {"bundle": "acdc_mixed"})
    train = yaml.safe_load((tmp_path / "configs" / "train.yaml").read_text())
    assert train["dataset_dir"] == "$@bundle_root"
    assert train["datalist"] == "$@bundle_root + '/data/datalist.json'"


def test_changed_settings_are_those_that_differ(tmp_path: Path) -> None:
    configs = BUNDLES / "acdc_mixed" / "configs"
    parser = ConfigParser(ConfigParser.load_config_files([str(configs / "train.yaml")]))
    plain = own_configuration(parser.get(), configs)
    assert changed_settings(plain, configs) == {}
    changed = {"lr": 0.125, "train#trainer#clip_grad_norm": 3.5, "device": "cpu", "seed": 0}
    parser.update({**changed, "output_dir": "elsewhere", "dataset_dir": "/data"})
    own = own_configuration(parser.get(), configs)
    found = changed_settings(own, configs)
    assert found == {
        "lr": [0.002, 0.125],
        "train::trainer::clip_grad_norm": ["@clip_grad_norm", 3.5],
    }

    # A training of the run that this makes is compared with the bundle, not with the run.
    facts = {"bundle": "acdc_mixed", "changed_settings": found}
    write_record(tmp_path, configs, own, "/data", None, None, facts)
    again = dict(own, lr=0.002, weight_decay=0.5)
    assert changed_settings(again, tmp_path / "configs") == {
        "train::trainer::clip_grad_norm": ["@clip_grad_norm", 3.5],
        "weight_decay": [0.001, 0.5],
    }


def test_an_evaluation_names_its_bundle_and_what_differs(tmp_path: Path) -> None:
    facts = bundle_facts(BUNDLES / "acdc_mixed", {"mirror_axes": [], "split": "test", "lr": 0.002})
    assert facts["bundle"] == "acdc_mixed"
    version = json.loads((BUNDLES / "acdc_mixed" / "configs" / "metadata.json").read_text())
    assert facts["version"] == version["version"]
    assert facts["changed_settings"] == {"mirror_axes": [[0, 1], []]}
