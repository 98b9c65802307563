"""Sliding windows of UA-MT against VolumeInferer: time, peak memory and Dice on real scans.

    OMP_NUM_THREADS=1 python benchmarks/inference_la.py --dataset_dir LA --checkpoint model.pt

Network, preprocessing and the default are those of a bundle's inference.yaml, whose settings can be
added (`--features "[4,8,16,32]"`). Each variant has a process of its own, which runs nothing else
and so has its own peak memory; every scan goes through all of them before the next one, so that
other load on the machine meets all alike. Times are of the passes alone, in the network's grid;
Dice is taken in the scan's own grid. `--scale 0.5` halves resolution, windows and strides, for
weights that were trained so. On the CPU the command fails when the default is less than 5 times as
fast as the reference or loses more than 0.2 Dice points.

Reference (UA-MT, `test_util.py`): windows of 112×112×80, one at a time, stride 18×18×4, the
softmax outputs averaged with equal weights, the last window of an axis flush with the end. On a
CPU, PyTorch takes two small images at once much faster than one after the other. A second row has
the reference's windows in pairs, as VolumeInferer has its own: it tells what pairs save and what
fewer windows do. `megavoxels` is what the network was given for one scan.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import math
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Invertd, LoadImage
from torch import Tensor, nn

from mixseg.configuration.settings import read_settings
from mixseg.data import find_datalist, split_cases
from mixseg.engines import VolumeInferer
from mixseg.files.atomic import strict_json, write_bytes_atomic
from mixseg.files.provenance import environment
from mixseg.metrics import dice_coefficient

ROOT = Path(__file__).resolve().parents[1]
WINDOW, STRIDE = (112, 112, 80), (18, 18, 4)
REQUIRED_RATIO, ALLOWED_LOSS = 5.0, 0.2
REFERENCE, PAIRS = "UA-MT reference", "UA-MT reference, windows in pairs"
DEFAULT = "default"
OPTIONS: dict[str, dict[str, Any]] = {
    **{
        f"Gaussian windows, overlap {overlap}": {"stretch": 1, "overlap": overlap}
        for overlap in (0.0, 0.25, 0.5, 0.75)
    },
    **{
        f"equal weights, overlap {overlap}": {"stretch": 1, "overlap": overlap, "mode": "constant"}
        for overlap in (0.5, 0.75, 0.8)
    },
    **{
        f"stretched windows, overlap {overlap}": {"stretch": 1.5, "overlap": overlap}
        for overlap in (0.5, 0.75)
    },
    "stretched windows, mirrored": {"stretch": 1.5, "overlap": 0.5, "mirror_axes": [0]},
    "whole volume": {"whole_volume": True},
    "whole volume, mirrored": {"whole_volume": True, "mirror_axes": [0]},
}


def uamt_probabilities(
    image: Tensor,
    network: Callable[[Tensor], Tensor],
    window: Sequence[int],
    stride: Sequence[int],
    at_once: int = 1,
) -> Tensor:
    """The reference procedure: image (1, channels, H, W, D) → probabilities (1, C, H, W, D)."""
    sides = image.shape[2:]
    gaps = [max(w - side, 0) for w, side in zip(window, sides, strict=True)]
    image = F.pad(image, [n for g in reversed(gaps) for n in (g // 2, g - g // 2)])
    corners = []
    for side, w, step in zip(image.shape[2:], window, stride, strict=True):
        count = math.ceil((side - w) / step) + 1
        corners.append([min(step * i, side - w) for i in range(count)])
    total: Tensor | float = 0.0
    count = torch.zeros(image.shape[2:], device=image.device)
    places = [
        (..., *(slice(c, c + w) for c, w in zip(corner, window, strict=True)))
        for corner in itertools.product(*corners)
    ]
    for first in range(0, len(places), at_once):
        group = places[first : first + at_once]
        logits = network(torch.cat([image[place] for place in group]))
        for place, probabilities in zip(group, torch.softmax(logits.float(), dim=1), strict=True):
            if isinstance(total, float):
                total = image.new_zeros((1, len(probabilities), *image.shape[2:]))
            total[place] += probabilities
            count[place] += 1
    inside = (..., *(slice(g // 2, g // 2 + s) for g, s in zip(gaps, sides, strict=True)))
    return (total / count)[inside]


def read_config(arguments: argparse.Namespace) -> ConfigParser:
    """The bundle's configuration at the scale that is asked for, with the user's settings."""
    parser = ConfigParser()
    parser.read_config(arguments.config)
    settings = read_settings(arguments.settings, parser.get())
    parser.update({"device": "cpu", **settings})
    spacing = parser.get_parsed_content("spacing")
    parser.update({"spacing": [side / arguments.scale for side in spacing]})
    if "crop_size" not in settings:
        divisor = parser.get_parsed_content("network_def").size_divisor
        parser.update({"crop_size": list(scaled(WINDOW, arguments.scale, divisor))})
    return parser


def load_network(arguments: argparse.Namespace) -> nn.Module:
    network: nn.Module = read_config(arguments).get_parsed_content("network_def")
    content = torch.load(arguments.checkpoint, map_location="cpu", weights_only=True)
    network.load_state_dict(content.get("model", content))
    return network.eval().to(arguments.device)


def scaled(sizes: Sequence[int], scale: float, divisor: int = 1) -> tuple[int, ...]:
    """Sizes at a scale, at least 1, up to the next multiple of what the network takes."""
    return tuple(math.ceil(max(1, round(n * scale)) / divisor) * divisor for n in sizes)


def reset_peak_memory() -> None:
    """Forget the peak so far, where the system (Linux) can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Largest resident memory of this process since the last reset, in bytes."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        # Unlike ru_maxrss, it leaves out what the parent held when it started this process.
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def serve(connection: Connection, arguments: argparse.Namespace, variant: str) -> None:
    """A variant's process: answers each image with its probabilities and what they took."""
    device = torch.device(arguments.device)
    network = load_network(arguments)
    divisor: int = network.size_divisor  # type: ignore[assignment]
    window = scaled(WINDOW, arguments.scale, divisor)
    passes = voxels = 0

    def counted(image: Tensor) -> Tensor:
        nonlocal passes, voxels
        passes += len(image)
        voxels += len(image) * math.prod(image.shape[2:])
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits: Tensor = network(image)
        return logits

    if variant in (REFERENCE, PAIRS):
        stride = scaled(STRIDE, arguments.scale)
        at_once = 2 if variant == PAIRS else 1

        def infer(image: Tensor) -> Tensor:
            return uamt_probabilities(image, counted, window, stride, at_once)
    else:
        if variant == DEFAULT:
            inferer = read_config(arguments).get_parsed_content("inferer")
        else:
            inferer = VolumeInferer(window, size_divisor=divisor, **OPTIONS[variant])

        def infer(image: Tensor) -> Tensor:
            return torch.softmax(inferer(image, counted), dim=1)

    with torch.no_grad():
        # The first pass prepares kernels for a size; the smallest one keeps the peak untouched.
        counted(torch.zeros(1, arguments.channels, *[2 * divisor] * 3, device=device))
        reset_peak_memory()
        idle = peak_memory()
        connection.send({"window": window})
        while (array := connection.recv()) is not None:
            image = torch.from_numpy(array).to(device)
            passes = voxels = 0
            reset_peak_memory()
            synchronize(device)
            wall, used = time.perf_counter(), time.process_time()
            probabilities = infer(image)
            synchronize(device)
            wall, used = time.perf_counter() - wall, time.process_time() - used
            memory = peak_memory() - idle
            if device.type == "cuda":
                memory = torch.cuda.max_memory_allocated(device)
            connection.send(
                {
                    "probabilities": probabilities.cpu().numpy(),
                    "seconds": wall,
                    "process_seconds": used,
                    "passes": passes,
                    "voxels": voxels,
                    "peak_memory": memory,
                }
            )


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Variant:
    """One way to infer, in its process, and what it has measured."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, arguments, name), daemon=True)
        self.process.start()
        theirs.close()
        self.found: list[dict[str, Any]] = []

    def receive(self) -> dict[str, Any]:
        """The process's next answer."""
        try:
            answer: dict[str, Any] = self.connection.recv()
        except EOFError:
            sys.exit(f"the process of '{self.name}' ended; its error stands above")
        return answer

    def infer(self, image: np.ndarray) -> np.ndarray:
        """Probabilities (1, C, H, W, D) of an image (1, channels, H, W, D)."""
        self.connection.send(image)
        answer = self.receive()
        probabilities: np.ndarray = answer.pop("probabilities")
        self.found.append(answer)
        return probabilities

    def close(self) -> None:
        """End the process."""
        self.connection.send(None)
        self.process.join()

    def summary(self) -> dict[str, Any]:
        """Means per scan; the memory is the largest of all scans."""

        def mean(key: str) -> float:
            return statistics.fmean(row[key] for row in self.found)

        return {
            "seconds": round(mean("seconds"), 3),
            "process_seconds": round(mean("process_seconds"), 3),
            "passes": round(mean("passes"), 1),
            "megavoxels": round(mean("voxels") / 1e6, 3),
            "peak_memory_mb": round(max(row["peak_memory"] for row in self.found) / 1e6),
            "dice": round(mean("dice"), 3),
        }


