"""A MONAI Label server from end to end: annotate, train, be killed, resume.

    python benchmarks/label_end_to_end.py --data DATA

DATA holds `acdc/` and `la/` (docs/data.md). Scans are copied into temporary folders; `mixseg label`
starts a real server on the CPU for each of the two bundles, and everything that follows goes
through its REST interface, in the form in which 3D Slicer's plugin sends it. The command fails at
the first thing that is not as it should be, and writes what it measured to
benchmarks/results/label_end_to_end.json, with its log beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from label_server import Case, Log, Server, check, is_locked, load, sha256, wait_for
from monai.bundle import ConfigParser
from scipy.ndimage import binary_dilation, binary_erosion

from mixseg.engines.precision import autocast_dtype
from mixseg.files.atomic import strict_json, write_bytes_atomic
from mixseg.files.provenance import environment

ROOT = Path(__file__).resolve().parents[1]
SCANS = 6
HEART = "acdc_lv_mixed"
PACKAGES = ("monailabel", "monai", "pydicom", "dicomweb-client", "numpy", "torchvision")
SLICER_BATCH = {"device": "cuda", "multi_gpu": True, "gpus": "all", "label_tag": "original"}


def own_inference(case: Case, scan: str) -> np.ndarray:
    """The mask of ``monai.bundle run inference`` on the model's folder."""
    output = case.studies.parent / f"own_{case.name}"
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "monai.bundle", "run", "inference", "--config_file"]
    command += [str(case.folder / "configs" / "inference.yaml"), "--bundle_root", str(case.folder)]
    command += ["--dataset_dir", str(case.studies / f"{scan}.nii.gz"), "--output_dir", str(output)]
    subprocess.run([*command, "--progress", "False"], check=True, capture_output=True)
    return load(next(output.glob("*.nii.gz")))


def own_entropy(case: Case, scan: str) -> float:
    """Normalized entropy in float64, from the network's own logits in the bundle's precision."""
    parser = ConfigParser(
        dict(ConfigParser.load_config_file(case.folder / "configs/inference.yaml"))
    )
    parser["bundle_root"] = str(case.folder)
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(case.folder / "models/model.pt", weights_only=True))
    network.eval()
    image = parser.get_parsed_content("preprocessing")(
        {"image": str(case.studies / f"{scan}.nii.gz")}
    )["image"]
    dtype = autocast_dtype(parser.get("amp", False), "cpu")
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is not None):
        output = parser.get_parsed_content("inferer")(image[None], network)[0]
    logits = torch.as_tensor(output).double().numpy()
    p = np.exp(logits - logits.max(0))
    p /= p.sum(0)
    return float(-(p * np.log(np.maximum(p, 1e-300))).sum(0).mean() / np.log(len(p)))


def compare_inference(case: Case, server: Server, scan: str, when: str, log: Log) -> np.ndarray:
    with log.timed(f"{case.name}: infer, {when}"):
        mask = server.infer(scan)
    own = own_inference(case, scan)
    different = int((mask != own).sum()) if mask.shape == own.shape else -1
    case.answers[f"infer, {when}"] = {
        "voxels": int(own.size),
        "different": different,
        "foreground": int((own > 0).sum()),
    }
    text = f"{when}: the server's mask of {scan} is the bundle's own, {own.size} voxels"
    check(different == 0 and mask.dtype == np.uint8, text, log)
    return mask


def annotate(case: Case, server: Server, log: Log) -> None:
    """One complete mask and two scribbled ones, the second after a segment was deleted."""
    name = next(n for n, v in case.answers["labels"].items() if v == 1)
    every = [(name, 1), ("unlabeled", 2), ("background_brush", 3)]
    (full, mask), *_ = case.masks.items()
    case.answers["submit"] = server.submit(full, mask, every)
    (one, first), (two, second) = case.scribbles.items()
    server.submit(one, np.select([first == 1, first == 0], [1, 3], 0), every)
    # 'unlabeled' was deleted in the viewer: the brush is the second segment now, its idx still 3.
    server.submit(two, np.select([second == 1, second == 0], [1, 2], 0), [every[0], every[2]])
    stats = server.call("GET", "/datastore/?output=stats")
    case.answers["datastore"] = stats
    check(stats["completed"] == 3, "three labels are in the datastore", log)


