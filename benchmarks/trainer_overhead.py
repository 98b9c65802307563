r"""Time per iteration of MixedSupervisionTrainer.run over a bare forward-backward-step loop.

    OMP_NUM_THREADS=1 python benchmarks/trainer_overhead.py
    OMP_NUM_THREADS=1 python benchmarks/trainer_overhead.py --size 48 48 32 \
      --features 4 8 16 32 64 --batch 2 4

Both use the same tensors, network, ForwardStep and optimizer; the trainer has the handlers of the
bundle that act on iterations (WeightRamps, ProgressBar drawn to the null device, History with its
file). Blocks of both alternate in one process, so that other load on the machine meets both alike;
the ratio is the median over pairs of neighboring blocks. The network is the U-Net for slices, the
V-Net for volumes. On the CPU the command fails above 1.10, and says what an iteration is spent on.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events

from mixseg.engines import MixedSupervisionTrainer
from mixseg.files.atomic import strict_json, write_bytes_atomic
from mixseg.files.provenance import environment
from mixseg.handlers import History, ProgressBar, WeightRamps
from mixseg.networks import DualBranchUNet, DualBranchVNet
from mixseg.objectives import ConfKD

ROOT = Path(__file__).resolve().parents[1]
REQUIRED_RATIO = 1.10
BATCHES = 4


def make_batches(size: list[int], counts: list[int]) -> list[dict[str, Any]]:
    """Random mixed batches as the data loader collates them, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    full, partial = counts
    shape = (full + partial, 1, *size)
    batches = []
    for _ in range(BATCHES):
        image = torch.rand(shape, generator=generator)
        label = (image > 0.9).to(torch.uint8)
        label[full:][torch.rand(label[full:].shape, generator=generator) > 0.1] = 2
        batches.append(
            {
                "image": image,
                "label": label,
                "weak_label": label.clone(),
                "slice_index": torch.arange(full + partial),
                "supervision": ["full"] * full + ["partial"] * partial,
                "case_id": [f"case{i}" for i in range(full + partial)],
            }
        )
    return batches


def bare_groups(
    batch: dict[str, Any], full: int, device: torch.device
) -> dict[str, dict[str, torch.Tensor]]:
    """A batch by kind, on the device and in the network's layout, before anything is timed."""
    groups = {}
    layout = torch.channels_last if batch["image"].ndim == 4 else torch.channels_last_3d
    for kind, part in (("full", slice(0, full)), ("partial", slice(full, None))):
        image = batch["image"][part].to(device)
        groups[kind] = {
            "image": image.contiguous(memory_format=layout),
            "label": batch["label"][part].to(device),
        }
    return groups