def dice_in_native_grid(
    probabilities: np.ndarray, item: dict[str, Any], invert: Invertd, classes: int
) -> float:
    """Mean Dice of the foreground classes in percent, probabilities brought back to the scan."""
    pred = MetaTensor(torch.from_numpy(probabilities[0])).copy_meta_from(item["image"])
    native = invert({"image": item["image"], "pred": pred})["pred"].argmax(dim=0).numpy()
    label = np.asarray(LoadImage(image_only=True)(item["label"]))
    return 100 * statistics.fmean(
        dice_coefficient(native == c, label == c) for c in range(1, classes)
    )


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    parser = read_config(arguments)
    preprocessing = parser.get_parsed_content("preprocessing")
    classes = parser.get_parsed_content("num_classes")
    arguments.channels = parser.get_parsed_content("network_def").in_channels
    invert = Invertd("pred", preprocessing, orig_keys="image", nearest_interp=False)
    cases = split_cases(
        find_datalist(arguments.dataset_dir), arguments.dataset_dir, arguments.split
    )[: arguments.cases]
    variants = [Variant(name, arguments) for name in (REFERENCE, PAIRS, *OPTIONS, DEFAULT)]
    windows = [variant.receive()["window"] for variant in variants]  # once all are ready
    voxels = []
    for i, case in enumerate(cases):
        item = preprocessing({"image": case["image"]}) | {"label": case["label"]}
        image = item["image"].numpy()[None].astype(np.float32)
        voxels.append(math.prod(image.shape[2:]))
        # Which variant goes first alternates.
        for variant in variants[:: 1 if i % 2 else -1]:
            probabilities = variant.infer(image)
            dice = dice_in_native_grid(probabilities, item, invert, classes)
            variant.found[-1]["dice"] = dice
        seconds = {v.name: round(v.found[-1]["seconds"], 2) for v in variants}
        print(f"{i + 1} of {len(cases)} {case['case_id']}: {seconds}", flush=True)
    for variant in variants:
        variant.close()
    rows = {variant.name: variant.summary() for variant in variants}
    reference = rows[REFERENCE]
    for row in rows.values():
        row["times_as_fast"] = round(reference["seconds"] / row["seconds"], 2)
        # Other processes do not enter the time that these ones spent.
        row["times_as_fast_by_process_time"] = round(
            reference["process_seconds"] / row["process_seconds"], 2
        )
        row["dice_difference"] = round(row["dice"] - reference["dice"], 3)
    return {
        "variants": rows,
        "setting": {
            "config": arguments.config.name,
            "settings": arguments.settings,
            "checkpoint_sha256": hashlib.sha256(arguments.checkpoint.read_bytes()).hexdigest(),
            "split": arguments.split,
            "cases": [case["case_id"] for case in cases],
            "mean_voxels": round(statistics.fmean(voxels)),
            "scale": arguments.scale,
            "window": windows[0],
            "stride": scaled(STRIDE, arguments.scale),
            "device": arguments.device,
        },
    }


