"""The bundles of the compared methods train, resume, evaluate and predict on tiny data."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image
from typer.testing import CliRunner

from mixseg.cli.main import app

from .runs import run_files

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
SEMI_SUPERVISED = ("uamt", "glmi", "ssco", "entropy_minimization", "adversarial")
SEMI_SUPERVISED += ("s4gan", "multitask")
#: Methods that learn from wrong masks as a kind of their own.
WRONG_MASKS = ("selfcorrecting", "macromicro", "ficklenet")
#: Terms of each method and their weights, as its train.yaml has them.
TERMS: dict[str, dict[str, float]] = {
    "single": {"ce_full": 1, "ce_weak": 0.001},
    "decoupled": {"ce_full": 1, "ce_weak": 0.001},
    "uamt": {"supervised": 1, "consistency": 0.1},
    "glmi": {"ce_full": 1, "global": 1, "local": 0.1, "consistency": 10},
    "ssco": {"ce_full": 1, "co_training": 0.5, "self_consistency": 4},
    "entropy_minimization": {"ce_segmentation": 1, "ce_class": 1}
    | {"gradient": 0.1, "sharpening": 0.1, "class_consistency": 0.1},
    "adversarial": {"ce_full": 1, "adversarial_full": 0.01, "adversarial_none": 0.001}
    | {"self_training": 0.1},
    "multitask": {"ce_full": 1, "reconstruction": 1},
    "s4gan": {"ce_full": 1, "feature_matching": 0.1, "self_training": 1},
    "dcr": {"ce_primary": 1, "ce_auxiliary": 1, "regularization": 4},
    "selfcorrecting": {"ce_full": 1, "ce_ancillary": 1, "ce_refined": 1},
    "macromicro": {"ce_micro": 1, "ce_macro": 1, "guidance": 1, "feeding": 1},
    "ficklenet": {"ce_full": 1, "bce_class": 1, "ce_seeds": 1},
    # Wrong masks count as full ones, or as those of the student.
    "wbc_single": {"ce_full": 1},
    "wbc_decoupled": {"ce_full": 1, "ce_weak": 1},
}
#: Networks of each method while it is trained, two students in place of four.
NETWORKS = {
    "uamt": {"network", "ema"},
    "ssco": {"network", "peer_2", "ema_1", "ema_2"},
    "adversarial": {"network", "discriminator"},
    "s4gan": {"network", "discriminator"},
    "dcr": {"network", "auxiliary"},
    "macromicro": {"network", "macro", "macro_mean"},
}
NETWORK: dict[str, dict[str, Any]] = {
    "acdc_lv": {"features": [4, 8, 16], "slice_size": [32, 32]},
    "la": {"features": [2, 2, 4, 4, 4], "spacing": [1.0, 1.0, 1.0], "crop_size": [32, 32, 16]},
    "wbc": {"features": [4, 8, 16], "slice_size": [32, 32]},
}
#: Foreground classes that are predicted → their value in the label files.
FOREGROUND = {"acdc_lv": {"LV": 3}, "la": {"LA": 1}, "wbc": {"cytoplasm": 1, "nucleus": 2}}
COMMON = {"device": "cpu", "progress": False}
#: Settings of a method that make it small; the ramps are over before a run of two epochs is.
SMALL: dict[str, dict[str, Any]] = {
    "uamt": {"passes": 2, "ramps": {"lambda_con": 3, "certainty": 3}},
    "glmi": {"clusters": 3, "heads": 2, "ramps": {"lambda_con": 3}},
    "ssco": {"students": 2, "ramps": {"lambda_co": 3, "gamma": {"length": 3, "start": 0.2}}},
    "entropy_minimization": {"ramps": {"lambda_unsup": 3}},
    # Runs of other lengths would have other rates of the discriminator.
    "adversarial": {
        "discriminator_features": [4, 8],
        "discriminator_power": 0,
        "ramps": {"lambda_semi": {"begin": 2, "length": 0}},
    },
    "s4gan": {"discriminator_features": [4, 8], "discriminator_power": 0},
    "dcr": {
        "batch_size": 2,
        "batch_strong": 2,
        "indicator_interval": 2,
        "ramps": {"lambda_reg": 3},
    },
    "selfcorrecting": {"ancillary_features": [4, 8], "ramps": {"alpha": {"length": 3, "start": 9}}},
    "macromicro": {"ramps": {"lambda_guide": 3}},
    "ficklenet": {"maps": 2, "ramps": {"lambda_seed": {"begin": 2, "length": 0}}},
}
#: Small networks have fewer levels.
LAYERS = {"layers": ["encoder.center", "main.blocks.0", "main.blocks.1"]}


@dataclass(frozen=True)
class Made:
    """A bundle that was trained, its data and the settings of its training."""

    name: str
    method: str
    dataset: str
    data: Path
    output: Path
    models: Path
    settings: dict[str, Any]

    def files(self, *names: str) -> list[str]:
        """Names of configurations, with the row's after the first where the method is a row."""
        is_row = not self.name.endswith(self.method)
        return [names[0], *([f"rows/{self.method}.yaml"] if is_row else []), *names[1:]]

    @property
    def network(self) -> dict[str, Any]:
        """Settings of inference."""
        return NETWORK[self.dataset] | COMMON


