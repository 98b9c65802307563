"""Compare the phantom's intensities and shapes with those of ACDC.

    python benchmarks/phantom_statistics.py --acdc <ACDC folder>

writes benchmarks/results/phantom_statistics.json (aggregates only, no voxel of a patient) and
docs/figures/phantom_vs_acdc.png (slices of the phantom, distributions of both). Without `--acdc`
the figure is made again from the result file. The ACDC cases are those of the training split.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import matplotlib
import nibabel as nib
import numpy as np
from measured import PHANTOM

from mixseg.data.datalist import data_hash
from mixseg.data.find import find_datalist
from mixseg.data.phantom.dataset import phantom_patient
from mixseg.data.subset import split_cases

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "phantom_statistics.json"
FIGURE = ROOT / "docs" / "figures" / "phantom_vs_acdc.png"

PATIENTS, SEED = 32, 0
WINDOW = 96  # pixels around the LV's center: what is left after cropping the heart
PERCENTILES = (5, 25, 50, 75, 95)
BINS = np.linspace(0.0, 1.0, 41)
TISSUES = {"LV": 3, "myocardium": 2, "RV": 1, "background": 0}
Volume = tuple[np.ndarray, np.ndarray]


def acdc_volumes(folder: Path) -> Iterator[Volume]:
    for case in split_cases(find_datalist(folder), folder, "training"):
        yield tuple(np.asarray(nib.load(case[key]).dataobj) for key in ("image", "label"))


def phantom_volumes() -> Iterator[Volume]:
    for index in range(1, PATIENTS + 1):
        for _, image, label in phantom_patient(index, SEED)[1]:
            yield image, label


def describe(volumes: Iterable[Volume]) -> dict[str, Any]:
    """Percentiles over volumes (or slices) of every statistic, and pooled histograms.

    Volumes come in pairs, end-diastole and end-systole of a patient. Intensities are min–max scaled
    per volume; "background" is that of the window.
    """
    values: dict[str, list[float]] = {key: [] for key in PHANTOM}
    histograms = {name: np.zeros(len(BINS) - 1) for name in TISSUES}
    sizes: list[int] = []
    for image, label in volumes:
        image = (image - image.min()) / float(image.max() - image.min())
        center = np.argwhere(label == TISSUES["LV"]).mean(0)[:2]
        low = np.maximum(center - WINDOW / 2, 0).astype(int)
        window = tuple(slice(start, start + WINDOW) for start in low)
        tissue = {
            name: image[window][label[window] == value] if value == 0 else image[label == value]
            for name, value in TISSUES.items()
        }
        for name, voxels in tissue.items():
            values[f"median {name}"].append(float(np.median(voxels)))
            values[f"spread {name}"].append(float(voxels.std()))
            histograms[name] += np.histogram(voxels, BINS, density=True)[0]
        left, muscle, rest = tissue["LV"], tissue["myocardium"], np.sort(tissue["background"])
        values["contrast"].append(float((left.mean() - muscle.mean()) / muscle.std()))
        values["auc"].append(float(np.searchsorted(rest, left).mean() / len(rest)))
        dark, bright = np.percentile(left, (10, 90))
        values["alike"].append(float(((rest >= dark) & (rest <= bright)).mean()))
        middle = (np.array(image.shape[:2]) - 1) / 2
        values["offset"].append(float(np.linalg.norm(center - middle)))
        describe_slices(label == TISSUES["LV"], values)
        sizes.append(int((label == TISSUES["LV"]).sum()))
    values["ratio"] = [
        systole / diastole for diastole, systole in zip(sizes[::2], sizes[1::2], strict=True)
    ]
    return {
        "volumes": len(sizes),
        "percentiles": {
            key: [round(float(v), 4) for v in np.percentile(found, PERCENTILES)]
            for key, found in values.items()
        },
        "histograms": {n: np.round(h / len(sizes), 4).tolist() for n, h in histograms.items()},
    }


def describe_slices(mask: np.ndarray, values: dict[str, list[float]]) -> None:
    areas = mask.sum((0, 1))
    values["slices"].append(float(len(areas)))
    values["empty"].append(float((areas == 0).mean()))
    for index in np.flatnonzero(areas):
        values["diameter"].append(float(2 * np.sqrt(areas[index] / np.pi)))
        values["fraction"].append(float(areas[index] / WINDOW**2))
        if areas[index] >= 10:  # the covariance of fewer pixels says nothing of a shape
            minor, major = np.linalg.eigvalsh(np.cov(np.argwhere(mask[:, :, index]).T))
            values["eccentricity"].append(float(np.sqrt(1 - minor / major)))


def draw(result: dict[str, Any]) -> None:
    """Six slices of the phantom above, distributions of both data sets below."""
    figure = plt.figure(figsize=(12, 7.4), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(2, 5))
    above.suptitle("phantom, end-diastole, middle slice")
    for index, axis in enumerate(above.subplots(1, 6), start=1):
        group, frames = phantom_patient(index, SEED)
        _, image, _ = next(frames)
        axis.imshow(image[:, :, image.shape[2] // 2].T, cmap="gray")
        axis.set_title(group, fontsize=9)
        axis.axis("off")
    axes = below.subplots(2, 4).ravel()
    centers = (BINS[1:] + BINS[:-1]) / 2
    for axis, name in zip(axes, TISSUES, strict=False):
        for source, style in (("acdc", "-"), ("phantom", "--")):
            axis.plot(centers, result[source]["histograms"][name], style, label=source)
        axis.set(title=f"intensity, {name}", xlabel="min–max scaled", yticks=[])
        axis.legend(fontsize=8)
    shapes = ("diameter", "eccentricity", "offset", "contrast")
    for axis, key in zip(axes[4:], shapes, strict=True):
        for source, style in (("acdc", "o-"), ("phantom", "s--")):
            axis.plot(result[source]["percentiles"][key], PERCENTILES, style, label=source)
        axis.set(title=PHANTOM[key], ylabel="percentile")
        axis.title.set_fontsize(8)
        axis.legend(fontsize=8)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, dpi=100, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--acdc", type=Path, help="the ACDC folder; absent: use the last result")
    folder = parser.parse_args().acdc
    if folder is not None:
        git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
        result = {
            "command": "python benchmarks/phantom_statistics.py --acdc <ACDC>",
            "date": datetime.now(timezone.utc).date().isoformat(),
            "commit": commit,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "hardware": f"{platform.machine()}, {os.cpu_count()} CPUs",
            "phantom_patients": PATIENTS,
            "phantom_seed": SEED,
            "acdc_data_hash": data_hash(find_datalist(folder), folder),
            "percentiles": PERCENTILES,
            "bins": BINS.round(4).tolist(),
            "acdc": describe(acdc_volumes(folder)),
            "phantom": describe(phantom_volumes()),
        }
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    draw(result)


if __name__ == "__main__":
    main()
