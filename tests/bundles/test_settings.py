"""Every setting at the top of train.yaml reaches the part that it names."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from monai.transforms import Orientationd, RandFlipd

from mixseg.configuration.settings import unknown_options
from mixseg.configuration.start import start_command
from mixseg.handlers import FullCheckpoint, ProgressBar, Ramp, Validation, WeightRamps
from mixseg.transforms import ConvertUnlabeledd, RescaleIntensityd, ScribbleByErosiond

# Every setting away from its default, in values that go together.
FLIP = {"_target_": "RandFlipd", "keys": ["image", "label", "weak_label"], "prob": 1.0}
OVERRIDES: dict[str, Any] = {
    "num_full": 1,
    "num_partial": 4,
    "num_unlabeled": 1,
    "weak_label": "drawn",
    "erosion_rule": "literal10",
    "noisy_as": "partial",
    "source_classes": ["background", "RV", "myocardium", "LV", "more"],
    "target_classes": [1, 3],
    "class_names": ["background", "RV", "LV"],
    "in_channels": 3,
    "unlabeled_value": 255,
    "orientation": "LPS",
    "normalization": "fixed",
    "intensity_range": [10, 30],
    "intensity_mean": 20,
    "intensity_sd": 5,
    "slice_size": [48, 40],
    "crop_size": [32, 24],
    "spatial_size": [16, 12],
    "batch_full": 3,
    "batch_partial": 2,
    "batch_unlabeled": 1,
    "epoch_length": 5,
    "augmentation": FLIP,
    "num_workers": 1,
    "lambda_w": 0.2,
    "lambda_kd": 3,
    "lambda_ent": 0.4,
    "weak_on": "all",
    "entropy_on": "all",
    "weak_normalization": "all",
    "divergence": "tsallis",
    "alpha": 3.0,
    "smooth": False,
    "detach_teacher": False,
    "separate_forward": False,
    "ramps": {"lambda_ent": 7},
    "ramp_shape": "cosine",
    "features": [4, 8],
    "dropout": 0.25,
    "norm": "instance",
    "padded": False,
    "seed": 11,
    "max_epochs": 6,
    "lr": 0.01,
    "lr_power": 0.9,
    "clip_grad_norm": 2.0,
    "accumulation_steps": 2,
    "ema_decay": 0.9,
    "val_interval": 3,
    "checkpoint_interval": 4,
    "patience": 9,
    "resume": True,
    "progress": False,
}
#: Terms and their weights, the journal's.
WEIGHTS = {"ce_full": 1, "ce_weak": 0.001, "kd": 50, "entropy": 1}
# Checked in tests of their own, or (amp) without an effect on the CPU.
APART = {"bundle_root", "dataset_dir", "datalist", "output_dir", "ckpt_dir", "device"} | {
    "weak_branch",
    "inference_branch",
    "amp",
}


def parse(tools: SimpleNamespace, **overrides: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(tools.configs / "train.yaml"))
    parser.update(overrides)
    return parser


def settings(tools: SimpleNamespace) -> dict[str, Any]:
    """The entries of train.yaml from bundle_root to the last one before the first component."""
    content = yaml.safe_load((tools.configs / "train.yaml").read_text())
    names = list(content)
    chosen = names[names.index("bundle_root") : names.index("datalist_content")]
    return {name: content[name] for name in chosen}


def test_every_setting_is_tested(tools: SimpleNamespace) -> None:
    assert set(settings(tools)) == set(OVERRIDES) | APART
    for name, value in settings(tools).items():
        assert name in APART or OVERRIDES[name] != value, f"{name}: the test keeps its default"


def one(handlers: list[Any], kind: type) -> Any:
    (found,) = [handler for handler in handlers if isinstance(handler, kind)]
    return found


def test_every_setting_has_its_effect(tmp_path: Path, tools: SimpleNamespace) -> None:
    content = tools.write_datalist(tmp_path / "data", training=7, scribbles=True)
    content["training"][6]["supervision"] = "noisy"
    tools.save_datalist(tmp_path / "data", content)
    places = {"dataset_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "out")}
    ckpt = str(tmp_path / "models")
    parser = parse(tools, **OVERRIDES, **places, ckpt_dir=ckpt, device="cpu")

    def get(name: str) -> Any:
        return parser.get_parsed_content(name)

    data = get("train#dataset#data")
    # One patient full, four partial, one without labels, and the proposed one as partial.
    kinds = [item["supervision"] for item in data]
    assert kinds == ["full"] + 4 * ["partial"] + ["none", "partial"]
    folders = [Path(item["label"]).parent.name for item in data if "label" in item]
    assert folders == ["label"] + 4 * ["scribble"] + ["label"]
    assert not any(item["erode"] for item in data)

    steps = get("train#preprocessing").transforms
    scribbles = [step for step in steps if isinstance(step, ScribbleByErosiond)]
    assert {step.transform.rule for step in scribbles} == {"literal10"}
    (convert,) = [step for step in steps if isinstance(step, ConvertUnlabeledd)]
    assert convert.transform.unlabeled_value == 255
    assert get("num_classes") == 3
    # Classes 1 and 3 out of 0…4 become 1 and 2, unlabeled 5 becomes 3, the rest background.
    preparation = get("preparation")
    assert (preparation.num_source_classes, preparation.target_classes) == (5, [1, 3])
    sizes = (preparation.slice_size, preparation.crop_size, preparation.spatial_size)
    assert [list(size) for size in sizes] == [[48, 40], [32, 24], [16, 12]]
    for name in ("train#preprocessing", "validate#dataset#transform"):
        (turn,) = [s for s in get(name).transforms if isinstance(s, Orientationd)]
        assert turn.ornt_transform.axcodes == "LPS"
        (rescale,) = [s for s in get(name).transforms if isinstance(s, RescaleIntensityd)]
        # 10…30 are kept, minus 20, over 5.
        gray = torch.tensor([[0.0, 10.0, 20.0, 25.0, 99.0]])
        assert rescale({"image": gray})["image"].tolist() == [[-2.0, -2.0, 0.0, 1.0, 2.0]]
    assert tuple(get("validate#inferer").roi_size) == (16, 12)

    loader = get("train#dataloader")
    assert loader.batch_sampler.counts == {"full": 3, "partial": 2, "none": 1}
    assert (len(loader), loader.num_workers, loader.seed, loader.dataset.seed) == (5, 1, 11, 11)
    assert isinstance(loader.dataset.slice_transform, RandFlipd)

    objective = get("objective")
    names = "lambda_w lambda_kd lambda_ent weak_on entropy_on weak_normalization divergence alpha"
    for name in [*names.split(), "smooth", "detach_teacher"]:
        assert getattr(objective, name) == OVERRIDES[name]

    network = get("network_def")
    assert (network.features, network.padded, network.out_channels) == ((4, 8), False, 3)
    assert network.in_channels == 3
    modules = list(network.modules())
    assert [m.p for m in modules if isinstance(m, torch.nn.Dropout | torch.nn.Dropout2d)] == [0.25]
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in modules)

    assert get("optimizer").defaults["lr"] == 0.01
    assert (get("lr_scheduler").power, get("lr_scheduler").total_iters) == (0.9, 6)
    trainer = get("train#trainer")
    assert trainer.state.max_epochs == 6
    assert (trainer.clip_grad_norm, trainer.accumulation_steps) == (2.0, 2)
    assert trainer.inference_network is not trainer.network
    assert trainer.step_module.separate_forward is False

    (group,) = get("train#handlers")
    handlers = group.handlers
    ramps = one(handlers, WeightRamps)
    assert (ramps.ramps, ramps.shape) == ({"lambda_ent": Ramp(length=7)}, "cosine")
    assert one(handlers, Validation).interval == 3
    assert one(handlers, ProgressBar).enabled is False
    saver = one(handlers, FullCheckpoint)
    assert (saver.interval, saver.patience, saver.resume) == (4, 9, True)
    assert saver.path == tmp_path / "out" / "checkpoint.pt"
    assert saver.model == tmp_path / "models" / "model.pt"
    assert get("validate#scorer").class_names == ["background", "RV", "LV"]


def test_volumes_keep_their_axes_unless_told_otherwise(tools: SimpleNamespace) -> None:
    preparation = parse(tools).get_parsed_content("preparation")
    for transform in (preparation.training(), preparation.evaluation, preparation.inference):
        assert not any(isinstance(step, Orientationd) for step in transform.transforms)


def test_folders_follow_the_bundles_root(tools: SimpleNamespace) -> None:
    parser = parse(tools, bundle_root="/there")
    folders = [parser.get_parsed_content(f"{n}_dir") for n in ("dataset", "output", "ckpt")]
    assert folders == ["/there/data", "/there/eval", "/there/eval/models"]


def test_datalist_and_device(tmp_path: Path, tools: SimpleNamespace) -> None:
    tools.write_datalist(tmp_path / "a", training=2)
    tools.write_datalist(tmp_path / "b", training=3)
    parser = parse(
        tools,
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
