"""What the configurations of the compared methods build: objectives, networks, labels, ramps."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from mixseg.handlers import Ramp

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
#: Parameters of all networks at full size; those of ACDC up to SSCO are the journal's, Table 8.
PARAMETERS = {
    "acdc_lv_confkd/rows/single.yaml": 31_042_434,
    "acdc_lv_confkd": 41_137_220,
    "acdc_lv_uamt": 62_084_868,
    "acdc_lv_glmi": 31_042_434,
    "acdc_lv_ssco": 248_339_472,
    # Two more outputs of the 1x1 head, each of 64 channels and a bias; 4 numbers of 1024 channels.
    "acdc_lv_entropy_minimization": 31_042_434 + 2 * 65 + 4 * 1025,
    # Convolutions of 4x4: 2, 64, 128, 256, 512 and 1 channels, and a bias for each output.
    "acdc_lv_adversarial": 31_042_434 + 2_763_713,
    # That of s4GAN sees the image, too, and ends in one unit of 512 features.
    "acdc_lv_multitask": 31_042_434,
    "acdc_lv_s4gan": 31_042_434 + 2_757_057,
    "acdc_lv_dcr": 2 * 31_042_434,
    "la_confkd/rows/single.yaml": 9_448_866,
    "la_confkd": 11_520_836,
    "la_uamt": 2 * 9_448_866,
    "la_glmi": 9_448_866,
    "la_ssco": 8 * 9_448_866,
    # Two more input channels of 64 kernels of 3x3, and one more class.
    "wbc_single": 31_042_434 + 2 * 64 * 9 + 65,
    "wbc_decoupled": 41_137_220 + 2 * 64 * 9 + 2 * 65,
    "wbc_uamt": 2 * 31_043_651,
    "wbc_entropy_minimization": 31_043_651 + 3 * 65 + 6 * 1025,
    "wbc_adversarial": 31_043_651 + 2_763_713 + 64 * 16,
    "wbc_multitask": 31_043_651,
    "wbc_s4gan": 31_043_651 + 2_757_057 + 3 * 64 * 16,
    "wbc_dcr": 2 * 31_043_651,
    "wbc_selfcorrecting": 31_043_651,
    "wbc_macromicro": 3 * 31_043_651,
    "wbc_ficklenet": 31_043_651,
}
#: Of the heads and networks that belong to an objective: a U-Net with three more input channels,
#: and a score of 1024 channels and a bias for each foreground class.
OF_THE_OBJECTIVE = {"wbc_selfcorrecting": 31_043_651 + 3 * 64 * 9, "wbc_ficklenet": 2 * 1025}
#: A second decoder, as ConfKD's, of as many outputs as classes and channels make.
OF_THE_OBJECTIVE["acdc_lv_multitask"] = 41_137_220 - 31_042_434
OF_THE_OBJECTIVE["wbc_multitask"] = 41_137_220 - 31_042_434 + (3 * 3 - 2) * 65
SMALL_NETWORK = {"features": [4, 8, 16], "slice_size": [32, 32]}
COMMON = {"device": "cpu", "progress": False}
WBC = sorted(path.parents[1].name for path in BUNDLES.glob("wbc_*/configs/deeplab.yaml"))


def parsed(name: str, *overlays: str, **overrides: Any) -> ConfigParser:
    """Of a bundle and its overlays; the first may follow the bundle's name."""
    name, _, row = name.partition("/")
    files = ["train.yaml", *([row] if row else []), *overlays]
    parser = ConfigParser()
    parser.read_config([str(BUNDLES / name / "configs" / file) for file in files])
    parser.update(overrides)
    return parser


def without_data(name: str) -> dict[str, Any]:
    """What stands in for the data where an objective asks for its kinds."""
    return {"objective#supervision": ["full", "noisy"]} if name.endswith("_dcr") else {}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_while_training(name: str) -> None:
    parser = parsed(name, device="meta", **without_data(name))
    networks = parser.get_parsed_content("networks")
    assert sum(parameter.numel() for parameter in networks.parameters()) == PARAMETERS[name]
    objective = parser.get_parsed_content("objective")
    own = sum(parameter.numel() for parameter in objective.parameters())
    assert own == OF_THE_OBJECTIVE.get(name, 0) or name.endswith("_glmi")


def test_proxy_masks_are_labels_of_the_weak_branch(tools: SimpleNamespace, tmp_path: Path) -> None:
    """Cases of supervision noisy go to the student whole, as Luo and Yang have it."""
    content = tools.write_datalist(tmp_path)
    for entry in content["training"][2:]:
        entry["supervision"] = "noisy"
    tools.save_datalist(tmp_path, content)
    parser = parsed(
        "acdc_lv_confkd/rows/decoupled.yaml",
        **{**SMALL_NETWORK, **COMMON, "dataset_dir": str(tmp_path)},
        **{"num_full": 2, "num_partial": 0, "noisy_as": "partial", "inference_branch": "teacher"},
    )
    assert parser.get_parsed_content("validate#key_metric") == "val_dice_teacher"
    items = parser.get_parsed_content("train#dataset#data")
    assert [item["supervision"] for item in items] == 2 * ["full"] + 4 * ["partial"]
    assert not any(item["erode"] for item in items)
    dataset = parser.get_parsed_content("train#dataset")
    proxy = dataset[dataset.supervision.index("partial")]["label"]
    assert proxy.unique().tolist() == [0, 1]  # no pixel is unlabeled
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


