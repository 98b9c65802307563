r"""Dice of the networks that SSCO trains side by side, one by one and as means.

    python -m benchmarks.compare run benchmarks/experiments/compare_acdc_cpu.yaml --row ssco \
        --keep \
      --dataset_dir ACDC --work runs
    python benchmarks/ssco_prediction.py --dataset_dir ACDC --work runs

``SSCO`` predicts with its first student, the authors' code with the mean softmax of all teachers.
All are scored at the last epoch, from the checkpoint that ``--keep`` leaves, on both splits.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compare.list import Experiment, experiments
from compare.steps import outputs
from mixseg.apps.bundle.find import find_bundle
from mixseg.configuration.loading import read_parser
from mixseg.files.atomic import strict_json, write_bytes_atomic
from mixseg.files.provenance import environment
from mixseg.networks import ensemble_logits

ROOT = Path(__file__).resolve().parents[1]


class MeanSoftmax(nn.Module):
    """Predicts the mean softmax of several networks.

    Args:
        networks: that take ``branch=``.
    """

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, image: Tensor, branch: str | None = None) -> Tensor:
        """Logits (B, C, *spatial) whose softmax is the mean."""
        return ensemble_logits(*(network(image, branch=branch) for network in self.networks))


def predictors(networks: Any, students: tuple[str, ...], teachers: tuple[str, ...]) -> dict:
    """Name → what predicts."""
    return {
        "first student": networks[students[0]],
        "first teacher": networks[teachers[0]],
        "mean of the students": MeanSoftmax([networks[name] for name in students]),
        "mean of the teachers": MeanSoftmax([networks[name] for name in teachers]),
    }


def score(row: Experiment, seed: int, work: Path, dataset_dir: Path) -> dict[str, Any]:
    """Split → predictor → mean Dice and HD95 over the cases.

    Raises:
        ValueError: the run has no checkpoint.
    """
    folder = work / row.list_name / f"{row.row}_seed{seed}"
    checkpoint = outputs(row, folder).history.with_name("checkpoint.pt")
    if not checkpoint.is_file():
        raise ValueError(f"'{checkpoint}' is not there: run the row with --keep")
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    found: dict[str, Any] = {"epoch": state["epoch"]}
    train = find_bundle(str(row.bundle)) / "configs" / "train.yaml"
    for split in ("validation", "test"):
        settings = {**row.settings, "seed": seed, "dataset_dir": str(dataset_dir), "device": "cpu"}
        parser = read_parser([train], {**settings, "progress": False})
        parser["validate#dataset#data#split"] = split
        parser["validate#scorer#distances"] = True
        networks = parser.get_parsed_content("networks")
        networks.load_state_dict(state["networks"])
        objective = parser.get_parsed_content("objective")
        evaluator = parser.get_parsed_content("validate#evaluator")
        scorer = parser.get_parsed_content("validate#scorer")
        found[split] = {}
        for name, network in predictors(networks, objective.students, objective.teachers).items():
            evaluator.network = network
            evaluator.run()
            distances = [one.hd95_vox for one in scorer.rows if one.hd95_vox is not None]
            found[split][name] = {
                "dice": statistics.fmean(one.dice for one in scorer.rows),
                "hd95_vox": statistics.fmean(distances),
                "cases": len(scorer.rows),
            }
            print(f"{row.row}, seed {seed}, {split}, {name}: {found[split][name]}", flush=True)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder of the data")
    parser.add_argument("--work", type=Path, default=Path("runs"), help="folder of the runs")
    experiment_list = ROOT / "benchmarks" / "experiments" / "compare_acdc_cpu.yaml"
    parser.add_argument("--list", type=Path, default=experiment_list, help="experiment list")
    parser.add_argument("--row", default="ssco", help="row of the list")
    parser.add_argument("--seed", type=int, default=0)
    results = ROOT / "benchmarks" / "results" / "ssco_prediction.json"
    parser.add_argument("--output", type=Path, default=results, help="result file, added to")
    arguments = parser.parse_args()
    row = next(one for one in experiments(arguments.list) if one.row == arguments.row)
    content = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {}
    found = score(row, arguments.seed, arguments.work, arguments.dataset_dir)
    entry = {**found, **environment()}
    runs = content.get("runs", {}) | {f"{row.row}_seed{arguments.seed}": entry}
    write_bytes_atomic(arguments.output, strict_json({"runs": dict(sorted(runs.items()))}).encode())


if __name__ == "__main__":
    main()