def next_sample(case: Case, server: Server, when: str, log: Log) -> None:
    with log.timed(f"{case.name}: entropy of all scans, {when}"):
        summary = server.call("POST", "/scoring/entropy?run_sync=true", json={"device": "cpu"})
    scores = json.loads((case.folder / "scores.json").read_text())
    unlabeled = set(scores) - set(case.masks) - set(case.scribbles)
    chosen = server.call("POST", "/activelearning/entropy", json={})
    kept = {key: chosen[key] for key in ("id", "entropy", "current")}
    case.answers[f"next sample, {when}"] = {**kept, "scored": summary["executed"]}
    fresh = [s for s in unlabeled if s not in case.answers.setdefault("handed out", [])]
    best = max(fresh, key=lambda scan: scores[scan]["entropy"])
    case.answers["handed out"].append(chosen["id"])
    text = f"{when}: the next scan, {chosen['id']}, has the highest entropy, {kept['entropy']:.4f}"
    check(chosen["id"] == best and chosen["current"], text, log)
    own = own_entropy(case, chosen["id"])
    difference = abs(own - kept["entropy"])
    case.answers[f"next sample, {when}"]["difference from float64"] = difference
    check(difference < 1e-5, f"its entropy in float64 differs by {difference:.1e}", log)


def check_labels(case: Case, log: Log) -> None:
    """What the training was given is what was drawn, voxel by voxel."""
    run = case.folder / "training" / "0001"
    datalist = json.loads((run / "datalist.json").read_text())
    kinds = {e["case_id"]: e["supervision"] for e in datalist["training"]}
    counts = {kind: list(kinds.values()).count(kind) for kind in ("full", "partial", "none")}
    case.answers["training cases"] = counts
    wanted = {"full": 1, "partial": 2, "none": SCANS - 3}
    check(counts == wanted, f"training cases by supervision: {counts}", log)
    drawn = {**dict([next(iter(case.masks.items()))]), **case.scribbles}
    same = all(
        np.array_equal(load(run / "labels" / f"{scan}.nii.gz"), wanted)
        for scan, wanted in drawn.items()
    )
    check(same, "labels, strokes of the background brush and untouched voxels came through", log)


def killed(case: Case, server: Server, log: Log, epochs: int) -> None:
    """Kill the server while it trains, start it again, resume."""
    folder = case.folder
    server.train(epochs)

    def is_going() -> bool:
        stats = server.train_stats()
        return stats["status"] == "running" and stats["epoch"] >= 2

    wait_for(is_going, 900, "no second epoch")
    server.stop(signal.SIGKILL)
    log("the server is killed (SIGKILL)")
    lock = folder / "training" / ".lock"
    with log.timed(f"{case.name}: the training notices that its server is gone"):
        wait_for(lambda: not is_locked(lock), 60, "the training continues without its server")
    run = sorted((folder / "training").glob("0*"))[-1]
    weights = sha256(folder / "models" / "model.pt")
    done = len((run / "history.csv").read_text().splitlines()) - 1
    again = Server(case, log, "start after the kill")
    stats = again.train_stats()
    interrupted = {key: stats[key] for key in ("status", "epoch", "total_epochs")}
    check(stats["status"] == "interrupted", f"the training is known: {interrupted}", log)
    check(sha256(folder / "models" / "model.pt") == weights, "the weights are there", log)
    store = again.call("GET", "/datastore/?output=stats")
    check(store["completed"] == 3, "the labels are there", log)
    two = list(case.scribbles)[1]
    info = again.call("GET", f"/datastore/label/info?label={two}&tag=final")
    names = [segment["name"] for segment in info["label_info"]]
    check(names[1] == "background_brush", "and the names of their segments", log)
    with log.timed(f"{case.name}: resumed training"):
        again.train(epochs)
        seen = again.wait_trained()
    rows = (run / "history.csv").read_text().splitlines()[1:]
    numbers = [int(float(row.split(",")[0])) for row in rows]
    check(numbers == list(range(1, epochs + 1)), f"epochs 1 to {epochs}, none twice", log)
    server_log = (case.studies / "server.log").read_text()
    check("resuming the interrupted training" in server_log, "it resumed", log)
    case.answers["killed"] = {
        "epochs": epochs,
        "epochs before the kill": done,
        "progress after it": seen,
    }


def started(case: Case, log: Log, scans: int) -> Server:
    """A server, and what it says of its model."""
    server = Server(case, log, "start")
    info = server.call("GET", "/info/")
    case.answers["arguments"] = case.options
    case.answers["labels"] = info["models"][case.name]["labels"]
    case.answers["options"] = info["trainers"][case.name]["config"]
    case.answers["strategies"] = sorted(info["strategies"])
    check(info["datastore"]["total"] == scans, f"{scans} scans are served", log)
    return server