def shortfalls(result: dict[str, Any]) -> list[str]:
    """Requirements that the default misses."""
    row = result["variants"][DEFAULT]
    missed = []
    if result["setting"]["device"] == "cpu" and row["times_as_fast"] < REQUIRED_RATIO:
        missed.append(f"{row['times_as_fast']} times as fast, less than {REQUIRED_RATIO:g}")
    if row["dice_difference"] < -ALLOWED_LOSS:
        missed.append(f"{-row['dice_difference']} Dice points lost, more than {ALLOWED_LOSS:g}")
    return missed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset_dir", type=Path, required=True, help="prepared LA folder")
    parser.add_argument("--checkpoint", type=Path, required=True, help="weights, e.g. model.pt")
    parser.add_argument(
        "--config",
        type=Path,
        default=ROOT / "bundles" / "la_confkd" / "configs" / "inference.yaml",
        help="bundle configuration (default: that of la_confkd)",
    )
    parser.add_argument("--split", default="validation", choices=("validation", "test"))
    parser.add_argument("--cases", type=int, help="take the first so many scans of the split")
    parser.add_argument("--scale", type=float, default=1.0, help="resolution, windows, strides")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda (bfloat16)")
    parser.add_argument(
        "--output",
        type=Path,
        help="result file (default: benchmarks/results/inference_la[_cuda].json)",
    )
    arguments, arguments.settings = parser.parse_known_args()
    device = torch.device(arguments.device).type
    name = "inference_la.json" if device == "cpu" else f"inference_la_{device}.json"
    output = arguments.output or ROOT / "benchmarks" / "results" / name
    result = {
        "benchmark": "VolumeInferer against the sliding windows of UA-MT, means per scan",
        **measure(arguments),
        **environment(),
    }
    write_bytes_atomic(output, strict_json(result).encode())
    print(f"wrote {output}")
    if missed := shortfalls(result):
        sys.exit(f"the default is {'; '.join(missed)}")


if __name__ == "__main__":
    main()
