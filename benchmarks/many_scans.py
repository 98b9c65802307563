"""How long `mixseg predict` takes to list many scans, and whether its memory grows with them.

    python benchmarks/many_scans.py

Writes tiny volumes into a temporary folder, lists 10,000 of them, and predicts 200 and 2,000 with
a tiny network, each in a process of its own. Writes benchmarks/results/many_scans.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from mixseg.apps.bundle.find import ROOT as INSTALLED
from mixseg.apps.bundle.weights import build_network
from mixseg.apps.predict.images import join_channels, place_cases, search_cases
from mixseg.apps.predict.pipeline import refuse_same_outputs
from mixseg.configuration.yaml_text import set_values
from mixseg.files.atomic import strict_json, write_bytes_atomic
from mixseg.files.provenance import environment

RESULT = Path(__file__).resolve().parent / "results" / "many_scans.json"
TINY: dict[str, Any] = {
    "features": [2, 4, 8],
    "slice_size": 16,
    "crop_size": [16, 16],
    "spatial_size": [16, 16],
    "mirror_axes": [],
    "keep_component": None,
}


def write_scans(folder: Path, number: int) -> None:
    """Volumes of 16 × 16 × 2 voxels, in a hundred folders of patients."""
    values = np.random.default_rng(0).integers(0, 500, (16, 16, 2)).astype(np.int16)
    content = nib.Nifti1Image(values, np.eye(4)).to_bytes()
    for i in range(number):
        place = folder / f"site{i % 100:02}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"scan{i:05}.nii").write_bytes(content)


def list_scans(folder: Path, output: Path) -> int:
    """What `mixseg predict` does before it predicts the first image."""
    cases = place_cases(search_cases(folder, output)[0])
    cases = join_channels(cases, 1)
    refuse_same_outputs(cases, [case.folder / f"{case.case_id}_seg.nii.gz" for case in cases])
    return len(cases)


def make_run(folder: Path) -> Path:
    """A folder as a training leaves it, its network drawn."""
    shutil.copytree(INSTALLED / "bundles" / "acdc_lv_mixed" / "configs", folder / "configs")
    inference = folder / "configs" / "inference.yaml"
    inference.write_text(set_values(inference.read_text(encoding="utf-8"), TINY))
    torch.manual_seed(0)
    (folder / "models").mkdir()
    torch.save(build_network(inference, {}).state_dict(), folder / "models" / "model.pt")
    return folder


def predict(run: Path, scans: Path, output: Path) -> dict[str, Any]:
    """Peak memory and time of a prediction."""
    command = [sys.executable, "-m", "mixseg", "predict", str(run), "-i", str(scans)]
    command += ["-o", str(output), "--device", "cpu", "--no-preview", "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert report["images"]["failed"] == 0
    return {
        "scans": report["images"]["predicted"],
        "peak_memory_mb": report["peak_memory_mb"],
        "seconds": report["seconds"],
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--listed", type=int, default=10_000, help="volumes that are listed")
    parser.add_argument("--predicted", type=int, nargs="+", default=[200, 2000])
    given = parser.parse_args()
    before = {**environment(), "load_before": round(os.getloadavg()[0], 1)}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_scans(work / "many", given.listed)
        times, processor = [], []
        for _ in range(3):
            started, cpu = time.monotonic(), time.process_time()
            assert list_scans(work / "many", work / "none") == given.listed
            times.append(time.monotonic() - started)
            processor.append(time.process_time() - cpu)
        run = make_run(work / "run")
        rows = []
        for number in given.predicted:
            write_scans(work / str(number), number)
            rows.append(predict(run, work / str(number), work / f"masks{number}"))
            print(rows[-1], flush=True)
    result = {
        "benchmark": "many_scans",
        "listed": given.listed,
        "listing_seconds": round(statistics.median(times), 2),
        "listing_processor_seconds": round(statistics.median(processor), 2),
        "predictions": rows,
        **before,
    }
    write_bytes_atomic(RESULT, strict_json(result).encode())
    print(f"wrote {RESULT}")


if __name__ == "__main__":
    main()
