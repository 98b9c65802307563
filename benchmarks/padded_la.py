"""Dice of the shipped `la_mixed` on test scans padded to the field of view of an uncropped scan.

    OMP_NUM_THREADS=1 python benchmarks/padded_la.py --data LA

Each test scan gets a margin of zeros on all four sides of a slice, up to 360 mm, and is segmented
as a user would segment it. Nothing is chosen by the result. Writes
benchmarks/results/padded/la_mixed.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from mixseg import Bundle
from mixseg.files.atomic import strict_json, write_bytes_atomic
from mixseg.files.provenance import environment, sha256_of
from mixseg.files.reading import open_volume
from mixseg.metrics import dice_coefficient, hd95_pooled

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "bundles" / "la_mixed" / "models" / "model.pt"
RESULT = ROOT / "benchmarks" / "results" / "padded" / "la_mixed.json"
FIELD = 360.0  # mm


def padded(volume: NDArray[np.generic], voxel: NDArray[np.float64]) -> NDArray[np.generic]:
    """(x, y, z) with zeros around each slice, ``FIELD`` mm wide and high; ``voxel`` in mm."""
    sides = [round(FIELD / size) for size in voxel[:2]]
    missing = [max(wanted - side, 0) for wanted, side in zip(sides, volume.shape, strict=False)]
    return np.pad(volume, [*((n // 2, n - n // 2) for n in missing), (0, 0)])


def main() -> None:
    """Predict, score, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with split.json")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    bundle = Bundle(ROOT / "bundles" / "la_mixed", device="cpu")
    cases = json.loads((arguments.data / "split.json").read_text(encoding="utf-8"))["test"]
    rows = []
    for case in track(cases, description="padded scans"):
        scan, mask = (
            open_volume(arguments.data / kind / f"{case}.nii.gz") for kind in ("image", "label")
        )
        voxel = np.linalg.norm(scan.affine[:3, :3], axis=0)
        # A margin moves the origin, which no score depends on.
        found = bundle.predict(padded(scan.data, voxel), affine=scan.affine).mask > 0
        true = padded(mask.data > 0, voxel)
        rows.append(
            {
                "case_id": case,
                "dice": dice_coefficient(found, true),
                "hd95_vox": hd95_pooled(found, true),
            }
        )
    result = {
        "benchmark": f"la_mixed on test scans padded with zeros to {FIELD:.0f} mm",
        "field_mm": FIELD,
        "weights_sha256": sha256_of(WEIGHTS),
        "mean": {name: statistics.mean(row[name] for row in rows) for name in ("dice", "hd95_vox")},
        "cases": rows,
        **environment(),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(arguments.output, strict_json(result).encode())


if __name__ == "__main__":
    main()
