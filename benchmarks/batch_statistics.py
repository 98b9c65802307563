"""Why each supervision kind is forwarded as its own batch: the measured trap and its cure.

    python benchmarks/batch_statistics.py --dataset_dir ACDC

Trains KL+Ent on the CPU profile twice from one seed, with the two kinds in one forward pass and
with a pass each, and follows the mean foreground probability that the student gives to the fully
and to the partially labeled slices of the same batches. Both kinds come from the same
distribution, so the two curves should lie together. Writes benchmarks/results/batch_statistics.json
and a figure.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import yaml
from ignite.engine import Events
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.bundle import ConfigParser
from monai.utils import set_determinism

from mixseg.files.provenance import environment

REPOSITORY = Path(__file__).resolve().parents[1]


def run(dataset_dir: Path, separate: bool, steps: int, every: int) -> dict[str, Any]:
    """One training; returns its curve and the validation Dice at the end."""
    profile = yaml.safe_load((REPOSITORY / "benchmarks/experiments/acdc_cpu.yaml").read_text())
    parser = ConfigParser()
    parser.read_config(REPOSITORY / "bundles" / profile["bundle"] / "configs" / "train.yaml")
    parser.update(
        {
            **profile["common"],
            "dataset_dir": str(dataset_dir),
            "output_dir": "unused",
            "ckpt_dir": "unused",
            "device": torch.device("cpu"),
            "separate_forward": separate,
            "max_epochs": 1,
            "epoch_length": steps,
            "progress": False,
            "train#handlers": [],
        }
    )
    set_determinism(0)
    trainer = parser.get_parsed_content("train#trainer")
    curve: list[dict[str, float]] = []

    @trainer.on(Events.ITERATION_COMPLETED(every=every))
    def follow(engine: Any) -> None:
        groups = engine.split_batch(engine.state.batch)
        with torch.no_grad():
            outputs = engine.step_module.outputs(groups)
        probability = {}
        for kind, output in outputs.items():
            student = output if isinstance(output, torch.Tensor) else output[1]
            probability[kind] = float(torch.softmax(student, dim=1)[:, 1].mean())
        curve.append({"iteration": engine.state.iteration, **probability})

    trainer.run()
    evaluator = parser.get_parsed_content("validate#evaluator")
    evaluator.run()
    dice = {k: v for k, v in evaluator.state.metrics.items() if k.startswith("val_dice")}
    return {"separate_forward": separate, "curve": curve, "validation": dice}


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """Foreground probability of the two kinds over the iterations, one panel per run."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(runs), sharey=True)
    for axes, one in zip(panels, runs, strict=True):
        steps = [point["iteration"] for point in one["curve"]]
        for kind, color in (("full", "#0072B2"), ("partial", "#D55E00")):
            axes.plot(steps, [point[kind] for point in one["curve"]], color=color, label=kind)
        axes.set_title("a pass each" if one["separate_forward"] else "one shared pass")
        axes.set_xlabel("iteration")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("mean foreground probability\nof the student")
    panels[0].legend(title="slices", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder of the data")
    parser.add_argument("--steps", type=int, default=500, help="iterations of each run")
    parser.add_argument("--every", type=int, default=20, help="iterations between two readings")
    results = REPOSITORY / "benchmarks" / "results" / "batch_statistics.json"
    parser.add_argument("--output", type=Path, default=results, help="result file")
    arguments = parser.parse_args()
    runs = [
        run(arguments.dataset_dir, separate, arguments.steps, arguments.every)
        for separate in (False, True)
    ]
    content = {"steps": arguments.steps, "runs": runs, **environment()}
    arguments.output.write_text(json.dumps(content, indent=1) + "\n")
    draw(runs, REPOSITORY / "docs" / "figures" / "batch_statistics.png")
    for one in runs:
        print(one["separate_forward"], one["curve"][-1], one["validation"])


if __name__ == "__main__":
    main()
