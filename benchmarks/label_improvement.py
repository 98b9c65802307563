"""What a model in MONAI Label learns from five scribbled scans.

    python benchmarks/label_improvement.py --data DATA

Two servers of ``acdc_lv_mixed`` get scribbles of five patients of ACDC's test split, as 3D Slicer's
plugin submits them, and are trained: one that starts from the weights that ship, which know none of
these patients, and one that starts from random weights and has been trained on the mask of a sixth
patient. Both are scored on both frames of the other patients, before and after.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from label_end_to_end import HEART, ROOT, copied, drawn_by_hand, free_port, started, ventricle
from label_server import Case, Log, Server

from mixseg.files.atomic import strict_json, write_bytes_atomic
from mixseg.files.provenance import environment

SCRIBBLED = 5
#: Epochs of one training, and batches an epoch.
EPOCHS, EPOCH_LENGTH = 6, 50


def dice(mask: np.ndarray, reference: np.ndarray) -> float:
    """Dice in percent; 100 where both are empty."""
    size = int(mask.sum()) + int(reference.sum())
    return 100.0 if size == 0 else 200.0 * int((mask & reference).sum()) / size


def learn(data: Path, bundle: str, work: Path, log: Log, *, anew: bool) -> dict[str, Any]:
    """Dice before and after five scribbled scans.

    Args:
        data: folder of ACDC.
        bundle: of the left ventricle, its name or folder.
        work: an empty folder.
        log: gets a line for each step.
        anew: start from random weights and one mask; False starts from the weights that ship.
    """
    frames = {
        patient: sorted(p.name[:-7] for p in (data / "image").glob(f"{patient}_*.nii.gz"))
        for patient in json.loads((data / "split.json").read_text())["test"]
    }
    drawn = [scans[0] for scans in list(frames.values())[:SCRIBBLED]]
    masked = [list(frames.values())[SCRIBBLED][0]] if anew else []
    scored = [scan for scans in list(frames.values())[SCRIBBLED + 1 :] for scan in scans]
    copied(data, [*drawn, *masked, *scored], work / "studies")
    case = Case(
        HEART,
        bundle,
        work / "studies",
        ["--from-scratch"] if anew else [],
        {scan: ventricle(data, scan) for scan in masked},
        {scan: drawn_by_hand(data, scan) for scan in drawn},
        EPOCH_LENGTH,
        port=free_port(),
    )
    try:
        server = started(case, log, len(drawn + masked + scored))
        rounds = _rounds(case, {scan: ventricle(data, scan) for scan in scored}, server, log)
    finally:
        for server in case.servers:
            server.stop(signal.SIGTERM)
    return {"scored": len(scored), "lr": case.answers["options"]["lr"], "rounds": rounds}


def _rounds(
    case: Case, references: dict[str, np.ndarray], server: Server, log: Log
) -> dict[str, Any]:
    rounds: dict[str, Any] = {}

    def score(name: str) -> None:
        found = [
            dice(server.infer(scan) == 1, reference == 1) for scan, reference in references.items()
        ]
        rounds[name] = {"dice": round(mean(found), 2), "lowest": round(min(found), 2)}
        log(f"{name}: {rounds[name]}")

    def train(name: str) -> None:
        server.train(EPOCHS)
        server.wait_trained()
        score(name)

    every = [("lv", 1), ("unlabeled", 2), ("background_brush", 3)]
    for scan, mask in case.masks.items():
        server.submit(scan, mask, every)
    if case.masks:
        train("after one mask")
    else:
        score("as shipped")
    for scan, drawn in case.scribbles.items():
        server.submit(scan, np.select([drawn == 1, drawn == 0], [1, 3], 0), every)
    train(f"after {SCRIBBLED} scribbled scans")
    return rounds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("MIXSEG_DATA"))
    parser.add_argument("--bundle", default=HEART, help="another place of the bundle")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "benchmarks" / "results" / "label_improvement.json"
    )
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("give --data, the folder of acdc/, or set MIXSEG_DATA")
    learned = {}
    log = Log(io.StringIO())  # the screen alone
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        for name, anew in (("weights that ship", False), ("random weights", True)):
            log(f"--- {HEART}: {name}, and {SCRIBBLED} scribbled scans")
            work = Path(folder) / name.replace(" ", "_")
            learned[name] = learn(arguments.data / "acdc", arguments.bundle, work, log, anew=anew)
    content = {
        "benchmark": "Dice of other patients before and after five scribbled scans",
        "command": "python benchmarks/label_improvement.py",
        "steps": EPOCHS * EPOCH_LENGTH,
        **learned,
        **environment(),
    }
    write_bytes_atomic(arguments.output, strict_json(content).encode())


if __name__ == "__main__":
    main()
