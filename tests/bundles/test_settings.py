"""Every setting at the top of train.yaml reaches the part that it names."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Orientationd, RandFlipd

from mixseg.configuration.settings import unknown_options
from mixseg.configuration.start import start_command

from . import settings
from .settings import APART, check_effects, check_that_each_is_tested, parse, places

# Every setting away from its default, in values that go together.
OVERRIDES: dict[str, Any] = {
    **settings.OVERRIDES,
    "num_partial": 4,
    "source_classes": ["background", "RV", "myocardium", "LV", "more"],
    "target_classes": [1, 3],
    "class_names": ["background", "RV", "LV"],
    "orientation": "LPS",
    "slice_size": [48, 40],
    "crop_size": [32, 24],
    "spatial_size": [16, 12],
    "features": [4, 8],
    "padded": False,
    "lr": 0.01,
    "lr_power": 0.9,
}
#: Terms and their weights, the journal's.
WEIGHTS = {"ce_full": 1, "ce_weak": 0.001, "kd": 50, "entropy": 1}


def test_every_setting_is_tested(tools: SimpleNamespace) -> None:
    check_that_each_is_tested(tools.configs, OVERRIDES, APART)


def test_every_setting_has_its_effect(tmp_path: Path, tools: SimpleNamespace) -> None:
    content = tools.write_datalist(tmp_path / "data", training=7, scribbles=True)
    content["training"][6]["supervision"] = "noisy"
    tools.save_datalist(tmp_path / "data", content)
    parser = parse(tools.configs, **OVERRIDES, **places(tmp_path))
    check_effects(parser, tmp_path)

    def get(name: str) -> Any:
        return parser.get_parsed_content(name)

    data = get("train#dataset#data")
    # One patient full, four partial, one without labels, and the proposed one as partial.
    kinds = [item["supervision"] for item in data]
    assert kinds == ["full"] + 4 * ["partial"] + ["none", "partial"]
    folders = [Path(item["label"]).parent.name for item in data if "label" in item]
    assert folders == ["label"] + 4 * ["scribble"] + ["label"]

    # Classes 1 and 3 out of 0…4 become 1 and 2, unlabeled 5 becomes 3, the rest background.
    preparation = get("preparation")
    assert (preparation.num_source_classes, preparation.target_classes) == (5, [1, 3])
    sizes = (preparation.slice_size, preparation.crop_size, preparation.spatial_size)
    assert [list(size) for size in sizes] == [[48, 40], [32, 24], [16, 12]]
    for name in ("train#preprocessing", "validate#dataset#transform"):
        (turn,) = [s for s in get(name).transforms if isinstance(s, Orientationd)]
        assert turn.ornt_transform.axcodes == "LPS"
    assert tuple(get("validate#inferer").roi_size) == (16, 12)

    assert isinstance(get("train#dataset").slice_transform, RandFlipd)

    network = get("network_def")
    assert (network.features, network.padded) == ((4, 8), False)
    dropouts = (torch.nn.Dropout, torch.nn.Dropout2d)
    assert [m.p for m in network.modules() if isinstance(m, dropouts)] == [0.25]
    assert get("optimizer").defaults["lr"] == 0.01
    assert (get("lr_scheduler").power, get("lr_scheduler").total_iters) == (0.9, 6)
    assert get("validate#scorer").class_names == ["background", "RV", "LV"]


def test_volumes_keep_their_axes_unless_told_otherwise(tools: SimpleNamespace) -> None:
    preparation = parse(tools.configs).get_parsed_content("preparation")
    for transform in (preparation.training(), preparation.evaluation, preparation.inference):
        assert not any(isinstance(step, Orientationd) for step in transform.transforms)


def test_folders_follow_the_bundles_root(tools: SimpleNamespace) -> None:
    parser = parse(tools.configs, bundle_root="/there")
    folders = [parser.get_parsed_content(f"{n}_dir") for n in ("dataset", "output", "ckpt")]
    assert folders == ["/there/data", "/there/eval", "/there/eval/models"]


def test_datalist_and_device(tmp_path: Path, tools: SimpleNamespace) -> None:
    tools.write_datalist(tmp_path / "a", training=2)
    tools.write_datalist(tmp_path / "b", training=3)
    parser = parse(
        tools.configs,
        dataset_dir=str(tmp_path / "a"),
        datalist=str(tmp_path / "b" / "datalist.json"),
        device="meta",
        features=[2, 4],
    )
    assert len(parser.get_parsed_content("datalist_content").training) == 3
    assert next(parser.get_parsed_content("network").parameters()).device.type == "meta"


@pytest.mark.parametrize(
    ("row", "branches", "selected_by", "terms"),
    [
        ("lower_bound", {"full": "main"}, "main", ["ce_full"]),
        ("upper_bound", {"full": "main"}, "main", ["ce_full"]),
        ("single", {"full": "main", "partial": "main"}, "main", ["ce_full", "ce_weak"]),
        (
            "single_ent",
            {"full": "main", "partial": "main"},
            "main",
            ["ce_full", "ce_weak", "entropy"],
        ),
        ("decoupled", {"full": "teacher", "partial": "student"}, "student", ["ce_full", "ce_weak"]),
        ("kl", {"full": "both", "partial": "student"}, "student", ["ce_full", "ce_weak", "kd"]),
        (None, {"full": "both", "partial": "student"}, "student", list(WEIGHTS)),
    ],
)
@pytest.mark.parametrize("bundle", ["acdc_lv_confkd", "la_confkd"])
def test_the_papers_rows(
    tools: SimpleNamespace,
    bundle: str,
    row: str | None,
    branches: dict[str, str],
    selected_by: str,
    terms: list[str],
) -> None:
    """One file each, passed after train.yaml; after inference.yaml it gives the same network."""
    configs = tools.configs.parents[1] / bundle / "configs"
    overlay = [] if row is None else [str(configs / "rows" / f"{row}.yaml")]
    parser, inference = ConfigParser(), ConfigParser()
    for one, name in ((parser, "train.yaml"), (inference, "inference.yaml")):
        one.read_config([str(configs / name), *overlay])
        one.update({"features": [2, 2, 2, 2, 2]})
    objective = parser.get_parsed_content("objective")
    assert objective.branches == branches
    assert objective.weights == {name: WEIGHTS[name] for name in terms}
    assert parser.get_parsed_content("validate#key_metric") == f"val_dice_{selected_by}"
    weights = parser.get_parsed_content("network_def").state_dict()
    inference.get_parsed_content("network_def").load_state_dict(weights, strict=True)
    assert inference.get_parsed_content("branch") == selected_by


def test_a_mistyped_setting_is_found(tools: SimpleNamespace) -> None:
    file = str(tools.configs / "train.yaml")
    words = ["run", "training", "--config_file", file, "--lamda_ent", "0", "--max_epochs=3"]
    assert unknown_options([*words, "--nonsense=1"]) == {
        "lamda_ent": ["lambda_ent"],
        "nonsense": [],
    }
    # A Python list of files; dashes as Fire takes them; ids below the top, and MONAI's own.
    both = str([file, str(tools.configs / "evaluate.yaml")])
    words = ["run", "evaluating", "--config_file", both, "--split", "test", "--max-epochs", "3"]
    assert unknown_options([*words, "--train#trainer#max_epochs", "2", "--logging_file", "x"]) == {}
    assert unknown_options([*words[:3], file, "--split", "test"]) == {"split": []}
    assert unknown_options([*words[:4], "--run_name", "a"]) == {"run_name": []}
    assert unknown_options([*words[:4], "--run_name", "a", "--tracking", "mlflow"]) == {}


def test_options_in_an_arguments_file(tmp_path: Path, tools: SimpleNamespace) -> None:
    path = tmp_path / "args.yaml"
    path.write_text(f"config_file: {tools.configs / 'train.yaml'}\nnum_ful: 3\n")
    assert unknown_options(["run", "--args_file", str(path)]) == {"num_ful": ["num_full"]}


def test_other_programs_are_left_alone() -> None:
    start_command(["pytest", "run", "--config_file", "absent.yaml", "--x", "1"])
