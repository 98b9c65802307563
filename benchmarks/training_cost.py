r"""Parameters and time of a training step of methods, over those of plain supervised training.

    OMP_NUM_THREADS=1 python benchmarks/training_cost.py
    OMP_NUM_THREADS=1 python benchmarks/training_cost.py --features 8 16 32 64 128

Each method is its bundle's own trainer (network, objective, optimizer, averages), on random
pictures in place of data, without handlers, so that every weight is full. Blocks of steps of all
methods take turns in one process, so that other load on the machine meets all alike; a ratio is the
median over the rounds of the method's block over the reference's of the same round. The reference
sees as many pictures with masks as the methods see in all; ``fewer`` sees only the pictures with
masks that they see. Parameters: of the networks that training keeps, averages included, with the
heads that the objective adds; and of the one that predicts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from trainer_overhead import timed

from mixseg.configuration.loading import read_parser
from mixseg.files.atomic import strict_json, write_bytes_atomic
from mixseg.files.provenance import environment

ROOT = Path(__file__).resolve().parents[1]
#: Name → bundle and settings; the first one is the reference.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "supervised": ("wbc_single", {"batch_full": 8}),
    "fewer": ("wbc_single", {"batch_full": 4}),
    "entmin": ("wbc_entropy_minimization", {"batch_full": 4, "batch_unlabeled": 4}),
    "uamt": ("wbc_uamt", {"batch_full": 4, "batch_unlabeled": 4}),
    "adversarial": ("wbc_adversarial", {"batch_full": 4, "batch_unlabeled": 4}),
    "multitask": ("wbc_multitask", {"batch_full": 4, "batch_unlabeled": 4}),
    "s4gan": ("wbc_s4gan", {"batch_full": 4, "batch_unlabeled": 4}),
}
#: Setting → kind of supervision.
KINDS = {"batch_full": "full", "batch_partial": "partial", "batch_unlabeled": "none"}


def random_batch(parser: Any) -> dict[str, Any]:
    """A mixed batch of the bundle's sizes as its loader collates it; noise and random classes."""
    counts = {
        kind: int(parser.get_parsed_content(key)) for key, kind in KINDS.items() if key in parser
    }
    number = sum(counts.values())
    size = parser.get_parsed_content("spatial_size" if "spatial_size" in parser else "crop_size")
    classes = parser.get_parsed_content("num_classes")
    generator = torch.Generator().manual_seed(0)
    channels = parser.get_parsed_content("in_channels")
    label = torch.randint(0, classes, (number, 1, *size), generator=generator, dtype=torch.uint8)
    seen = torch.rand(label.shape, generator=generator) < 0.1
    seen[number - counts.get("none", 0) :] = False
    seen[: counts["full"]] = True
    label[~seen] = classes  # unlabeled
    return {
        "image": torch.randn((number, channels, *size), generator=generator),
        "label": label,
        "weak_label": label.clone(),
        "index": torch.arange(number),
        "slice_index": torch.zeros(number, dtype=torch.int64),
        "supervision": [kind for kind, count in counts.items() for _ in range(count)],
        "case_id": [f"case{i}" for i in range(number)],
    }


def build(name: str, settings: Mapping[str, Any], iterations: int) -> tuple[Any, dict[str, int]]:
    """A method's trainer, an epoch of which is a block; and its parameters."""
    bundle, own = METHODS[name]
    path = ROOT / "bundles" / bundle / "configs" / "train.yaml"
    parser = read_parser([path], {**settings, **own, "max_epochs": 1})
    parser["train#handlers"] = []
    parser["train#dataloader"] = [random_batch(parser)] * iterations
    torch.manual_seed(0)
    trainer = parser.get_parsed_content("train#trainer")
    kept = sum(p.numel() for p in trainer.networks.parameters())
    heads = sum(p.numel() for p in trainer.objective.parameters())
    predicting = sum(p.numel() for p in trainer.network.parameters())
    return trainer, {"training": kept + heads, "predicting": predicting}


