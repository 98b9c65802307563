"""End a training at each fsync and each rename, resume it, and compare all files to the byte.

    python benchmarks/crash_points.py              # every point, some minutes
    python benchmarks/crash_points.py --points 10

A tiny training of a 2D bundle (validation, moving average, rate schedule, random flips, pictures)
is run once undisturbed, which also counts its calls of ``os.fsync``, ``os.replace`` and
``os.rename``. Then, for each of them, a new training ends right before that call as a machine
without power does, and is resumed once. The command fails unless the same files are there, with the
same bytes; TensorBoard's events and the environments in ``record.json``, which hold times, are left
out.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow
from resume_after_kill import METHODS, ROOT, SETTINGS, write_data

BUNDLE = "acdc_lv_confkd"
EPOCHS = 9
#: Exit status of a training that was ended.
_ENDED = 9


def crash_points(work: Path, points: int | None = None) -> dict[int, list[str]]:
    """Train, end and resume.

    Args:
        work: an empty folder.
        points: how many, spread over all; None for all.

    Returns:
        Number of each call that a training was ended at → names of files that are then missing,
        more or other than without an end; empty lists where all is well.
    """
    write_data(work / "data")
    calls = multiprocessing.Value("i", 0)
    _finish(_start(work, "whole", calls=calls))
    expected, count = _files(work / "whole"), calls.value
    chosen: Sequence[int] = range(1, count + 1)
    if points is not None:
        chosen = sorted({round(1 + i * (count - 1) / (points - 1)) for i in range(points)})
    found = {}
    for point in chosen:
        name = f"ended_{point:03d}"
        process = _start(work, name, end_at=point)
        process.join()
        if process.exitcode != _ENDED:
            raise RuntimeError(f"the training was not ended at call {point}: {process.exitcode}")
        _finish(_start(work, name, resume=True))
        files = _files(work / name)
        found[point] = sorted(
            path for path in {*files, *expected} if files.get(path) != expected.get(path)
        )
    return found


def _start(work: Path, name: str, **options: Any) -> Any:
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=_train, args=(work / "data", work / name), kwargs=options)
    process.start()
    return process


def _finish(process: Any) -> None:
    process.join()
    if process.exitcode:
        raise RuntimeError(f"a training ended with status {process.exitcode}")


def _train(
    data: Path, folder: Path, *, resume: bool = False, end_at: int = 0, calls: Any = None
) -> None:
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    count = 0

    def counted(call: Any) -> Any:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == end_at:
                os._exit(_ENDED)
            return call(*arguments, **options)

        return wrapper

    for name in ("fsync", "replace", "rename"):
        setattr(os, name, counted(getattr(os, name)))
    root = ROOT / "bundles" / BUNDLE
    settings = {
        **SETTINGS,
        **METHODS[BUNDLE],
        "epoch_length": 2,
        "val_interval": 1,
        "resume": resume,
    }
    workflow = ConfigWorkflow(
        config_file=str(root / "configs" / "train.yaml"),
        workflow_type="train",
        logging_file=False,
        **{
            **settings,
            "max_epochs": EPOCHS,
            "dataset_dir": str(data),
            "bundle_root": str(root),
            "output_dir": str(folder),
            "ckpt_dir": str(folder / "models"),
        },
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    if calls is not None:
        calls.value = count


def _files(folder: Path) -> dict[str, bytes]:
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "tensorboard" not in path.parts and path.name != ".lock"
    }
    # Each process adds when and where it ran.
    record = json.loads(files["record.json"])
    del record["environments"]
    # These tell the time, so that they have to be there, and no more.
    timed = {name: b"" for name in ("report.html", "training.json") if name in files}
    return {**files, **timed, "record.json": json.dumps(record).encode()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--points", type=int, help="how many; all unless given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = crash_points(Path(folder), options.points)
    for point, names in found.items():
        if names:
            print(f"ended at call {point}: {', '.join(names)}")
    bad = sum(map(bool, found.values()))
    print(f"{len(found)} points, {bad} with other files than an undisturbed training")
    raise SystemExit(bad > 0)


if __name__ == "__main__":
    main()