def timed(work: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """Wall-clock and process time of a block in seconds; waits for the device at both ends."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    wall, used = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - wall, time.process_time() - used


def shares(
    step: torch.nn.Module,
    objective: ConfKD,
    optimizer: torch.optim.Optimizer,
    groups: list[dict[str, dict[str, torch.Tensor]]],
    iterations: int,
) -> dict[str, float]:
    """Parts of a bare iteration's time: the network, the loss terms, backward, the optimizer."""
    spent = dict.fromkeys(("network", "loss terms", "backward", "optimizer"), 0.0)
    for i in range(iterations):
        group = groups[i % BATCHES]
        marks = [time.perf_counter()]
        outputs = step.outputs(group)  # type: ignore[operator]
        marks.append(time.perf_counter())
        terms = objective(outputs, group)
        loss = torch.stack([objective.weights[n] * term for n, term in terms.items()]).sum()
        marks.append(time.perf_counter())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        marks.append(time.perf_counter())
        optimizer.step()
        marks.append(time.perf_counter())
        for name, start, end in zip(spent, marks, marks[1:], strict=False):
            spent[name] += end - start
    total = sum(spent.values())
    return {name: round(seconds / total, 3) for name, seconds in spent.items()}


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Alternate blocks of the trainer and of the bare loop; seconds an iteration of both."""
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    full, iterations = arguments.batch[0], arguments.iterations
    batches = make_batches(arguments.size, arguments.batch)
    groups = [bare_groups(batch, full, device) for batch in batches]
    network_class = DualBranchUNet if len(arguments.size) == 2 else DualBranchVNet
    network = network_class(features=arguments.features, dropout=0.5).to(device)
    objective = ConfKD(lambda_w=0.001, lambda_kd=50.0, lambda_ent=1.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    amp = device.type == "cuda"
    history = History(folder, tensorboard=False)
    trainer = MixedSupervisionTrainer(
        device,
        1,
        [batches[i % BATCHES] for i in range(iterations)],
        network,
        optimizer,
        objective,
        amp=amp,
        train_handlers=[
            WeightRamps(objective, {"lambda_ent": 10}),
            ProgressBar(),
            history,
        ],
    )
    # A run draws its last pictures when it ends; a block here is a part of a run.
    trainer.remove_event_handler(history._close, Events.COMPLETED)
    step = trainer.step_module

    def bare_loop() -> None:
        step.train()
        for i in range(iterations):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                terms = step(groups[i % BATCHES])
            weights = objective.weights
            torch.stack([weights[name] * term for name, term in terms.items()]).sum().backward()
            optimizer.step()

    def trainer_epoch() -> None:
        trainer.state.max_epochs = trainer.state.epoch + 1
        trainer.run()

    seconds: dict[str, list[tuple[float, float]]] = {"bare": [], "trainer": []}
    with Path(os.devnull).open("w") as null, contextlib.redirect_stderr(null):
        for repeat in range(arguments.repeats + 1):
            # Which one goes first alternates, too.
            order = [("bare", bare_loop), ("trainer", trainer_epoch)][:: 1 if repeat % 2 else -1]
            for name, work in order:
                found = timed(work, device)
                if repeat:  # the first pair warms up
                    seconds[name].append((found[0] / iterations, found[1] / iterations))
    pairs = list(zip(seconds["trainer"], seconds["bare"], strict=True))
    ratios = sorted(t[0] / b[0] for t, b in pairs)
    result = {
        "ratio": round(statistics.median(ratios), 4),
        "ratio_quartiles": [round(q, 4) for q in statistics.quantiles(ratios, n=4)],
        "milliseconds": {
            name: round(1e3 * statistics.median(wall for wall, _ in times), 3)
            for name, times in seconds.items()
        },
    }
    if device.type == "cpu":
        # Other processes do not enter the time that this one spent.
        used = [t[1] / b[1] for t, b in pairs]
        result["ratio_of_process_time"] = round(statistics.median(used), 4)
        result["share_of_iteration"] = shares(step, objective, optimizer, groups, iterations)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu, or cuda (bfloat16)")
    parser.add_argument(
        "--size", type=int, nargs="+", default=[64, 64], help="sides of a slice or a volume"
    )
    parser.add_argument("--features", type=int, nargs="+", default=[8, 16, 32, 64, 128])
    parser.add_argument("--batch", type=int, nargs=2, default=[8, 16], metavar=("FULL", "PARTIAL"))
    parser.add_argument("--iterations", type=int, default=10, help="of a block")
    parser.add_argument("--repeats", type=int, default=8, help="pairs of blocks, at least 2")
    parser.add_argument(
        "--output",
        type=Path,
        help="result file (default: benchmarks/results/trainer_overhead[_3d][_cuda].json)",
    )
    arguments = parser.parse_args()
    device = torch.device(arguments.device).type
    if len(arguments.size) not in (2, 3):
        parser.error("--size takes two or three sides")
    name = "trainer_overhead" + ("_3d" if len(arguments.size) == 3 else "")
    name += "" if device == "cpu" else f"_{device}"
    output = arguments.output or ROOT / "benchmarks" / "results" / f"{name}.json"
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments, Path(folder))
    result = {
        "benchmark": "MixedSupervisionTrainer.run over a bare loop, time per iteration",
        **found,
        "setting": {
            key: getattr(arguments, key)
            for key in ("device", "size", "features", "batch", "iterations", "repeats")
        },
        **environment(),
    }
    write_bytes_atomic(output, strict_json(result).encode())
    times = found["milliseconds"]
    print(
        f"trainer {times['trainer']} ms, bare loop {times['bare']} ms an iteration: "
        f"ratio {found['ratio']} (quartiles {found['ratio_quartiles']}); wrote {output}"
    )
    if device == "cpu" and found["ratio"] > REQUIRED_RATIO:
        sys.exit(f"the ratio {found['ratio']} is above {REQUIRED_RATIO}")


if __name__ == "__main__":
    main()
