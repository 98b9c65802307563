"""Every setting at the top of the 3D train.yaml reaches the part that it names."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from monai.transforms import RandFlipd, Spacingd

from mixseg.transforms import ScribbleByErosiond

from .. import settings
from ..settings import APART, check_effects, check_that_each_is_tested, parse, places

# Every setting away from its default, in values that go together.
OVERRIDES: dict[str, Any] = {
    **settings.OVERRIDES,
    "num_partial": 1,
    "erosion_axis": None,
    "class_names": ["background", "LA", "more"],
    "spacing": [2.0, 2.0, 1.0],
    "crop_size": [16, 16, 32],
    "flip_axes": [2],
    "rotate": False,
    "image_dtype": "float32",
    "features": [2, 4, 4, 4, 4],
    "lr": 0.02,
    "momentum": 0.8,
    "weight_decay": 0.001,
    "lr_step": 2,
    "lr_gamma": 0.5,
    "overlap": 0.6,
    "stretch": 1.25,
    "blend": "gaussian",
    "average": "logits",
    "whole_volume": True,
    "mirror_axes": [1],
    "largest_component": True,
}


def test_every_setting_is_tested(la_tools: SimpleNamespace) -> None:
    check_that_each_is_tested(la_tools.configs, OVERRIDES, APART | {"cache_dir", "cache_device"})


def test_every_setting_has_its_effect(tmp_path: Path, la_tools: SimpleNamespace) -> None:
    content = la_tools.write_datalist(tmp_path / "data", training=4)
    content["training"][1]["scribble"] = content["training"][1]["label"]
    content["training"][3]["supervision"] = "noisy"
    la_tools.save_datalist(tmp_path / "data", content)
    parser = parse(la_tools.configs, **OVERRIDES, **places(tmp_path))
    check_effects(parser, tmp_path)

    def get(name: str) -> Any:
        return parser.get_parsed_content(name)

    data = get("train#dataset#data")
    assert [item["supervision"] for item in data] == ["full", "partial", "none", "partial"]
    assert "label" not in data[2]

    steps = get("train#preprocessing").transforms
    scribbles = [step for step in steps if isinstance(step, ScribbleByErosiond)]
    assert {step.transform.slice_axis for step in scribbles} == {None}
    for name in ("train#preprocessing", "validate#dataset#transform"):
        spacings = [s.spacing_transform for s in get(name).transforms if isinstance(s, Spacingd)]
        assert {tuple(s.pixdim) for s in spacings} == {(2.0, 2.0, 1.0)}

    dataset = get("train#dataset")
    assert tuple(dataset.crop_size) == (16, 16, 32)
    assert (tuple(dataset.flip_axes), dataset.rotate) == ((2,), False)
    assert isinstance(dataset.random_transform, RandFlipd)

    network = get("network_def")
    assert tuple(network.features) == (2, 4, 4, 4, 4)

    optimizer = get("optimizer").defaults
    assert (optimizer["lr"], optimizer["momentum"], optimizer["weight_decay"]) == (0.02, 0.8, 0.001)
    assert (get("lr_scheduler").step_size, get("lr_scheduler").gamma) == (2, 0.5)
    inferer = get("validate#inferer")
    assert tuple(inferer.roi_size) == (16, 16, 32)
    assert (tuple(inferer.overlap), inferer.whole_volume) == ((0.6,) * 3, True)
    assert inferer.average == "logits"
    assert (inferer.stretch, inferer.mode) == (1.25, "gaussian")
    assert tuple(inferer.mirror_axes) == (1,)
    assert tuple(inferer.size_divisor) == (network.size_divisor,) * 3
    assert get("validate#scorer").largest_component is True
    assert get("validate#scorer").class_names == ["background", "LA", "more"]


def test_scans_on_disk_and_in_memory_give_the_same_batches(
    tmp_path: Path, la_tools: SimpleNamespace
) -> None:
    la_tools.write_datalist(tmp_path / "data")
    batches = []
    for cache in (None, str(tmp_path / "cache")):
        parser = parse(
            la_tools.configs, **{**la_tools.tiny, **places(tmp_path), "cache_dir": cache}
        )
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
