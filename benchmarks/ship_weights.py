"""Make the weights that ship with a bundle out of a finished run, and score them.

    python benchmarks/ship_weights.py benchmarks/experiments/acdc_weights.yaml --dataset_dir ACDC

Takes the weights that benchmarks/experiments/run.py has selected on the validation split, stores
them in half precision as models/compact.pt of the bundle, and scores that file. Writes
benchmarks/results/weights/BUNDLE.json. Where half precision changes a branch's validation Dice by
0.05 points or more, nothing is stored.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

from mixseg.files.atomic import write_bytes_atomic

REPOSITORY = Path(__file__).resolve().parents[1]
FILE = "compact.pt"
LARGEST_DIFFERENCE = 0.05  # Dice points


def half(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Floating-point tensors as float16, the others as they are."""
    return {k: v.half() if v.is_floating_point() else v for k, v in state.items()}


def score(experiment: dict[str, Any], weights: Path, dataset_dir: Path, split: str) -> Any:
    """``summary.json`` of the bundle's own evaluation of these weights."""
    configs = REPOSITORY / "bundles" / experiment["bundle"] / "configs"
    files = ["train.yaml", *experiment["overlays"], "evaluate.yaml"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "monai.bundle", "run", "evaluating"]
        command += ["--config_file", str([str(configs / name) for name in files])]
        knobs = {"dataset_dir": dataset_dir, "split": split, "checkpoint": weights}
        for name, value in {**knobs, "output_dir": folder, "progress": False}.items():
            command += [f"--{name}", str(value)]
        subprocess.run(command, check=True)
        return json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))


def differences(one: Any, other: Any) -> list[float]:
    """Of the mean Dice of every branch and class, in points."""
    return [
        100 * abs(item["dice"]["mean"] - other["scores"][branch][name]["dice"]["mean"])
        for branch, classes in one["scores"].items()
        for name, item in classes.items()
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("list", type=Path, help="experiment list (YAML) of one row")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder of the data")
    parser.add_argument("--seed", type=int, default=0, help="seed of the run")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs", help="folder of the runs")
    arguments = parser.parse_args()
    experiment = yaml.safe_load(arguments.list.read_text(encoding="utf-8"))
    (row,) = experiment["rows"]
    run = arguments.work / arguments.list.stem / f"{row}_seed{arguments.seed}"
    weights = run / "models" / "model.pt"
    if not weights.is_file():
        parser.error(f"{weights} is missing: run benchmarks/experiments/run.py on the list first")

    state = torch.load(weights, map_location="cpu", weights_only=True)
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / FILE
        torch.save(half(state), small)
        summaries = {
            split: score(experiment, small, arguments.dataset_dir, split)
            for split in ("validation", "test")
        }
        content = small.read_bytes()
    full = score(experiment, weights, arguments.dataset_dir, "validation")
    largest = max(differences(summaries["validation"], full))
    if largest >= LARGEST_DIFFERENCE:
        sys.exit(f"half precision changes validation Dice by {largest:.3f} points: nothing stored")
    result = {
        "bundle": experiment["bundle"],
        "list": arguments.list.stem,
        "file": FILE,
        "sha256": hashlib.sha256(content).hexdigest(),
        "megabytes": len(content) / 1e6,
        "largest_validation_difference": largest,
        **summaries,
    }
    target = REPOSITORY / "bundles" / experiment["bundle"] / "models" / FILE
    write_bytes_atomic(target, content)
    results = REPOSITORY / "benchmarks" / "results" / "weights" / f"{experiment['bundle']}.json"
    write_bytes_atomic(results, (json.dumps(result, indent=1) + "\n").encode())
    print(f"{target.relative_to(REPOSITORY)}: {result['megabytes']:.1f} MB")


if __name__ == "__main__":
    main()