def wrong_masks(name: str, folder: Path, tools: SimpleNamespace, **settings: Any) -> Any:
    """The training set of a bundle of white blood cells: two clean masks and four wrong ones."""
    tools.write_cells(folder)
    given = {**SMALL_NETWORK, **COMMON, "dataset_dir": str(folder), "num_full": 2, "num_noisy": 4}
    return parsed(name, **{**given, **settings}).get_parsed_content("train#dataset")


def maps(dataset: Any, key: str) -> dict[str, torch.Tensor]:
    """Case → map."""
    return {dataset[i]["case_id"]: dataset[i][key] for i in range(len(dataset))}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("wbc_single", "full"),
        ("wbc_decoupled", "partial"),
        ("wbc_dcr", "noisy"),
        ("wbc_selfcorrecting", "noisy"),
        ("wbc_macromicro", "noisy"),
        ("wbc_ficklenet", "noisy"),
    ],
)
def test_wrong_masks_are_the_same_for_all_methods(
    name: str, kind: str, tools: SimpleNamespace, tmp_path: Path
) -> None:
    """Drawn by noise_seed and the case alone; clean masks stay clean, every pixel is labeled."""
    dataset = wrong_masks(name, tmp_path, tools, seed=5)
    assert dataset.supervision == 2 * ["full"] + 4 * [kind]
    labels = maps(dataset, "label")
    first = maps(wrong_masks("wbc_single", tmp_path, tools), "label")
    clean = maps(wrong_masks("wbc_single", tmp_path, tools, num_full=6, num_noisy=0), "label")
    for case, label in labels.items():
        assert torch.equal(label, first[case])
        assert torch.equal(label, clean[case]) == (case in ("c0", "c1")), case
        assert label.max() <= 2
    other = maps(wrong_masks(name, tmp_path, tools, noise_seed=1), "label")
    assert not all(torch.equal(label, other[case]) for case, label in labels.items())
    empty = maps(wrong_masks(name, tmp_path, tools, noise_missing=1), "label")
    assert [bool(label.any()) for label in empty.values()] == 2 * [True] + 4 * [False]


def test_clean_masks_of_wrong_ones_are_for_the_report_alone(
    tools: SimpleNamespace, tmp_path: Path
) -> None:
    dataset = wrong_masks("wbc_dcr", tmp_path, tools)
    clean = maps(wrong_masks("wbc_single", tmp_path, tools, num_full=6, num_noisy=0), "label")
    for case, reference in maps(dataset, "reference").items():
        assert torch.equal(reference, clean[case])
    # Nor do scribbles, which are made of the masks that a method sees, tell of the clean ones.
    missing = wrong_masks("wbc_single", tmp_path, tools, noise_missing=1)
    scribbles = list(maps(missing, "weak_label").values())
    assert [sorted(set(s.unique().tolist()) - {3}) for s in scribbles[2:]] == 4 * [[]]
    assert all(set(s.unique().tolist()) >= {1, 2} for s in scribbles[:2])


def test_the_ancillary_network_learns_from_wrong_masks_of_clean_ones(
    tools: SimpleNamespace, tmp_path: Path
) -> None:
    dataset = wrong_masks("wbc_selfcorrecting", tmp_path, tools)
    labels, weak = maps(dataset, "label"), maps(dataset, "weak_label")
    assert [torch.equal(labels[c], weak[c]) for c in labels] == 2 * [False] + 4 * [True]
    # By the rule that makes the others: a case that is distorted anyhow has the same wrong mask.
    all_wrong = wrong_masks("wbc_single", tmp_path, tools, num_full=0, num_noisy=6)
    for case, label in maps(all_wrong, "label").items():
        assert torch.equal(weak[case], label)


@pytest.mark.parametrize("name", WBC)
def test_the_larger_network_of_the_overlay(name: str) -> None:
    """DeepLabv3+ takes the place of the U-Net, and all that names parts of it follows."""
    small = {"features": [4, 4, 8, 8], "spatial_size": [32, 32], **without_data(name)}
    parser = parsed(name, "deeplab.yaml", **small, **COMMON)
    network = parser.get_parsed_content("network_def").eval()
    backbone = getattr(network, "backbone", network)
    assert type(backbone).__name__ == "DualBranchDeepLab"
    own = "teacher" if name == "wbc_decoupled" else "main"
    assert tuple(network(torch.zeros(2, 3, 32, 32), branch=own).shape) == (2, 3, 32, 32)
    objective = parser.get_parsed_content("objective")
    branch = objective.branches.get("full", own)
    output = network(torch.rand(2, 3, 32, 32), branch=branch)
    if name == "wbc_entropy_minimization":
        # Four stages at strides 4, 8, 16 and 16, whose bottlenecks return four times as many.
        shapes = [tuple(part.shape[1:]) for part in output[4:]]
        assert shapes == [(16, 8, 8), (16, 4, 4), (32, 2, 2), (32, 2, 2)]
        assert network.class_channels == 32
    if name == "wbc_ficklenet":
        layer = network.get_submodule(objective.layer)
        found = []
        layer.register_forward_hook(lambda module, inputs, out: found.append(out.shape[1]))
        network(torch.zeros(2, 3, 32, 32), branch="main")
        assert found == [objective.head.layer.in_channels] == [8]