def run(name: str, run_id: str, *files: str, **settings: Any) -> None:
    run_files(run_id, [BUNDLES / name / "configs" / file for file in files], **settings)


def write_data(folder: Path, dataset: str, tools: SimpleNamespace) -> dict[str, Any]:
    """Six training cases, one for validation, one for test, of the classes of the data set."""
    if dataset in ("acdc_lv", "wbc"):
        write = tools.write_datalist if dataset == "acdc_lv" else tools.write_cells
        content: dict[str, Any] = write(folder)
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


def training_settings(method: str, dataset: str) -> dict[str, Any]:
    counts = {"num_full": 2, "num_partial": 3, "batch_full": 2, "batch_partial": 2}
    if method in SEMI_SUPERVISED:
        counts |= {"num_partial": 0, "num_unlabeled": 3, "batch_partial": 0, "batch_unlabeled": 2}
    elif method == "dcr":
        counts = {"num_full": 2, "num_noisy": 3}
    elif dataset == "wbc":
        counts |= {"num_partial": 0, "num_noisy": 3}
        counts["batch_partial"] = 2 if method == "decoupled" else 0
        counts["batch_noisy"] = 2 if method in WRONG_MASKS else 0
    layers = LAYERS if (method, dataset) == ("glmi", "acdc_lv") else {}
    short = {"epoch_length": 2, "max_epochs": 1, "val_interval": 1, "checkpoint_interval": 1}
    return NETWORK[dataset] | COMMON | counts | short | SMALL.get(method, {}) | layers


