"""What a bundle does before it works, and the settings that its record holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.utils import set_determinism

from mixseg.configuration.settings import run_settings
from mixseg.handlers import start_run

TRAIN = """
imports: [$import torch]
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
network_def: {_target_: Identity}
validate: {dataset: {data: {split: validation}}}
training: '@run'
"""
EVALUATE = """
split: test
checkpoint: null
validate#dataset#data#split: '@split'
later: 1
"""


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for name, text in (("train", TRAIN), ("evaluate", EVALUATE)):
        (tmp_path / f"{name}.yaml").write_text(text)
    return [str(tmp_path / "train.yaml"), str(tmp_path / "evaluate.yaml")]


def test_settings_are_the_entries_before_the_first_component(files: list[str]) -> None:
    """Of each file; expressions by their values, the command line's, no place of the machine."""
    words = ["__main__.py", "run", "evaluating", "--config_file", str(files)]
    expected = {
        "num_full": 3,
        "num_partial": 15,
        "ramps": {"lambda_ent": 30},
        "loss": "$torch.nn.functional.mse_loss",  # a function is nothing for JSON
        "features": [16, 32],
        "lr": 2e-3,
        "split": "test",
    }
    assert run_settings(words) == expected
    given = [*words, "--num_full", "5", "--split=validation", "--features", "[4, 8]"]
    changed = {"num_full": 5, "num_partial": 25, "ramps": {"lambda_ent": 50}}
    changed |= {"split": "validation", "features": [4, 8]}
    assert run_settings(given) == expected | changed


def test_files_with_commas_between_and_options_in_a_file(tmp_path: Path, files: list[str]) -> None:
    assert run_settings(["x", "--config_file", ",".join(files)])["split"] == "test"
    arguments = tmp_path / "args.yaml"
    arguments.write_text(f"config_file: {files[0]}\nlr: 0.5\n")
    assert run_settings(["x", "run", "--args_file", str(arguments)])["lr"] == 0.5


def test_another_program_has_no_settings() -> None:
    assert run_settings(["pytest", "-q"]) == {}


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
