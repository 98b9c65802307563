"""The bundles of the compared methods train, resume, evaluate and predict on tiny data."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from typer.testing import CliRunner

from mixseg.cli.main import app
from mixseg.handlers import Ramp

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
SEMI_SUPERVISED = ("uamt", "glmi", "ssco")
#: Terms of each method and their weights, as its train.yaml has them.
TERMS: dict[str, dict[str, float]] = {
    "single": {"ce_full": 1, "ce_weak": 0.001},
    "decoupled": {"ce_full": 1, "ce_weak": 0.001},
    "uamt": {"supervised": 1, "consistency": 0.1},
    "glmi": {"ce_full": 1, "global": 1, "local": 0.1, "consistency": 10},
    "ssco": {"ce_full": 1, "co_training": 0.5, "self_consistency": 4},
}
#: Networks of each method while it is trained, two students in place of four.
NETWORKS = {
    "uamt": {"network", "ema"},
    "ssco": {"network", "peer_2", "ema_1", "ema_2"},
}
#: Parameters of all networks at full size; those in 2D are the journal's, Table 8.
PARAMETERS = {
    "acdc_lv_single": 31_042_434,
    "acdc_lv_decoupled": 41_137_220,
    "acdc_lv_uamt": 62_084_868,
    "acdc_lv_glmi": 31_042_434,
    "acdc_lv_ssco": 248_339_472,
    "la_single": 9_448_866,
    "la_decoupled": 11_520_836,
    "la_uamt": 2 * 9_448_866,
    "la_glmi": 9_448_866,
    "la_ssco": 8 * 9_448_866,
}
NETWORK: dict[str, dict[str, Any]] = {
    "acdc_lv": {"features": [4, 8, 16], "slice_size": [32, 32]},
    "la": {"features": [2, 2, 4, 4, 4], "spacing": [1.0, 1.0, 1.0], "crop_size": [32, 32, 16]},
}
COMMON = {"device": "cpu", "progress": False}
#: Knobs of a method that make it small; the ramps are over before a run of two epochs is.
SMALL: dict[str, dict[str, Any]] = {
    "uamt": {"passes": 2, "ramps": {"lambda_con": 3, "certainty": 3}},
    "glmi": {"clusters": 3, "heads": 2, "ramps": {"lambda_con": 3}},
    "ssco": {"students": 2, "ramps": {"lambda_co": 3, "gamma": {"length": 3, "start": 0.2}}},
}
#: Small networks have fewer levels.
LAYERS = {"layers": ["encoder.centre", "teacher.blocks.0", "teacher.blocks.1"]}


@dataclass(frozen=True)
class Made:
    """A bundle that was trained, its data and the knobs of its training."""

    name: str
    method: str
    dataset: str
    data: Path
    output: Path
    models: Path
    knobs: dict[str, Any]

    @property
    def network(self) -> dict[str, Any]:
        """Knobs of inference."""
        return NETWORK[self.dataset] | COMMON


def run(name: str, run_id: str, *files: str, **knobs: Any) -> None:
    """What ``python -m monai.bundle run`` does, in this process and with the logging as it is."""
    configs = [str(BUNDLES / name / "configs" / file) for file in files]
    texts = {k: str(v) if isinstance(v, Path) else v for k, v in knobs.items()}
    monai.bundle.run(run_id=run_id, config_file=configs, logging_file=False, **texts)


def write_data(folder: Path, dataset: str, tools: SimpleNamespace) -> dict[str, Any]:
    """Six training cases, one for validation, one for test, of the classes of the data set."""
    if dataset == "acdc_lv":
        content: dict[str, Any] = tools.write_datalist(folder)
        return content
    content = {"classes": ["background", "LA"], "unlabeled": 2}
    for split, numbers in {"training": range(6), "validation": [6], "test": [7]}.items():
        content[split] = []
        for i in numbers:
            image, label = tools.heart((36 + i, 34, 20), i)
            entry = {"case_id": f"c{i}", "supervision": "full"}
            for kind, values in (("image", image), ("label", (label == 3).astype(np.uint8))):
                entry[kind] = f"{kind}/c{i}.nii.gz"
                tools.save(folder / entry[kind], values, np.eye(4))
            content[split].append(entry)
    tools.save_datalist(folder, content)
    return content


def training_knobs(method: str, dataset: str) -> dict[str, Any]:
    unlabeled = method in SEMI_SUPERVISED
    counts = {"num_full": 2, "num_partial": 3, "batch_full": 2, "batch_partial": 2}
    if unlabeled:
        counts |= {"num_partial": 0, "num_unlabeled": 3, "batch_partial": 0, "batch_unlabeled": 2}
    layers = LAYERS if (method, dataset) == ("glmi", "acdc_lv") else {}
    short = {"epoch_length": 2, "max_epochs": 1, "val_interval": 1, "checkpoint_interval": 1}
    return NETWORK[dataset] | COMMON | counts | short | SMALL.get(method, {}) | layers


@pytest.fixture(
    scope="module",
    params=[
        "acdc_lv_single",
        "acdc_lv_decoupled",
        "acdc_lv_uamt",
        "acdc_lv_glmi",
        "acdc_lv_ssco",
        "la_single",
        "la_decoupled",
        "la_uamt",
        "la_glmi",
        "la_ssco",
    ],
)
def made(
    request: pytest.FixtureRequest, tools: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory
) -> Made:
    """One epoch of two batches, weights of the terms at once in full."""
    dataset, _, method = request.param.rpartition("_")
    folder = tmp_path_factory.mktemp(request.param)
    content = write_data(folder / "data", dataset, tools)
    # Two cases are full; the last one is not used, and unlabelled ones have no labels to read.
    closed = content["training"][2 if method in SEMI_SUPERVISED else 5 :]
    for entry in closed:
        (folder / "data" / entry["label"]).write_bytes(b"not to be opened")
    knobs = training_knobs(method, dataset)
    done = Made(
        request.param,
        method,
        dataset,
        folder / "data",
        folder / "output",
        folder / "models",
        knobs,
    )
    places = {"dataset_dir": done.data, "output_dir": done.output, "ckpt_dir": done.models}
    run(done.name, "training", "train.yaml", **{**knobs, "ramps": {}}, **places)
    return done


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def parsed(name: str, **overrides: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(BUNDLES / name / "configs" / "train.yaml"))
    parser.update(overrides)
    return parser


def test_training_leaves_weights_and_the_terms_of_the_method(made: Made) -> None:
    """Unreadable labels of unlabelled and unused cases stop nothing: they are not opened."""
    (row,) = read_csv(made.output / "history.csv")
    terms = TERMS[made.method]
    joint = sum(weight * float(row[name]) for name, weight in terms.items())
    assert float(row["loss"]) == pytest.approx(joint, rel=1e-5)
    branches = {"teacher", "student"} if made.method == "decoupled" else {"teacher"}
    scored = {name for name in row if name.startswith("val_dice_")}
    assert scored >= {f"val_dice_{branch}" for branch in branches}
    assert ("val_dice_student" in scored) == ("student" in branches)
    for name in ("curves.png", "cases.png"):
        assert (made.output / name).read_bytes().startswith(b"\x89PNG")

    state = torch.load(made.models / "model.pt", weights_only=True)
    network = parsed(made.name, **NETWORK[made.dataset]).get_parsed_content("network_def")
    network.load_state_dict(state, strict=True)
    assert any(name.startswith("student.") for name in state) == ("student" in branches)
    full = torch.load(made.output / "checkpoint.pt", weights_only=True)
    held = {name.partition(".")[0] for name, v in full["networks"].items() if torch.is_tensor(v)}
    assert held == NETWORKS.get(made.method, {"network"})


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_state(made: Made, tmp_path: Path) -> None:
    """Networks, averages, heads and optimiser, to the bit, in the middle of a ramp."""
    states = []
    for legs in ((2,), (1, 2)):
        folder = tmp_path / str(len(legs))
        places = {"dataset_dir": made.data, "output_dir": folder, "ckpt_dir": folder}
        for epochs in legs:
            knobs = {**made.knobs, "max_epochs": epochs, "resume": epochs == 2}
            run(made.name, "training", "train.yaml", **knobs, **places)
        states.append(torch.load(folder / "checkpoint.pt", weights_only=True))
    once, twice = states
    assert once["iteration"] == twice["iteration"] == 4
    for part in ("networks", "objective", "optimizer"):
        assert_same(once[part], twice[part], part)


def assert_same(one: Any, other: Any, place: str) -> None:
    assert type(one) is type(other), place
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            assert_same(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), place
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{place}.{i}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    else:
        assert one == other, place


def test_scores_are_those_of_the_masks_that_inference_writes(made: Made, tmp_path: Path) -> None:
    places = {"dataset_dir": made.data, "ckpt_dir": made.models}
    scores = tmp_path / "scores"
    knobs = {**made.knobs, "output_dir": scores, **places}
    run(made.name, "evaluating", "train.yaml", "evaluate.yaml", **knobs)
    rows = {row["branch"]: row for row in read_csv(scores / "metrics.csv")}
    dual = made.method == "decoupled"
    assert set(rows) == ({"teacher", "student", "ensemble"} if dual else {"teacher"})
    stated = json.loads((scores / "summary.json").read_text())["configuration"]
    own = SMALL.get(made.method, {})
    assert {name: stated[name] for name in own} == own
    assert stated["num_unlabeled"] == made.knobs.get("num_unlabeled", 0)

    output = tmp_path / "masks"
    source = made.data / "image" / "c7.nii.gz"
    knobs = {**made.network, "dataset_dir": source, "output_dir": output}
    run(made.name, "inference", "inference.yaml", **knobs, ckpt_dir=made.models)
    (path,) = output.iterdir()
    mask = np.asarray(nib.load(path).dataobj) == 1
    value = 3 if made.dataset == "acdc_lv" else 1
    reference = np.asarray(nib.load(made.data / "label" / "c7.nii.gz").dataobj) == value
    dice = 2 * (mask & reference).sum() / (mask.sum() + reference.sum())
    assert float(rows["student" if dual else "teacher"]["dice"]) == pytest.approx(dice, abs=1e-6)

    # mixseg predict runs the same pipeline, also where the only branch is the teacher.
    words = ["predict", str(BUNDLES / made.name), "-i", str(source), "-o", str(tmp_path / "cli")]
    words += ["--checkpoint", str(made.models / "model.pt"), "--device", "cpu", "--quiet"]
    for name, setting in NETWORK[made.dataset].items():
        words += [f"--{name}", str(setting)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    predicted = np.asarray(nib.load(tmp_path / "cli" / path.name).dataobj)
    np.testing.assert_array_equal(predicted == 1, mask)
    if not dual:
        result = CliRunner(env={"COLUMNS": "400"}).invoke(app, [*words, "--branch", "student"])
        assert result.exit_code == 1
        message = "branch 'student' needs branches=2; this network has only a teacher"
        assert message in result.output


def test_a_missing_mask_of_an_unlabelled_case_is_no_fault(
    tools: SimpleNamespace, tmp_path: Path
) -> None:
    """The check before training reports a damaged mask that counts, and no other."""
    content = write_data(tmp_path, "acdc_lv", tools)
    for i in (1, 3):  # one of the two full cases, one of the three without labels
        (tmp_path / content["training"][i]["label"]).unlink()
    knobs = training_knobs("uamt", "acdc_lv")
    places = {"dataset_dir": tmp_path, "output_dir": tmp_path / "o", "ckpt_dir": tmp_path / "m"}
    with pytest.raises(RuntimeError) as caught:
        run("acdc_lv_uamt", "training", "train.yaml", **knobs, **places)
    first, *faults = tools.cause(caught.value).splitlines()
    assert first == "1 fault in the data; nothing is trained:"
    assert len(faults) == 1
    assert "label/c1.nii.gz" in faults[0]
    assert "the label file is missing" in faults[0]


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_while_training(name: str) -> None:
    networks = parsed(name, device="meta").get_parsed_content("networks")
    assert sum(parameter.numel() for parameter in networks.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("knobs", "branches", "weights"),
    [
        ({}, {"full": "teacher", "partial": "teacher"}, {"ce_full": 1, "ce_weak": 0.001}),
        (
            {"lambda_ent": 1},
            {"full": "teacher", "partial": "teacher"},
            {"ce_full": 1, "ce_weak": 0.001, "entropy": 1},
        ),
        ({"lambda_w": 0}, {"full": "teacher"}, {"ce_full": 1}),
    ],
    ids=["Single", "Single+Ent", "bounds"],
)
def test_methods_of_the_single_branch(
    knobs: dict[str, Any], branches: dict[str, str], weights: dict[str, float]
) -> None:
    for name in ("acdc_lv_single", "la_single"):
        parser = parsed(name, **knobs)
        objective = parser.get_parsed_content("objective")
        assert (objective.branches, objective.weights) == (branches, weights)
        assert parser.get_parsed_content("validate#key_metric") == "val_dice_teacher"


def test_proxy_masks_are_labels_of_the_weak_branch(tools: SimpleNamespace, tmp_path: Path) -> None:
    """Cases of supervision noisy go to the student whole, as Luo and Yang have it."""
    content = tools.write_datalist(tmp_path)
    for entry in content["training"][2:]:
        entry["supervision"] = "noisy"
    tools.save_datalist(tmp_path, content)
    parser = parsed(
        "acdc_lv_decoupled",
        **{**NETWORK["acdc_lv"], **COMMON, "dataset_dir": str(tmp_path)},
        **{"num_full": 2, "num_partial": 0, "noisy_as": "partial"},
    )
    items = parser.get_parsed_content("train#dataset#data")
    assert [item["supervision"] for item in items] == 2 * ["full"] + 4 * ["partial"]
    assert not any(item["erode"] for item in items)
    dataset = parser.get_parsed_content("train#dataset")
    proxy = dataset[dataset.supervision.index("partial")]["label"]
    assert proxy.unique().tolist() == [0, 1]  # no pixel is unlabelled
    assert parser.get_parsed_content("objective").branches["partial"] == "student"


def test_ramps_count_in_epochs_of_the_data() -> None:
    """72 batches are an epoch of Set-3: 4 slices of some 19 for each of 15 patients."""
    ramps = parsed("acdc_lv_uamt").get_parsed_content("ramps")
    assert ramps == {"lambda_con": 100 * 72, "certainty": 500 * 72}
    ramps = parsed("acdc_lv_ssco", num_full=10, epoch_length=5).get_parsed_content("ramps")
    found = {name: Ramp(**ramp) for name, ramp in ramps.items()}
    assert found == {
        "lambda_co": Ramp(length=225, begin=25),
        "lambda_sc": Ramp(length=225, begin=25),
        "gamma": Ramp(length=225, begin=25, start=0.2),
        "alpha": Ramp(length=250, begin=50),
    }
    ramps = parsed("la_uamt").get_parsed_content("ramps")
    assert ramps == {"lambda_con": {"length": 6000, "step": 150}, "certainty": 6000}


@pytest.mark.parametrize(
    ("name", "features", "sides"),
    [
        ("acdc_lv_glmi", [4, 6, 8, 10, 12], (32, 32)),
        ("la_glmi", [2, 4, 6, 8, 10], (32, 32, 16)),
    ],
)
def test_heads_take_the_channels_of_their_layers(
    name: str, features: list[int], sides: tuple[int, ...]
) -> None:
    """GLMI's layers exist and have the channels and the resolution that are said."""
    parser = parsed(name, features=features, **COMMON)
    network = parser.get_parsed_content("network_def")
    layers = parser.get_parsed_content("objective#layers")
    found: list[torch.Size] = []
    for layer in layers:
        network.get_submodule(layer).register_forward_hook(
            lambda module, inputs, output: found.append(output.shape)
        )
    network(torch.zeros(2, 1, *sides))
    assert [shape[1] for shape in found] == [features[-1], features[1], features[0]]
    assert list(layers.values()) == [features[-1], features[1], features[0]]
    for shape, factor in zip(found, (16, 2, 1), strict=True):
        assert tuple(factor * side for side in shape[2:]) == sides