@pytest.fixture(
    scope="module",
    params=[
        "acdc_lv_confkd/single",
        "acdc_lv_confkd/decoupled",
        "acdc_lv_uamt",
        "acdc_lv_glmi",
        "acdc_lv_ssco",
        "la_confkd/single",
        "la_confkd/decoupled",
        "la_uamt",
        "la_glmi",
        "la_ssco",
        "acdc_lv_entropy_minimization",
        "acdc_lv_adversarial",
        "acdc_lv_s4gan",
        "acdc_lv_multitask",
        "acdc_lv_dcr",
        "wbc_single",
        "wbc_decoupled",
        "wbc_uamt",
        "wbc_entropy_minimization",
        "wbc_adversarial",
        "wbc_s4gan",
        "wbc_multitask",
        "wbc_dcr",
        "wbc_selfcorrecting",
        "wbc_macromicro",
        "wbc_ficklenet",
    ],
)
def made(
    request: pytest.FixtureRequest, tools: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory
) -> Made:
    """One epoch of two batches, weights of the terms at once in full."""
    name, _, row = request.param.partition("/")
    dataset = next(data for data in NETWORK if name.startswith(f"{data}_"))
    method = row or name.removeprefix(f"{dataset}_")
    folder = tmp_path_factory.mktemp(request.param.replace("/", "_"))
    content = write_data(folder / "data", dataset, tools)
    # Two cases are full; the last one is not used, and unlabeled ones have no labels to read.
    closed = content["training"][2 if method in SEMI_SUPERVISED else 5 :]
    for entry in closed:
        (folder / "data" / entry["label"]).write_bytes(b"not to be opened")
    settings = training_settings(method, dataset)
    done = Made(
        name,
        method,
        dataset,
        folder / "data",
        folder / "output",
        folder / "models",
        settings,
    )
    places = {"dataset_dir": done.data, "output_dir": done.output, "ckpt_dir": done.models}
    run(name, "training", *done.files("train.yaml"), **{**settings, "ramps": {}}, **places)
    return done


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def read_mask(path: Path) -> np.ndarray:
    """Values of a volume, or of a picture as they lie in its file."""
    image = Image.open(path) if path.suffix == ".png" else nib.load(path).dataobj
    return np.asarray(image)


def parsed(name: str, *files: str, **overrides: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(BUNDLES / name / "configs" / file) for file in files])
    parser.update(overrides)
    return parser


