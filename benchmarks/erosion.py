"""Time and check scribbles by erosion against the plain SciPy loop, on every slice of ACDC.

    python benchmarks/erosion.py --data <ACDC folder with label/*.nii.gz>

Every volume's scribbles are compared bit for bit with the loop's, for both rules and the three
foreground classes; the command fails at the first difference, and if the Kervadec rule is not at
least five times as fast as its loop. Writes benchmarks/results/erosion.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import monai
import nibabel as nib
import numpy as np
import scipy
from scipy.ndimage import binary_erosion

from mixseg.transforms import scribble_by_erosion

NUM_CLASSES = 4
LEFT_VENTRICLE = 3
REQUIRED_RATIO = 5.0
ROOT = Path(__file__).resolve().parents[1]

Rule = Callable[[np.ndarray], np.ndarray]


def kervadec_loop(mask: np.ndarray) -> np.ndarray:
    """Ten iterations of the 3×3 element, then nine, …: the first result that is not empty."""
    for iterations in range(10, 0, -1):
        core = binary_erosion(mask, np.ones((3, 3), dtype=bool), iterations=iterations)
        if core.any():
            return core
    return mask


def literal10_loop(mask: np.ndarray) -> np.ndarray:
    """Erosions with the 10×10 element until the next one would leave nothing."""
    while True:
        core = binary_erosion(mask, np.ones((10, 10), dtype=bool))
        if not core.any():
            return mask
        mask = core


LOOPS: dict[str, Rule] = {"kervadec": kervadec_loop, "literal10": literal10_loop}


def scribble_loop(label: np.ndarray, rule: Rule) -> np.ndarray:
    """The scribbles of one volume (H, W, D), slice by slice and class by class."""
    out = np.full(label.shape, NUM_CLASSES, dtype=np.uint8)
    for z in range(label.shape[2]):
        for value in range(1, NUM_CLASSES):
            mask = label[..., z] == value
            if mask.any():
                out[..., z][rule(mask)] = value
    return out


def left_ventricle_slices(label: np.ndarray, scribble: np.ndarray) -> list[tuple[int, int, bool]]:
    """Pixels, scribbled pixels, and whether ten erosions leave a pixel, per slice that has LV."""
    rows = []
    for z in range(label.shape[2]):
        mask = label[..., z] == LEFT_VENTRICLE
        if mask.any():
            deep = binary_erosion(mask, np.ones((3, 3), dtype=bool), iterations=10)
            drawn = int((scribble[..., z] == LEFT_VENTRICLE).sum())
            rows.append((int(mask.sum()), drawn, bool(deep.any())))
    return rows


def label_amount(rows: list[tuple[int, int, bool]]) -> dict[str, float]:
    """Means over the slices that have LV; the share is of all LV pixels."""
    pixels, drawn, deep = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    return {
        "slices": len(rows),
        "mean_pixels": round(pixels.mean(), 1),
        "mean_scribble_pixels": round(drawn.mean(), 1),
        "median_scribble_pixels": float(np.median(drawn)),
        "scribble_share": round(drawn.sum() / pixels.sum(), 4),
        "share_of_slices_kept_whole": round((drawn == pixels).mean(), 4),
        "share_of_slices_with_ten_iterations": round(deep.mean(), 4),
    }


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """The checkout's commit, marked where tracked or new files differ from it."""
    try:
        head, status = (
            subprocess.run(
                ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
            ).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head} with local changes" if status else head


def run(folder: Path) -> dict[str, Any]:
    files = sorted((folder / "label").glob("*.nii.gz"))
    if not files:
        sys.exit(f"no label/*.nii.gz in {folder}")
    seconds = {rule: {"loop": 0.0, "mixseg": 0.0} for rule in LOOPS}
    amount: dict[str, list[tuple[int, int, bool]]] = {rule: [] for rule in LOOPS}
    digest = hashlib.sha256()
    slices = 0
    for file in files:
        label = np.ascontiguousarray(np.asarray(nib.load(file).dataobj), dtype=np.uint8)
        digest.update(f"{file.name} {label.shape}".encode() + label.tobytes())
        slices += label.shape[2]
        for rule, loop in LOOPS.items():
            start = time.perf_counter()
            expected = scribble_loop(label, loop)
            middle = time.perf_counter()
            found = scribble_by_erosion(label, NUM_CLASSES, rule)
            end = time.perf_counter()
            seconds[rule]["loop"] += middle - start
            seconds[rule]["mixseg"] += end - middle
            if not np.array_equal(expected, found):
                wrong = np.unique(np.argwhere(expected != found)[:, 2]).tolist()
                sys.exit(f"{file.name}, {rule}: differs from the SciPy loop in slices {wrong}")
            amount[rule] += left_ventricle_slices(label, found)
    return {
        "benchmark": "scribbles by erosion, bit-equal to the SciPy loop",
        "data": {
            "name": "ACDC labels",
            "volumes": len(files),
            "slices": slices,
            "classes": NUM_CLASSES - 1,
            "sha256": digest.hexdigest(),
        },
        "rules": {
            rule: {
                "bit_equal": True,
                "loop_seconds": round(times["loop"], 3),
                "mixseg_seconds": round(times["mixseg"], 3),
                "ratio": round(times["loop"] / times["mixseg"], 2),
                "left_ventricle": label_amount(amount[rule]),
            }
            for rule, times in seconds.items()
        },
        "hardware": {"cpu": processor(), "omp_num_threads": os.environ.get("OMP_NUM_THREADS", "")},
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "monai": monai.__version__,
        },
        "commit": commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="ACDC folder that holds label/*.nii.gz"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=ROOT / "benchmarks" / "results" / "erosion.json",
        help="result file (default: benchmarks/results/erosion.json)",
    )
    arguments = parser.parse_args()
    result = run(arguments.data)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    ratio = result["rules"]["kervadec"]["ratio"]
    if ratio < REQUIRED_RATIO:
        sys.exit(f"kervadec is {ratio} times as fast as the loop, less than {REQUIRED_RATIO}")


if __name__ == "__main__":
    main()