def run_case(case: Case, log: Log) -> dict[str, Any]:
    try:
        server = started(case, log, SCANS)
        case.answers["weights"] = sha256(case.folder / "models" / "model.pt")
        annotate(case, server, log)
        unseen = sorted({p.name[:-7] for p in case.studies.glob("*.nii.gz")} - {*case.masks})[-1]
        before = compare_inference(case, server, unseen, "before training", log)
        next_sample(case, server, "before training", log)
        weights = sha256(case.folder / "models" / "model.pt")
        with log.timed(f"{case.name}: training of 2 epochs, process and all"):
            case.answers["train"] = server.train(2)
            case.answers["progress"] = server.wait_trained()
        case.answers["train_stats"] = server.train_stats()
        check_labels(case, log)
        check(sha256(case.folder / "models" / "model.pt") != weights, "weights are new", log)
        after = compare_inference(case, server, unseen, "after training, no restart", log)
        changed = int((before != after).sum())
        case.answers["voxels changed by training"] = changed
        check(changed > 0, f"the new weights are in use: {changed} voxels changed", log)
        next_sample(case, server, "after training", log)
        with log.timed(f"{case.name}: batch inference of {SCANS - 3} scans"):
            path = f"/batch/infer/{case.name}?images=unlabeled&run_sync=true"
            batch = server.call("POST", path, json=SLICER_BATCH)
        tags = server.call("GET", "/datastore/?output=stats")["label_tags"]
        wanted = {"final": 3, "original": SCANS - 3}
        check(len(batch) == SCANS - 3 and tags == wanted, f"labels by tag: {tags}", log)
        killed(case, server, log, epochs=12)
    finally:
        for server in case.servers:
            server.stop(signal.SIGTERM)
    return case.answers


def copied(source: Path, scans: list[str], studies: Path) -> None:
    studies.mkdir(parents=True)
    for scan in scans:
        shutil.copyfile(source / "image" / f"{scan}.nii.gz", studies / f"{scan}.nii.gz")


def drawn_by_hand(data: Path, scan: str) -> np.ndarray:
    """The left ventricle in the scribbles of ACDC, 2 where unlabeled."""
    drawn = load(data / "scribble" / f"{scan}.nii.gz")
    return np.select([drawn == 3, drawn < 3], [1, 0], 2).astype(np.uint8)


def ventricle(data: Path, scan: str) -> np.ndarray:
    """The left ventricle in the masks of ACDC."""
    return (load(data / "label" / f"{scan}.nii.gz") == 3).astype(np.uint8)


def acdc_case(data: Path, bundle: str, work: Path) -> Case:
    """End-diastolic frames; the left ventricle, with the scribbles drawn by hand."""
    patients = json.loads((data / "split.json").read_text())["train"]
    frames = {p.name[:-7] for p in (data / "image").glob("*_frame01.nii.gz")}
    scans = [f"{p}_frame01" for p in patients if f"{p}_frame01" in frames][:SCANS]
    copied(data, scans, work / "acdc")
    masks = {scans[0]: ventricle(data, scans[0])}
    scribbles = {scan: drawn_by_hand(data, scan) for scan in scans[1:3]}
    return Case(HEART, bundle, work / "acdc", [], masks, scribbles, 5)


def la_case(data: Path, bundle: str, work: Path) -> Case:
    """Left atrium; strokes are the core of every eighth slice and a ring around it."""
    scans = json.loads((data / "split.json").read_text())["train"][:SCANS]
    copied(data, scans, work / "la")
    full, *others = scans[:3]
    masks = {full: (load(data / "label" / f"{full}.nii.gz") > 0).astype(np.uint8)}
    scribbles = {}
    for scan in others:
        atrium = load(data / "label" / f"{scan}.nii.gz") > 0
        drawn = np.full(atrium.shape, 2, np.uint8)
        for index in range(0, atrium.shape[2], 8):
            plane = atrium[..., index]
            if plane.any():
                near, far = binary_dilation(plane, iterations=8), binary_dilation(plane, None, 11)
                drawn[..., index][far & ~near] = 0
                drawn[..., index][binary_erosion(plane, iterations=4)] = 1
        scribbles[scan] = drawn
    return Case("la_mixed", bundle, work / "la", [], masks, scribbles, 3)


def free_port() -> int:
    """A port that no server listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def installed(package: str) -> str | None:
    """Version, None where the package is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("MIXSEG_DATA"))
    parser.add_argument("--bundles", type=Path, help="folder of the bundles, else by their names")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("give --data, the folder of acdc/ and la/, or set MIXSEG_DATA")
    arguments.output.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        (arguments.output / "label_end_to_end.log").open("w", encoding="utf-8") as file,
    ):
        work, log = Path(folder), Log(file)
        for name, build, bundle in (("acdc", acdc_case, HEART), ("la", la_case, "la_mixed")):
            source = str(arguments.bundles / bundle) if arguments.bundles else bundle
            case = build(arguments.data / name, source, work)
            case.port = free_port()
            log(f"--- {case.name}: {SCANS} scans, one complete mask, two scribbled")
            results[case.name] = run_case(case, log)
        total = round(time.monotonic() - log.started, 1)
        log(f"everything: {total} s")
    content = {
        "benchmark": "label_end_to_end",
        "packages": {name: installed(name) for name in PACKAGES},
        "bundles": results,
        "seconds": {**log.seconds, "everything": total},
        **environment(),
    }
    path = arguments.output / "label_end_to_end.json"
    write_bytes_atomic(path, strict_json(content).encode())


if __name__ == "__main__":
    main()
