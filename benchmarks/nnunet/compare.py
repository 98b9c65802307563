"""nnU-Net beside the flagship, on the same cases, labels and cores: prepare, train, score.

    python benchmarks/nnunet/compare.py prepare --dataset_dir ACDC
    python benchmarks/nnunet/compare.py train flagship --dataset_dir ACDC
    python benchmarks/nnunet/compare.py train nnunet --minutes 120 --dataset_dir ACDC
    python benchmarks/nnunet/compare.py score flagship nnunet_120 --dataset_dir ACDC

README.md beside this file says how to make the environment, what is measured, and how. Writes
benchmarks/results/nnunet/NAME.json, which that README shows (benchmarks/tables.py).
"""

from __future__ import annotations

import argparse
import os
import resource
from pathlib import Path

import flagship
import nnunet
import torch
from measuring import ROOT, SPLITS, read_json

from mixseg.files.atomic import strict_json, write_bytes_atomic
from mixseg.files.provenance import environment

RESULTS = ROOT / "benchmarks" / "results" / "nnunet"
SIDES = {"flagship": flagship, "nnunet": nnunet}


def train(arguments: argparse.Namespace) -> None:
    """Train one side, alone in this process, and leave training.json in its folder."""
    name = (
        arguments.name
        or {
            "flagship": "flagship",
            "nnunet": f"nnunet_{arguments.minutes:g}",
        }[arguments.side]
    )
    folder = arguments.work.resolve() / name
    load = os.getloadavg()[0]
    found = SIDES[arguments.side].train(arguments, folder)
    own, of_worker = (
        resource.getrusage(who).ru_maxrss / 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    record = {
        "side": arguments.side,
        "cores": arguments.cores,
        "seed": arguments.seed,
        **found,
        "peak_memory_mb": round(own + found.get("workers", 0) * of_worker),
        "load_before": load,
        **environment(),
    }
    record["versions"] |= record.pop("packages", {})
    if torch.cuda.is_available():
        record["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
    write_bytes_atomic(folder / "training.json", strict_json(record).encode())
    print(f"{record['iterations']} iterations in {record['seconds']:.0f} s; next: score {name}")


def score(arguments: argparse.Namespace) -> None:
    """Score finished trainings and write their result files."""
    for name in arguments.names:
        folder = arguments.work.resolve() / name
        record = read_json(folder / "training.json")
        found = SIDES[record["side"]].score(arguments, folder, record)
        del record["snapshots"]
        content = {"benchmark": "nnU-Net beside the flagship, ACDC LV Set-3", **record, **found}
        write_bytes_atomic(RESULTS / f"{name}.json", strict_json(content).encode())
        for split in SPLITS:
            for branch, classes in found["scores"][split].items():
                means = {key: round(of["dice"]["mean"], 4) for key, of in classes.items()}
                print(f"{name}, {split}, {branch}: Dice {means}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--dataset_dir", type=Path, required=True, help="folder of ACDC")
    common.add_argument("--work", type=Path, default=ROOT / "runs" / "nnunet", help="for the runs")
    common.add_argument("--cores", type=int, default=1, help="that the process may use")
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("prepare", parents=[common], help=nnunet.prepare.__doc__)
    one.add_argument("--memory", type=float, help="of a GPU, in GB, that nnU-Net plans for")
    one.set_defaults(run=nnunet.prepare)
    one = commands.add_parser("train", parents=[common], help=train.__doc__)
    one.add_argument("side", choices=list(SIDES))
    one.add_argument("--minutes", type=float, default=120, help="budget of nnU-Net")
    one.add_argument("--snapshots", type=int, default=12, help="of nnU-Net, to be scored")
    one.add_argument("--settings", nargs="*", default=[], help="of the flagship: NAME=VALUE")
    one.add_argument("--seed", type=int, default=0)
    one.add_argument("--name", help="of the run")
    one.set_defaults(run=train)
    one = commands.add_parser("score", parents=[common], help=score.__doc__)
    one.add_argument("names", nargs="+", help="of trained runs")
    one.set_defaults(run=score)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    torch.set_num_threads(arguments.cores)
    arguments.run(arguments)


if __name__ == "__main__":
    main()
