"""How good masks that are made wrong on purpose still are, by kind and distortion.

    python benchmarks/noise.py --data WBC

Reads the masks of the training split of a folder with a datalist.json (`mixseg prepare`), or with
split.json and label/, and writes benchmarks/results/noise.json: mean and spread of the Dice of
NoisyLabel's masks with the clean ones, none of them missing. The table of docs/simulated_labels.md
shows it (benchmarks/tables.py).
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from monai.data.image_reader import PILReader

from mixseg.files.atomic import strict_json, write_bytes_atomic
from mixseg.files.provenance import environment
from mixseg.metrics import dice_coefficient
from mixseg.transforms import NoisyLabel
from mixseg.transforms.noisy_labels import KINDS

ROOT = Path(__file__).resolve().parents[1]
DISTORTIONS = (0.0, 0.25, 0.5, 1.0)


def read_masks(folder: Path) -> dict[str, np.ndarray]:
    """Case → (1, H, W) mask of the training split."""
    datalist, split = folder / "datalist.json", folder / "split.json"
    if datalist.is_file():
        entries = json.loads(datalist.read_text(encoding="utf-8"))["training"]
        places = {entry["case_id"]: folder / entry["label"] for entry in entries}
    else:
        names = json.loads(split.read_text(encoding="utf-8"))["train"]
        places = {name: folder / "label" / f"{name}.png" for name in names}
    reader = PILReader()
    read = {case: reader.get_data(reader.read(str(path)))[0] for case, path in places.items()}
    return {case: np.asarray(mask, dtype=np.uint8)[None] for case, mask in read.items()}


def qualities(noise: NoisyLabel, masks: dict[str, np.ndarray]) -> list[float]:
    """Dice of each case's noisy mask in %, mean over the foreground classes that it has."""
    found = []
    for case, mask in masks.items():
        noisy = np.asarray(noise(mask, case))
        classes = [value for value in range(1, noise.num_classes) if (mask == value).any()]
        dice = [dice_coefficient(noisy == value, mask == value) for value in classes]
        found.append(100 * statistics.fmean(dice))
    return found


def measure(masks: dict[str, np.ndarray], num_classes: int) -> list[dict[str, Any]]:
    """Mean, standard deviation and range of the Dice, a row per kind and distortion."""
    rows = []
    for kind in (*KINDS, "mixed"):
        for distortion in DISTORTIONS:
            dice = qualities(NoisyLabel(num_classes, kind, distortion, share_missing=0), masks)
            low, *_, high = statistics.quantiles(dice, n=20)
            rows.append(
                {
                    "kind": kind,
                    "distortion": distortion,
                    "mean": round(statistics.fmean(dice), 2),
                    "sd": round(statistics.stdev(dice), 2),
                    "percentiles_5_95": [round(low, 2), round(high, 2)],
                }
            )
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--classes", type=int, default=3, help="background included")
    arguments = parser.parse_args()
    masks = read_masks(arguments.data)
    rows = measure(masks, arguments.classes)
    content = {
        "benchmark": "Dice of masks made wrong with the clean ones",
        "masks": len(masks),
        "rows": rows,
        **environment(),
    }
    path = ROOT / "benchmarks" / "results" / "noise.json"
    write_bytes_atomic(path, strict_json(content).encode())
    for row in rows:
        print(f"{row['kind']}, {row['distortion']}: {row['mean']:.1f} ± {row['sd']:.1f}")


if __name__ == "__main__":
    main()
