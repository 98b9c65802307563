"""How far free negatives reach and how often they are wrong, on eroded seeds.

    python benchmarks/free_negatives.py --acdc ACDC --la LA --wbc WBC

The radius is calibrated on the full masks of three patients (of white blood cells: five pictures)
as a training does; coverage and errors are those of the 15 patients (50 pictures) after them, whose
masks no training sees. Smaller radii, which the full masks contradict, and larger ones show what
they would cost. Distances are in voxels of the grid in which seeds are made: that of the files, and
pictures of 128 pixels, as the bundle resizes them.
Writes benchmarks/results/free_negatives.json, which docs/weak_labels.md shows
(benchmarks/tables.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import Compose

from mixseg.data import find_datalist, select_cases
from mixseg.files.atomic import strict_json, write_bytes_atomic
from mixseg.files.provenance import environment
from mixseg.files.reading import open_volume
from mixseg.transforms import (
    AddDepthd,
    LoadVolumed,
    ResizeToSized,
    SelectClasses,
    free_negatives,
    negative_radius,
    scribble_by_erosion,
)

ROOT = Path(__file__).resolve().parents[1]
SLICE_AXIS = 2
#: Longer side of a picture.
PICTURE = 128
#: Full and partially labeled cases of a folder.
CASES = {"acdc": (3, 15), "la": (3, 15), "wbc": (5, 50)}
#: Name, folder, classes of the files, classes that are trained, distance, radii over R.
SETTINGS = (
    ("ACDC, LV", "acdc", 4, [3], "slice", (1.2, 0.9)),
    ("ACDC, RV, myocardium, LV", "acdc", 4, [1, 2, 3], "slice", (1.2, 0.5)),
    ("LA", "la", 2, [1], "volume", (1.2, 0.6, 0.4)),
    ("WBC", "wbc", 3, [1, 2], "slice", (1.2, 1.5)),
)


def shares(
    masks: Iterable[np.ndarray], num_classes: int, radius: float, distance: Any
) -> dict[str, float]:
    """Over masks (H, W, D): how much background is covered or in slices without a seed; errors."""
    background = covered = seedless = foreground = wrong = cases = cases_wrong = 0
    for mask in masks:
        seeds = scribble_by_erosion(mask, num_classes, slice_axis=SLICE_AXIS)
        filled = free_negatives(
            seeds, num_classes, radius, complete=True, slice_axis=SLICE_AXIS, distance=distance
        )
        negative = filled == 0
        background += int((mask == 0).sum())
        covered += int((negative & (mask == 0)).sum())
        empty = (seeds == num_classes).all(axis=(0, 1))
        seedless += int(((mask == 0) & empty).sum())
        foreground += int((mask > 0).sum())
        errors = int((negative & (mask > 0)).sum())
        wrong += errors
        cases += 1
        cases_wrong += errors > 0
    ratios = {
        "background_covered": covered / background,
        "background_in_seedless_slices": seedless / background,
        "foreground_wrong": wrong / foreground,
        "negatives_wrong": wrong / (covered + wrong),
        "cases_wrong": cases_wrong / cases,
    }
    return {name: float(f"{ratio:.6g}") for name, ratio in ratios.items()}


def measure(folders: Mapping[str, Path]) -> list[dict[str, Any]]:
    """A row a setting and radius."""
    rows = []
    for name, kind, source, classes, distance, others in SETTINGS:
        folder = folders[kind]
        full, partial = CASES[kind]
        cases = select_cases(find_datalist(folder), folder, num_full=full, num_partial=partial)
        select = SelectClasses(classes, source)
        count = len(classes) + 1

        def load(
            item: Mapping[str, Any],
            kind: str = kind,
            source: int = source,
            select: SelectClasses = select,
        ) -> dict[str, Any]:
            if kind != "wbc":
                return {"label": select(np.asarray(open_volume(item["label"]).data))[None]}
            keys = ("image", "label")
            resize = ResizeToSized("image", PICTURE, ["label"], source, "area")
            read = Compose([LoadVolumed(keys), AddDepthd(keys), resize])
            return {"label": np.asarray(select(read({key: item[key] for key in keys})["label"]))}

        options: Any = {"num_classes": count, "slice_axis": SLICE_AXIS, "distance": distance}
        radius = negative_radius(cases, load, **options)
        assert radius is not None
        masks = [load(item)["label"][0] for item in cases if item["supervision"] == "partial"]
        for tried in (radius, *(round(radius * share, 1) for share in others)):
            row = {
                "setting": name,
                "distance": distance,
                "radius": tried,
                "calibrated": tried == radius,
                "full_masks": sum(item["supervision"] == "full" for item in cases),
                "masks": len(masks),
                **shares(masks, count, tried, distance),
            }
            rows.append(row)
            print(row, flush=True)
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--acdc", type=Path, required=True, help="folder of ACDC")
    parser.add_argument("--la", type=Path, required=True, help="folder of the left atrium")
    parser.add_argument("--wbc", type=Path, required=True, help="folder of white blood cells")
    arguments = parser.parse_args()
    content = {
        "benchmark": "free negatives beside eroded seeds",
        "rows": measure({kind: getattr(arguments, kind) for kind in CASES}),
        **environment(),
    }
    path = ROOT / "benchmarks" / "results" / "free_negatives.json"
    write_bytes_atomic(path, strict_json(content).encode())


if __name__ == "__main__":
    main()
