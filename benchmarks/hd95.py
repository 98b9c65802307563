"""Time of the pooled HD95 on a volume of left-atrium size, beside MedPy's where it is installed.

    OMP_NUM_THREADS=1 python benchmarks/hd95.py --output benchmarks/results/hd95.json

Two seeded blobs with rough borders overlap as an average segmentation does (Dice about 0.8). Both
implementations run in turn in one process, and their values must agree to 1e-9. MedPy is needed
only here (`pip install --no-deps medpy`); without it our own time alone is written, and why.
Both run on one thread, so the target is held against the processor time, which other programs on
the machine disturb less than the time on the clock; both are written.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from mixseg.files.atomic import strict_json, write_bytes_atomic
from mixseg.files.provenance import environment
from mixseg.metrics import dice_coefficient, hd95_pooled, surface_voxels

SHAPE = (180, 140, 88)
TARGET_SECONDS = 0.2
TOLERANCE = 1e-9

Measure = Callable[[NDArray[np.bool_], NDArray[np.bool_]], Any]


def rough_ellipsoid(
    center: tuple[float, ...], radii: tuple[float, ...], generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Ellipsoid whose radius varies smoothly by about 12 %, shape SHAPE."""
    grid = np.ogrid[tuple(slice(size) for size in SHAPE)]
    axes = zip(grid, center, radii, strict=True)
    radius = np.sqrt(sum(((x - middle) / length) ** 2 for x, middle, length in axes))
    noise = gaussian_filter(generator.standard_normal(SHAPE), 6)
    return np.asarray(radius < 1 + 0.12 * noise / noise.std())


def timed(
    measure: Measure, pair: tuple[NDArray[np.bool_], NDArray[np.bool_]]
) -> tuple[tuple[float, float], Any]:
    """(seconds on the clock, seconds of processor time) and the value."""
    start = time.perf_counter(), time.process_time()
    value = measure(*pair)
    return (time.perf_counter() - start[0], time.process_time() - start[1]), value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--output", type=Path, help="result file (JSON); printed in any case")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error("--repeats must be at least 1")

    generator = np.random.default_rng(arguments.seed)
    reference = rough_ellipsoid((92, 70, 44), (48, 36, 26), generator)
    prediction = rough_ellipsoid((95, 68, 46), (50, 34, 24), generator)
    pair = (prediction, reference)

    measures: dict[str, Measure] = {"mixseg": hd95_pooled}
    skipped = None
    try:
        from medpy.metric.binary import hd95
    except ImportError as error:
        skipped = f"medpy is not installed: {error}"
    else:
        measures["medpy"] = hd95

    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in measures}
    values: dict[str, float] = {}
    for _ in range(arguments.repeats):
        for name, measure in measures.items():
            elapsed, value = timed(measure, pair)
            seconds[name].append(elapsed)
            values[name] = float(value)
    if "medpy" in values and abs(values["mixseg"] - values["medpy"]) > TOLERANCE:
        raise SystemExit(f"the values differ: {values}")

    clock = {name: statistics.median(wall for wall, _ in times) for name, times in seconds.items()}
    cpu = {name: statistics.median(used for _, used in times) for name, times in seconds.items()}
    result = {
        "benchmark": "pooled HD95",
        "configuration": {"shape": SHAPE, "seed": arguments.seed, "repeats": arguments.repeats},
        "case": {
            "dice": dice_coefficient(*pair),
            "object_voxels": [int(mask.sum()) for mask in pair],
            "surface_voxels": [int(surface_voxels(mask).sum()) for mask in pair],
        },
        "hd95_voxels": values,
        "median_wall_seconds": clock,
        "median_cpu_seconds": cpu,
        "wall_and_cpu_seconds": seconds,
        "medpy_over_mixseg": cpu["medpy"] / cpu["mixseg"] if "medpy" in cpu else None,
        "medpy_skipped": skipped,
        "target_cpu_seconds": TARGET_SECONDS,
        "target_met": cpu["mixseg"] <= TARGET_SECONDS,
        **environment(),
    }
    text = strict_json(result)
    print(text, end="")
    if arguments.output:
        write_bytes_atomic(arguments.output, text.encode("utf-8"))


if __name__ == "__main__":
    main()
