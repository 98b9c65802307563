"""Every setting at the top of the 3D train.yaml reaches the part that it names."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from monai.bundle import ConfigParser
from monai.transforms import RandFlipd, Spacingd

from mixseg.handlers import FullCheckpoint, ProgressBar, Ramp, Validation, WeightRamps
from mixseg.transforms import ConvertUnlabeledd, RescaleIntensityd, ScribbleByErosiond

FLIP = {"_target_": "RandFlipd", "keys": ["image", "label", "weak_label"], "prob": 1.0}
# Every setting away from its default, in values that go together.
OVERRIDES: dict[str, Any] = {
    "num_full": 1,
    "num_partial": 1,
    "num_unlabeled": 1,
    "weak_label": "drawn",
    "erosion_rule": "literal10",
    "erosion_axis": None,
    "noisy_as": "partial",
    "class_names": ["background", "LA", "more"],
    "in_channels": 3,
    "unlabeled_value": 255,
    "normalization": "fixed",
    "intensity_range": [10, 30],
    "intensity_mean": 20,
    "intensity_sd": 5,
    "spacing": [2.0, 2.0, 1.0],
    "crop_size": [16, 16, 32],
    "batch_full": 3,
    "batch_partial": 2,
    "batch_unlabeled": 1,
    "epoch_length": 5,
    "flip_axes": [2],
    "rotate": False,
    "augmentation": FLIP,
    "image_dtype": "float32",
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
    "features": [2, 4, 4, 4, 4],
    "dropout": 0.25,
    "norm": "instance",
    "seed": 11,
    "max_epochs": 6,
    "lr": 0.02,
    "momentum": 0.8,
    "weight_decay": 0.001,
    "lr_step": 2,
    "lr_gamma": 0.5,
    "clip_grad_norm": 2.0,
    "accumulation_steps": 2,
    "ema_decay": 0.9,
    "overlap": 0.6,
    "stretch": 1.25,
    "blend": "gaussian",
    "average": "logits",
    "whole_volume": True,
    "mirror_axes": [1],
    "largest_component": True,
    "val_interval": 3,
    "checkpoint_interval": 4,
    "patience": 9,
    "resume": True,
    "progress": False,
}
# Checked in tests of their own, or (amp) without an effect on the CPU.
APART = {"bundle_root", "dataset_dir", "datalist", "output_dir", "ckpt_dir", "device"} | {
    "weak_branch",
    "inference_branch",
    "amp",
    "cache_dir",
    "cache_device",
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


def test_every_setting_is_tested(la_tools: SimpleNamespace) -> None:
    assert set(settings(la_tools)) == set(OVERRIDES) | APART
    for name, value in settings(la_tools).items():
        assert name in APART or OVERRIDES[name] != value, f"{name}: the test keeps its default"


def one(handlers: list[Any], kind: type) -> Any:
    (found,) = [handler for handler in handlers if isinstance(handler, kind)]
    return found


def places(folder: Path) -> dict[str, Any]:
    names = {"dataset_dir": "data", "output_dir": "out", "ckpt_dir": "models"}
    return {key: str(folder / name) for key, name in names.items()} | {"device": "cpu"}


def test_every_setting_has_its_effect(tmp_path: Path, la_tools: SimpleNamespace) -> None:
    content = la_tools.write_datalist(tmp_path / "data", training=4)
    content["training"][1]["scribble"] = content["training"][1]["label"]
    content["training"][3]["supervision"] = "noisy"
    la_tools.save_datalist(tmp_path / "data", content)
    parser = parse(la_tools, **OVERRIDES, **places(tmp_path))

    def get(name: str) -> Any:
        return parser.get_parsed_content(name)

    data = get("train#dataset#data")
    assert [item["supervision"] for item in data] == ["full", "partial", "none", "partial"]
    assert not any(item["erode"] for item in data)
    assert "label" not in data[2]
    assert get("num_classes") == 3

    steps = get("train#preprocessing").transforms
    scribbles = [step for step in steps if isinstance(step, ScribbleByErosiond)]
    assert {step.transform.rule for step in scribbles} == {"literal10"}
    assert {step.transform.slice_axis for step in scribbles} == {None}
    for name in ("train#preprocessing", "validate#dataset#transform"):
        spacings = [s.spacing_transform for s in get(name).transforms if isinstance(s, Spacingd)]
        assert {tuple(s.pixdim) for s in spacings} == {(2.0, 2.0, 1.0)}
        (rescale,) = [s for s in get(name).transforms if isinstance(s, RescaleIntensityd)]
        # 10…30 are kept, minus 20, over 5.
        gray = torch.tensor([[0.0, 10.0, 20.0, 25.0, 99.0]])
        assert rescale({"image": gray})["image"].tolist() == [[-2.0, -2.0, 0.0, 1.0, 2.0]]
        (convert,) = [s for s in get(name).transforms if isinstance(s, ConvertUnlabeledd)]
        assert convert.transform.unlabeled_value == 255

    loader = get("train#dataloader")
    assert loader.batch_sampler.counts == {"full": 3, "partial": 2, "none": 1}
    assert (len(loader), loader.num_workers, loader.seed, loader.dataset.seed) == (5, 1, 11, 11)
    dataset = loader.dataset
    assert tuple(dataset.crop_size) == (16, 16, 32)
    assert (tuple(dataset.flip_axes), dataset.rotate) == ((2,), False)
    assert isinstance(dataset.random_transform, RandFlipd)

    objective = get("objective")
    names = "lambda_w lambda_kd lambda_ent weak_on entropy_on weak_normalization divergence alpha"
    for name in [*names.split(), "smooth", "detach_teacher"]:
        assert getattr(objective, name) == OVERRIDES[name]

    network = get("network_def")
    assert (tuple(network.features), network.out_channels) == ((2, 4, 4, 4, 4), 3)
    assert network.in_channels == 3
    dropouts = [m.p for m in network.modules() if isinstance(m, torch.nn.Dropout3d)]
    assert set(dropouts) == {0.25}
    assert not any(isinstance(m, torch.nn.BatchNorm3d) for m in network.modules())

    optimizer = get("optimizer").defaults
    assert (optimizer["lr"], optimizer["momentum"], optimizer["weight_decay"]) == (0.02, 0.8, 0.001)
    assert (get("lr_scheduler").step_size, get("lr_scheduler").gamma) == (2, 0.5)
    trainer = get("train#trainer")
    assert trainer.state.max_epochs == 6
    assert (trainer.clip_grad_norm, trainer.accumulation_steps) == (2.0, 2)
    assert trainer.inference_network is not trainer.network
    assert trainer.step_module.separate_forward is False

    inferer = get("validate#inferer")
    assert tuple(inferer.roi_size) == (16, 16, 32)
    assert (tuple(inferer.overlap), inferer.whole_volume) == ((0.6,) * 3, True)
    assert inferer.average == "logits"
    assert (inferer.stretch, inferer.mode) == (1.25, "gaussian")
    assert tuple(inferer.mirror_axes) == (1,)
    assert tuple(inferer.size_divisor) == (network.size_divisor,) * 3
    assert get("validate#scorer").largest_component is True
    assert get("validate#scorer").class_names == ["background", "LA", "more"]

    (group,) = get("train#handlers")
    handlers = group.handlers
    ramps = one(handlers, WeightRamps)
    assert (ramps.ramps, ramps.shape) == ({"lambda_ent": Ramp(length=7)}, "cosine")
    assert one(handlers, Validation).interval == 3
    assert one(handlers, ProgressBar).enabled is False
    saver = one(handlers, FullCheckpoint)
    assert (saver.interval, saver.patience, saver.resume) == (4, 9, True)


def test_scans_on_disk_and_in_memory_give_the_same_batches(
    tmp_path: Path, la_tools: SimpleNamespace
) -> None:
    la_tools.write_datalist(tmp_path / "data")
    batches = []
    for cache in (None, str(tmp_path / "cache")):
        parser = parse(la_tools, **{**la_tools.tiny, **places(tmp_path), "cache_dir": cache})
        loader = parser.get_parsed_content("train#dataloader")
        loader.set_epoch(1)
        batches.append(next(iter(loader)))
    assert any((tmp_path / "cache").rglob("*"))
    for key in ("image", "label", "weak_label"):
        assert torch.equal(batches[0][key], batches[1][key]), key


def test_another_backbone_is_chosen_by_network_def_alone(
    tmp_path: Path, la_tools: SimpleNamespace
) -> None:
    la_tools.write_datalist(tmp_path / "data")
    target = "mixseg.networks.DualBranchDynUNet"
    settings = {**la_tools.tiny, "max_epochs": 1, "network_def#_target_": target}
    la_tools.run_bundle("training", "train.yaml", **settings | places(tmp_path))
    state = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in state.values())