def test_training_leaves_weights_and_the_terms_of_the_method(made: Made) -> None:
    """Unreadable labels of unlabeled and unused cases stop nothing: they are not opened."""
    (row,) = read_csv(made.output / "history.csv")
    terms = TERMS.get(made.name, TERMS[made.method])
    joint = sum(weight * float(row[name]) for name, weight in terms.items())
    assert float(row["loss"]) == pytest.approx(joint, rel=1e-5)
    branches = {"teacher", "student"} if made.method == "decoupled" else {"main"}
    scored = {name for name in row if name.startswith("val_dice_")}
    assert scored >= {f"val_dice_{branch}" for branch in branches}
    assert {"val_dice_main", "val_dice_student"} & scored == {
        f"val_dice_{branch}" for branch in branches - {"teacher"}
    }
    for name in ("curves.png", "cases.png"):
        assert (made.output / name).read_bytes().startswith(b"\x89PNG")

    state = torch.load(made.models / "model.pt", weights_only=True)
    files = made.files("train.yaml")
    network = parsed(made.name, *files, **NETWORK[made.dataset]).get_parsed_content("network_def")
    network.load_state_dict(state, strict=True)
    assert any(name.startswith("student.") for name in state) == ("student" in branches)
    if made.method == "dcr":  # a step of the weights, after two iterations
        learned = read_csv(made.output / "indicators.csv")
        assert {row["supervision"] for row in learned} == {"full", "noisy"}
        for row in learned:
            full = row["supervision"] == "full"
            assert float(row["gamma"]) == pytest.approx(1 if full else 0.5, abs=0 if full else 0.11)
    full = torch.load(made.output / "checkpoint.pt", weights_only=True)
    held = {name.partition(".")[0] for name, v in full["networks"].items() if torch.is_tensor(v)}
    assert held == NETWORKS.get(made.method, {"network"})


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_state(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks, averages, heads and optimizer, to the bit, in the middle of a ramp."""
    # Most of so short a run is drawing, which is not a part of the state.
    for name in ("plot_curves", "plot_cases"):
        monkeypatch.setattr(f"mixseg.handlers.history.{name}", lambda *_: None)
    states = []
    for legs in ((2,), (1, 2)):
        folder = tmp_path / str(len(legs))
        places = {"dataset_dir": made.data, "output_dir": folder, "ckpt_dir": folder}
        for epochs in legs:
            settings = {**made.settings, "max_epochs": epochs, "resume": epochs == 2}
            if made.dataset != "la":  # whose rate steps; the others' decays over both epochs
                settings["lr_scheduler#total_iters"] = 2
            run(made.name, "training", *made.files("train.yaml"), **settings, **places)
        states.append(torch.load(folder / "checkpoint.pt", weights_only=True))
    once, twice = states
    assert once["iteration"] == twice["iteration"] == 4
    for part in ("networks", "objective", "optimizer", "turns"):
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
    settings = {**made.settings, "output_dir": scores, **places}
    run(made.name, "evaluating", *made.files("train.yaml", "evaluate.yaml"), **settings)
    rows = {(row["branch"], row["class"]): row for row in read_csv(scores / "metrics.csv")}
    dual = made.method == "decoupled"
    branches = ("teacher", "student", "ensemble") if dual else ("main",)
    classes = FOREGROUND[made.dataset]
    assert set(rows) == {(branch, name) for branch in branches for name in classes}
    stated = json.loads((scores / "summary.json").read_text())["configuration"]
    own = SMALL.get(made.method, {})
    assert {name: stated[name] for name in own} == own
    for name in ("num_unlabeled", "num_noisy"):
        assert stated.get(name, 0) == made.settings.get(name, 0)

    output = tmp_path / "masks"
    (source,) = (made.data / "image").glob("c7.*")
    settings = {**made.network, "dataset_dir": source, "output_dir": output}
    weights = made.models / "model.pt"
    run(made.name, "inference", *made.files("inference.yaml"), **settings, checkpoint=weights)
    (path,) = output.iterdir()
    mask = read_mask(path)
    (reference,) = (read_mask(file) for file in (made.data / "label").glob("c7.*"))
    assert mask.shape == reference.shape
    branch = ("teacher" if made.dataset == "wbc" else "student") if dual else "main"
    for index, (name, value) in enumerate(classes.items(), start=1):
        one, other = mask == index, reference == value
        dice = 2 * (one & other).sum() / (one.sum() + other.sum())
        assert float(rows[branch, name]["dice"]) == pytest.approx(dice, abs=1e-6)

    # mixseg predict runs the same pipeline.
    words = ["predict", str(BUNDLES / made.name), "-i", str(source), "-o", str(tmp_path / "cli")]
    words += ["--checkpoint", str(made.models / "model.pt"), "--device", "cpu", "--quiet"]
    if made.method == "single" and made.name != "wbc_single":
        words += ["--config", str(BUNDLES / made.name / "configs" / "rows" / "single.yaml")]
    for name, setting in NETWORK[made.dataset].items():
        words += [f"--{name}", str(setting)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(read_mask(tmp_path / "cli" / path.name), mask)
    if not dual:
        result = CliRunner(env={"COLUMNS": "400"}).invoke(app, [*words, "--branch", "student"])
        assert result.exit_code == 1
        message = "branch must be main, the network's only one, got 'student'"
        if made.method == "entropy_minimization":
            message = "branch must be one of main, heads, got 'student'"
        assert message in result.output


def test_a_missing_mask_of_an_unlabeled_case_is_no_fault(
    tools: SimpleNamespace, tmp_path: Path
) -> None:
    """The check before training reports a damaged mask that counts, and no other."""
    content = write_data(tmp_path, "acdc_lv", tools)
    for i in (1, 3):  # one of the two full cases, one of the three without labels
        (tmp_path / content["training"][i]["label"]).unlink()
    settings = training_settings("uamt", "acdc_lv")
    places = {"dataset_dir": tmp_path, "output_dir": tmp_path / "o", "ckpt_dir": tmp_path / "m"}
    with pytest.raises(RuntimeError) as caught:
        run("acdc_lv_uamt", "training", "train.yaml", **settings, **places)
    first, *faults = tools.cause(caught.value).splitlines()
    assert first == "1 fault in the data; nothing is trained:"
    assert len(faults) == 1
    assert "label/c1.nii.gz" in faults[0]
    assert "the label file is missing" in faults[0]
