"""What a bundle does before it works, and the settings that its record holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from monai.utils import set_determinism

from mixseg.configuration.settings import run_settings
from mixseg.handlers import start_run

TRAIN = """
imports: [$import torch, $from mixseg.configuration.settings import run_settings]
bundle_root: .
dataset_dir: /somewhere
output_dir: $@bundle_root + '/eval'
device: cpu
num_full: 3
num_partial: $5 * @num_full
ramps: {lambda_ent: $10 * @num_full}
loss: $torch.nn.functional.mse_loss
features: [16, 32]
lr: 2.0e-3
network_def: {_target_: Identity, channels: '@features'}
network: $@network_def.to(@device)
train: {dataset: {_target_: Identity}, handlers: [{_target_: Identity}]}
training: '@run'
"""
EVALUATE = """
split: test
checkpoint: null
train#handlers: []
run: [$run_settings()]
evaluating: '@run'
"""


def settings_of_a_run(folder: Path, **given: Any) -> Any:
    for name, text in (("train", TRAIN), ("evaluate", EVALUATE)):
        (folder / f"{name}.yaml").write_text(text)
    workflow = ConfigWorkflow(
        [str(folder / "train.yaml"), str(folder / "evaluate.yaml")], logging_file=False, **given
    )
    workflow.initialize()
    (found,) = workflow.run()
    return found


def test_settings_are_the_plain_entries(tmp_path: Path) -> None:
    """Expressions by their values, what was given instead, no component, no place."""
    expected = {
        "num_full": 3,
        "num_partial": 15,
        "ramps": {"lambda_ent": 30},
        "loss": "$torch.nn.functional.mse_loss",  # a function is nothing for JSON
        "features": [16, 32],
        "lr": 2e-3,
        "split": "test",
    }
    assert settings_of_a_run(tmp_path) == expected
    changed = {"num_full": 5, "split": "validation", "features": [4, 8]}
    derived = {"num_partial": 25, "ramps": {"lambda_ent": 50}}
    assert settings_of_a_run(tmp_path, **changed) == expected | changed | derived


def test_another_program_has_no_settings() -> None:
    assert run_settings() == {}


def test_start_checks_folders_and_cases_before_the_seed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written"):
        start_run([tmp_path / "file" / "below"], seed=0)
    cases = [{"image": str(tmp_path / "absent.nii.gz"), "supervision": "none", "case_id": "a"}]
    with pytest.raises(ValueError, match="the image file is missing"):
        start_run([tmp_path], training=cases, classes=["background", "LV"], progress=False)


def test_start_makes_folders_and_sets_the_seed(tmp_path: Path) -> None:
    try:
        draws = []
        for _ in range(2):
            start_run([tmp_path / "a" / "b", tmp_path / "c"], seed=5)
            draws.append((torch.rand(1).item(), np.random.rand()))  # noqa: NPY002
        assert draws[0] == draws[1]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]
        torch.manual_seed(1)
        expected = torch.rand(1).item()
        torch.manual_seed(1)
        start_run([tmp_path])  # leaves the generators alone
        assert torch.rand(1).item() == expected
    finally:
        set_determinism(None)


def test_a_split_without_cases_and_a_seed_of_no_generator_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no case to score: the split is empty\. .* --split"):
        start_run([tmp_path], test=[], classes=["background", "heart"])
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match=f"seed must be a whole number .*, got {seed}"):
            start_run([tmp_path], seed=seed)
