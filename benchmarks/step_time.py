"""Time of a training step of the flagship in float32 and bfloat16, in both memory layouts.

    OMP_NUM_THREADS=1 python benchmarks/step_time.py

Each variant is the bundle's own trainer (network, objective, augmentation, optimizer, averaged
weights), on random images in place of data, without handlers. Steps of all variants take turns in
one process, so that other load on the machine meets all alike; a ratio is the median over the turns
of a variant's step over the reference's of the same turn. Times on the CPU are the processor's.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from training_cost import quartiles_over, random_batch, take_turns

from mixseg.configuration.loading import read_parser
from mixseg.files.atomic import strict_json, write_bytes_atomic
from mixseg.files.provenance import environment

ROOT = Path(__file__).resolve().parents[1]
BUNDLES = ("acdc_lv_mixed", "la_mixed")
#: Name → computes in bfloat16, lays channels last; the first one is the reference.
VARIANTS = {
    "float32": (False, False),
    "float32, channels last": (False, True),
    "bfloat16": (True, False),
    "bfloat16, channels last": (True, True),
}


def build(bundle: str, device: str, variant: str) -> Any:
    """A trainer of the bundle, an epoch of which is one step."""
    amp, channels_last = VARIANTS[variant]
    path = ROOT / "bundles" / bundle / "configs" / "train.yaml"
    parser = read_parser(
        [path], {"device": device, "amp": "auto" if amp else False, "max_epochs": 1}
    )
    parser["train#handlers"] = []
    parser["train#dataloader"] = [random_batch(parser)]
    parser["train#trainer"]["channels_last"] = channels_last
    torch.manual_seed(0)
    return parser.get_parsed_content("train#trainer")


def measure(bundle: str, device: str, turns: int) -> dict[str, Any]:
    """Median milliseconds a step, and ratios to the reference's, of each variant."""
    trainers = {variant: build(bundle, device, variant) for variant in VARIANTS}
    seconds = take_turns(trainers, turns, torch.device(device), processor=device == "cpu")
    found = {}
    for variant, values in seconds.items():
        low, middle, high = quartiles_over(values, seconds[next(iter(VARIANTS))])
        found[variant] = {
            "milliseconds": round(1e3 * statistics.median(values), 1),
            "over_reference": middle,
            "quartiles": [low, high],
        }
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--turns", type=int, default=9, help="steps of each variant, at least 2")
    parser.add_argument("--output", type=Path, help="default: step_time[_cuda].json in results/")
    arguments = parser.parse_args()
    name = "step_time" if arguments.device == "cpu" else f"step_time_{arguments.device}"
    output = arguments.output or ROOT / "benchmarks" / "results" / f"{name}.json"
    bundles = {one: measure(one, arguments.device, arguments.turns) for one in BUNDLES}
    content = {
        "benchmark": "time of a training step of the flagship",
        "setting": {"device": arguments.device, "turns": arguments.turns},
        "bundles": bundles,
        **environment(),
    }
    write_bytes_atomic(output, strict_json(content).encode())
    for bundle, variants in bundles.items():
        for variant, one in variants.items():
            print(f"{bundle}, {variant}: {one['milliseconds']} ms, {one['over_reference']}")
    print(f"wrote {output}")


if __name__ == "__main__":
    main()