def measure(settings: Mapping[str, Any], iterations: int, rounds: int) -> dict[str, Any]:
    """Parameters, and median milliseconds a step with the ratios to the reference's.

    Args:
        settings: of all bundles.
        iterations: steps of a block.
        rounds: blocks of each method, after one that warms up; at least 2.
    """
    device = torch.device(settings["device"])
    trainers, found = {}, {}
    for name in METHODS:
        trainers[name], found[name] = build(name, settings, iterations)
    seconds = take_turns(trainers, rounds, device)
    reference = next(iter(METHODS))
    methods = {}
    for name, (bundle, own) in METHODS.items():
        low, middle, high = quartiles_over(seconds[name], seconds[reference])
        methods[name] = {
            "bundle": bundle,
            "settings": own,
            "parameters": found[name],
            "parameters_over_reference": round(
                found[name]["training"] / found[reference]["training"], 4
            ),
            "milliseconds": round(1e3 * statistics.median(seconds[name]) / iterations, 2),
            "time_over_reference": middle,
            "quartiles": [low, high],
        }
    return {"reference": reference, "methods": methods}


def take_turns(
    trainers: Mapping[str, Any], rounds: int, device: torch.device, *, processor: bool = False
) -> dict[str, list[float]]:
    """Seconds of an epoch of each trainer, round by round, after one that warms up.

    Args:
        trainers: take turns in their order and, every other round, in the opposite one.
        rounds: that count.
        device: is waited for at both ends of an epoch.
        processor: measure the processor's time, not the clock's.
    """
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    with Path(os.devnull).open("w") as null, contextlib.redirect_stderr(null):
        for turn in range(rounds + 1):
            names = list(trainers)
            for name in names if turn % 2 else reversed(names):
                wall, used = timed(_epoch(trainers[name]), device)
                if turn:
                    seconds[name].append(used if processor else wall)
    return seconds


def quartiles_over(values: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Quartiles of the ratios of values to the reference's of the same round."""
    ratios = [one / other for one, other in zip(values, reference, strict=True)]
    return [round(quartile, 3) for quartile in statistics.quantiles(ratios, n=4)]


def _epoch(trainer: Any) -> Callable[[], None]:
    def run() -> None:
        trainer.state.max_epochs = trainer.state.epoch + 1
        trainer.run()

    return run


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu, or cuda (bfloat16)")
    parser.add_argument("--size", type=int, nargs=2, default=[128, 128], help="of a picture")
    parser.add_argument("--features", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--iterations", type=int, default=1, help="steps of a block")
    parser.add_argument("--rounds", type=int, default=5, help="blocks of each method, at least 2")
    parser.add_argument(
        "--output",
        type=Path,
        help="result file (default: benchmarks/results/training_cost[_cuda].json), in which "
        "measurements of other sizes are kept",
    )
    arguments = parser.parse_args()
    device = torch.device(arguments.device).type
    name = "training_cost" if device == "cpu" else f"training_cost_{device}"
    output = arguments.output or ROOT / "benchmarks" / "results" / f"{name}.json"
    settings = {
        "device": arguments.device,
        "slice_size": arguments.size,
        "features": arguments.features,
    }
    found = measure(settings, arguments.iterations, arguments.rounds)
    setting = {
        key: getattr(arguments, key)
        for key in ("device", "size", "features", "iterations", "rounds")
    }
    runs = [{"setting": setting, **found, **environment()}]
    if output.is_file():
        kept = json.loads(output.read_text(encoding="utf-8"))["runs"]
        same = ("device", "size", "features")
        runs += [r for r in kept if any(r["setting"][k] != setting[k] for k in same)]
    runs.sort(key=lambda run: sum(run["setting"]["features"]))
    content = {"benchmark": "cost of a training step over supervised training", "runs": runs}
    write_bytes_atomic(output, strict_json(content).encode())
    for method, one in found["methods"].items():
        print(
            f"{method}: {one['parameters']['training']:,} parameters, "
            f"{one['milliseconds']} ms a step, {one['time_over_reference']} times "
            f"{found['reference']} (quartiles {one['quartiles']})"
        )
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
