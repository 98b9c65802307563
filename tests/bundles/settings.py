"""Settings that the bundles of slices and of volumes share, and what each must reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from monai.bundle import ConfigParser

from mixseg.handlers import FullCheckpoint, ProgressBar, Ramp, Validation, WeightRamps
from mixseg.transforms import ConvertUnlabeledd, RescaleIntensityd, ScribbleByErosiond

FLIP = {"_target_": "RandFlipd", "keys": ["image", "label", "weak_label"], "prob": 1.0}
#: Away from their defaults, in values that go together.
OVERRIDES: dict[str, Any] = {
    "num_full": 1,
    "num_unlabeled": 1,
    "weak_label": "drawn",
    "erosion_rule": "literal10",
    "noisy_as": "partial",
    "in_channels": 3,
    "unlabeled_value": 255,
    "normalization": "fixed",
    "intensity_range": [10, 30],
    "intensity_mean": 20,
    "intensity_sd": 5,
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
    "dropout": 0.25,
    "norm": "instance",
    "seed": 11,
    "max_epochs": 6,
    "clip_grad_norm": 2.0,
    "accumulation_steps": 2,
    "ema_decay": 0.9,
    "val_interval": 3,
    "checkpoint_interval": 4,
    "patience": 9,
    "resume": True,
    "progress": False,
}
#: Checked in tests of their own, or (amp) without an effect on the CPU.
APART = {"bundle_root", "dataset_dir", "datalist", "output_dir", "ckpt_dir", "device"} | {
    "weak_branch",
    "inference_branch",
    "amp",
}


def parse(configs: Path, **overrides: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(configs / "train.yaml"))
    parser.update(overrides)
    return parser


def places(folder: Path) -> dict[str, Any]:
    names = {"dataset_dir": "data", "output_dir": "out", "ckpt_dir": "models"}
    return {key: str(folder / name) for key, name in names.items()} | {"device": "cpu"}


def check_that_each_is_tested(configs: Path, overrides: dict[str, Any], apart: set[str]) -> None:
    """The entries of train.yaml from bundle_root to the last one before the first component."""
    content = yaml.safe_load((configs / "train.yaml").read_text())
    names = list(content)
    settings = names[names.index("bundle_root") : names.index("datalist_content")]
    assert set(settings) == set(overrides) | apart
    for name in set(settings) - apart:
        assert overrides[name] != content[name], f"{name}: the test keeps its default"


def one(handlers: list[Any], kind: type) -> Any:
    (found,) = [handler for handler in handlers if isinstance(handler, kind)]
    return found


def check_effects(parser: ConfigParser, folder: Path) -> None:
    """What :data:`OVERRIDES` do, with :func:`places` in ``folder``."""

    def get(name: str) -> Any:
        return parser.get_parsed_content(name)

    assert not any(item["erode"] for item in get("train#dataset#data"))
    assert get("num_classes") == 3
    steps = get("train#preprocessing").transforms
    scribbles = [step for step in steps if isinstance(step, ScribbleByErosiond)]
    assert {step.transform.rule for step in scribbles} == {"literal10"}
    for name in ("train#preprocessing", "validate#dataset#transform"):
        (rescale,) = [s for s in get(name).transforms if isinstance(s, RescaleIntensityd)]
        # 10…30 are kept, minus 20, over 5.
        gray = torch.tensor([[0.0, 10.0, 20.0, 25.0, 99.0]])
        assert rescale({"image": gray})["image"].tolist() == [[-2.0, -2.0, 0.0, 1.0, 2.0]]
        (convert,) = [s for s in get(name).transforms if isinstance(s, ConvertUnlabeledd)]
        assert convert.transform.unlabeled_value == 255

    loader = get("train#dataloader")
    assert loader.batch_sampler.counts == {"full": 3, "partial": 2, "none": 1}
    assert (len(loader), loader.num_workers, loader.seed, loader.dataset.seed) == (5, 1, 11, 11)

    objective = get("objective")
    names = "lambda_w lambda_kd lambda_ent weak_on entropy_on weak_normalization divergence alpha"
    for name in [*names.split(), "smooth", "detach_teacher"]:
        assert getattr(objective, name) == OVERRIDES[name]

    network = get("network_def")
    assert (network.in_channels, network.out_channels) == (3, 3)
    kinds = (torch.nn.Dropout, torch.nn.Dropout2d, torch.nn.Dropout3d)
    assert {m.p for m in network.modules() if isinstance(m, kinds)} == {0.25}
    batch_norms = (torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)
    assert not any(isinstance(m, batch_norms) for m in network.modules())

    trainer = get("train#trainer")
    assert trainer.state.max_epochs == 6
    assert (trainer.clip_grad_norm, trainer.accumulation_steps) == (2.0, 2)
    assert trainer.inference_network is not trainer.network
    assert trainer.step_module.separate_forward is False

    (group,) = get("train#handlers")
    ramps = one(group.handlers, WeightRamps)
    assert (ramps.ramps, ramps.shape) == ({"lambda_ent": Ramp(length=7)}, "cosine")
    assert one(group.handlers, Validation).interval == 3
    assert one(group.handlers, ProgressBar).enabled is False
    saver = one(group.handlers, FullCheckpoint)
    assert (saver.interval, saver.patience, saver.resume) == (4, 9, True)
    assert saver.path == folder / "out" / "checkpoint.pt"
    assert saver.model == folder / "models" / "model.pt"
