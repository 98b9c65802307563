"""Make what the pages of the documentation take for granted, from the quickstart's phantom.

    .venv/bin/python .ci/made_up.py quickstart/phantom FOLDER

FOLDER then holds ``IMAGES/`` and ``LABELS/`` (own data), ``scan.nii.gz``, ``scans/`` and
``run/models/model.pt`` (the left atrium's weights, to predict with), ``full`` (their bundle with
random ones, to pack) and ``la/``, a small data set in place of the left atrium's.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from mixseg.apps.bundle.weights import build_network

ROOT = Path(__file__).resolve().parents[1]
LEFT_VENTRICLE = 3
#: Cases of ``la/``: enough to train Set-10 with a scribbled case.
SPLITS = {"training": 11, "validation": 1, "test": 1}


def own_data(phantom: Path, folder: Path) -> None:
    """Six patients as two plain folders, and the middle of two images as new scans."""
    for name in ("IMAGES", "LABELS", "scans"):
        (folder / name).mkdir()
    for number in range(1, 7):
        for label in sorted((phantom / f"patient{number:03d}").glob("*_gt.nii.gz")):
            image = label.with_name(label.name.replace("_gt", ""))
            shutil.copy(image, folder / "IMAGES")
            shutil.copy(label, folder / "LABELS" / image.name)
    for image in sorted((folder / "IMAGES").iterdir())[:2]:
        scan = nib.load(image)
        x, y = (size // 2 for size in scan.shape[:2])
        # The middle alone: the network looks at it through many windows.
        nib.save(scan.slicer[x - 24 : x + 24, y - 24 : y + 24], folder / "scans" / image.name)
    shutil.copy(folder / "scans" / image.name, folder / "scan.nii.gz")


def left_atrium(phantom: Path, folder: Path) -> None:
    """The phantom's left ventricle under the name of the atrium, one frame a patient."""
    datalist: dict[str, object] = {"classes": ["background", "LA"], "unlabeled": 2}
    folder.mkdir()
    number = 0
    for split, cases in SPLITS.items():
        entries = []
        for _ in range(cases):
            number += 1
            source = min((phantom / f"patient{number:03d}").glob("*_gt.nii.gz"))
            image, label = f"{number}.nii.gz", f"{number}_mask.nii.gz"
            shutil.copy(source.with_name(source.name.replace("_gt", "")), folder / image)
            labels = nib.load(source)
            mask = np.asarray(labels.dataobj) == LEFT_VENTRICLE
            nib.save(nib.Nifti1Image(mask.astype(np.uint8), labels.affine), folder / label)
            entries.append({"image": image, "label": label, "case_id": str(number)})
        datalist[split] = entries
    (folder / "datalist.json").write_text(json.dumps(datalist))


def weights(folder: Path) -> None:
    """The shipped weights under another name, and their bundle with random ones."""
    bundle = ROOT / "bundles" / "la_mixed"
    (folder / "run" / "models").mkdir(parents=True)
    shutil.copy(bundle / "models" / "model.pt", folder / "run" / "models" / "model.pt")
    shutil.copytree(bundle, folder / "full", ignore=shutil.ignore_patterns("models", "eval"))
    (folder / "full" / "models").mkdir()
    network = build_network(bundle / "configs" / "train.yaml", {})
    torch.save(network.state_dict(), folder / "full" / "models" / "model.pt")


def main() -> None:
    """Command line."""
    phantom, folder = (Path(word) for word in sys.argv[1:])
    folder.mkdir(parents=True)
    own_data(phantom, folder)
    left_atrium(phantom, folder / "la")
    weights(folder)


if __name__ == "__main__":
    main()
