"""The page on adding a method, executed as it stands: objective, overlay and command."""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mixseg.data.phantom.dataset import write_phantom

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "adding_a_method.md"
SMALL = (
    "--features [4,8,16] --spatial_size [32,32] --num_full 1 --num_unlabeled 2 --batch_full 2 "
    "--batch_unlabeled 2 --epoch_length 2 --max_epochs 2 --val_interval 2 --progress False"
)


def block(language: str) -> str:
    """The page's only block in a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    return str(found)


@pytest.mark.slow
def test_the_toy_method_trains_and_resumes(tmp_path: Path) -> None:
    write_phantom(tmp_path / "ACDC", num_patients=5, seed=0, progress=False)
    bundle = tmp_path / "bundle"
    (bundle / "configs").mkdir(parents=True)
    for path in (ROOT / "bundles" / "acdc_lv_confkd" / "configs").glob("*.*"):
        (bundle / "configs" / path.name).write_bytes(path.read_bytes())
    (bundle / "configs" / "mean_teacher.yaml").write_text(block("yaml"))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mean_teacher.py").write_text(block("python"))
    words = shlex.split(block("bash").replace("ACDC", str(tmp_path / "ACDC")))
    assert words[0] == "python"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "code")}

    def run(*more: str) -> dict[str, torch.Tensor]:
        command = [sys.executable, *words[1:], *shlex.split(SMALL), *more]
        done = subprocess.run(command, cwd=bundle, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        state = torch.load(bundle / "eval" / "checkpoint.pt", weights_only=True)
        weights: dict[str, torch.Tensor] = state["networks"]
        return {name: value for name, value in weights.items() if isinstance(value, torch.Tensor)}

    run("--max_epochs", "1")
    weights = run("--resume", "True")
    assert {name.partition(".")[0] for name in weights} == {"network", "ema"}
    averaged = [n for n in weights if n.startswith("ema") and n.endswith("head.weight")]
    assert averaged
    for name in averaged:  # it lags behind what it follows
        assert not torch.equal(weights[name], weights[name.replace("ema", "network", 1)])
    with (bundle / "eval" / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["iteration"] for row in rows] == ["2", "4"]
    assert all(float(row["consistency"]) > 0 and float(row["ce"]) > 0 for row in rows)
