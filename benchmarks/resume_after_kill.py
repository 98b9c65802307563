"""Kill a training run at random moments, resume it each time, and compare its weights to the bit.

    python benchmarks/resume_after_kill.py
    python benchmarks/resume_after_kill.py --bundle acdc_lv_uamt

A tiny run of each 2D bundle (synthetic volumes or pictures made here, every kind of state: dropout,
moving averages, peers, projection heads, discriminators, learned weights of instances, rate
schedule, ramps, random augmentation) is trained once without interruption and once killed with
SIGKILL ten times, each time resumed with ``--resume true``. The moments are drawn with a seed: the
run is killed within one epoch's time after it has written 0, 1 or 2 checkpoints of its own, so
kills fall into start-up, iterations, validations, drawings and writes. The command fails unless
every tensor of the final weights and of the final checkpoint is equal. A bundle's entry of the
result file is replaced; the others stay.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
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
from PIL import Image

from mixseg.files.atomic import strict_json, write_bytes_atomic
from mixseg.files.provenance import environment

ROOT = Path(__file__).resolve().parents[1]
SIZE, SLICES = 32, 4
SETTINGS: dict[str, Any] = {
    "num_full": 1,
    "slice_size": [SIZE, SIZE],
    "epoch_length": 4,
    "features": [4, 8, 16],
    "lr": 1e-3,
    "lr_power": 0.9,
    "ema_decay": 0.9,
    "clip_grad_norm": 5.0,
    "val_interval": 8,
    "checkpoint_interval": 1,
    "progress": False,
    "device": "cpu",
}
FLIP = {"_target_": "RandFlipd", "prob": 0.5, "spatial_axis": 0}
MIXED: dict[str, Any] = {
    "batch_full": 2,
    "augmentation": {**FLIP, "keys": ["image", "label", "weak_label"]},
}
SCRIBBLED: dict[str, Any] = {**MIXED, "num_partial": 2, "batch_partial": 4}
UNLABELED: dict[str, Any] = {**MIXED, "num_unlabeled": 2, "batch_unlabeled": 4}
# The discriminator halves pictures of 32 three times, and trains from the start.
ADVERSARIAL: dict[str, Any] = {
    **UNLABELED,
    "discriminator_features": [4, 8],
    "ramps": {"lambda_semi": {"begin": 24, "length": 0}},
}
S4GAN: dict[str, Any] = {**ADVERSARIAL, "ramps": {"lambda_st": {"begin": 24, "length": 0}}}
WRONG: dict[str, Any] = {**MIXED, "num_noisy": 2, "noise_missing": 0}
SEPARATE: dict[str, Any] = {**WRONG, "batch_noisy": 2}
# The weights of the wrong masks move in each epoch, and with them what is drawn.
INDICATORS: dict[str, Any] = {
    "num_noisy": 2,
    "noise_missing": 0,
    "batch_size": 2,
    "batch_strong": 2,
    "indicator_interval": 3,
    "ramps": {"lambda_reg": 40},
    "augmentation": {**FLIP, "keys": ["image", "label", "reference"]},
}
#: Settings of each bundle's method, or of a row after ``:``; ramps pass half of the run, so that
#: kills find them on their way.
METHODS: dict[str, dict[str, Any]] = {
    # The recipe: its own augmentation and schedule, and bfloat16 where the processor has it.
    "acdc_lv_mixed": {
        "num_partial": 2,
        "batch_full": 2,
        "batch_partial": 2,
        "weak_label": "erosion",
        "slice_size": SIZE,
        "crop_size": [SIZE, SIZE],
        "spatial_size": [SIZE, SIZE],
        "lr_power": None,
    },
    "acdc_lv_confkd": {**SCRIBBLED, "ramps": {"lambda_ent": 40}},
    "acdc_lv_confkd:single": {
        **SCRIBBLED,
        "lambda_w": 1,
        "lambda_ent": 1,
        "ramps": {"lambda_ent": 40},
    },
    "acdc_lv_confkd:decoupled": SCRIBBLED,
    "acdc_lv_uamt": {**UNLABELED, "ramps": {"lambda_con": 40, "certainty": 80}},
    # Its layers need a network of five levels.
    "acdc_lv_glmi": {**UNLABELED, "features": [4, 8, 8, 16, 16], "ramps": {"lambda_con": 40}},
    "acdc_lv_ssco": {
        **UNLABELED,
        "ramps": {
            "lambda_co": {"begin": 4, "length": 40},
            "gamma": {"begin": 4, "length": 40, "start": 0.2},
        },
    },
    "acdc_lv_adversarial": ADVERSARIAL,
    "acdc_lv_multitask": {**UNLABELED, "ramps": {"lambda_rec": 40}},
    "acdc_lv_s4gan": S4GAN,
    "acdc_lv_entropy_minimization": {**UNLABELED, "ramps": {"lambda_unsup": 40}},
    "acdc_lv_dcr": INDICATORS,
    "wbc_single": WRONG,
    "wbc_decoupled": {**WRONG, "batch_partial": 2},
    "wbc_uamt": {**UNLABELED, "ramps": {"lambda_con": 40, "certainty": 80}},
    "wbc_adversarial": ADVERSARIAL,
    "wbc_multitask": {**UNLABELED, "ramps": {"lambda_rec": 40}},
    "wbc_s4gan": S4GAN,
    "wbc_entropy_minimization": {**UNLABELED, "ramps": {"lambda_unsup": 40}},
    "wbc_dcr": INDICATORS,
    "wbc_selfcorrecting": {
        **SEPARATE,
        "ancillary_features": [4, 8],
        "ramps": {
            "lambda_weak": {"begin": 8, "length": 0},
            "alpha": {"begin": 8, "length": 60, "start": 30},
        },
    },
    "wbc_macromicro": {**SEPARATE, "ramps": {"lambda_guide": 40, "lambda_feed": 40}},
    "wbc_ficklenet": {**SEPARATE, "maps": 2, "ramps": {"lambda_seed": {"begin": 8, "length": 0}}},
}


def write_data(folder: Path) -> None:
    """Five patients with a bright disc in a ring beside a second disc, as ACDC's classes."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE]
    entries = []
    for patient in range(5):
        image = rng.normal(100, 10, (SIZE, SIZE, SLICES))
        label = np.zeros((SIZE, SIZE, SLICES), np.uint8)
        for z in range(SLICES):
            distance = np.hypot(y - rng.uniform(14, 18), x - rng.uniform(14, 18))
            radius = rng.uniform(4, 6)
            label[..., z][np.hypot(y - 16, x - 4) < 3] = 1
            label[..., z][distance < radius + 2] = 2
            label[..., z][distance < radius] = 3
        image += np.choose(label, [0, 60, -40, 80])
        case = f"patient{patient:03d}_frame01"
        for name, array in (("image", image.astype(np.int16)), ("label", label)):
            file = folder / name / f"{case}.nii.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), file)
        entries.append(
            {"image": f"image/{case}.nii.gz", "label": f"label/{case}.nii.gz", "case_id": case}
        )
    content = {
        "classes": ["background", "RV", "myocardium", "LV"],
        "unlabeled": 4,
        "training": entries[:3],
        "validation": entries[3:4],
        "test": entries[4:],
    }
    (folder / "datalist.json").write_text(json.dumps(content))


def write_pictures(folder: Path) -> None:
    """Five color pictures of a bright cell with a dark nucleus."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE]
    entries = []
    for number in range(5):
        distance = np.hypot(y - rng.uniform(14, 18), x - rng.uniform(14, 18))
        label = (distance < rng.uniform(9, 11)).astype(np.uint8) + (distance < 5)
        colors = np.array([[230, 220, 225], [190, 170, 210], [110, 70, 150]])
        image = np.clip(colors[label] + rng.normal(0, 15, (SIZE, SIZE, 3)), 0, 255)
        entry = {"case_id": f"cell{number}"}
        for name, array in (("image", image.astype(np.uint8)), ("label", label)):
            entry[name] = f"{name}/cell{number}.png"
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / entry[name])
        entries.append(entry)
    content = {
        "classes": ["background", "cytoplasm", "nucleus"],
        "unlabeled": 3,
        "training": entries[:3],
        "validation": entries[3:4],
        "test": entries[4:],
    }
    (folder / "datalist.json").write_text(json.dumps(content))


class Run:
    """A training run below a folder, in processes of its own."""

    def __init__(self, bundle: str, data: Path, folder: Path, epochs: int) -> None:
        self.folder, self.epochs = folder, epochs
        self.checkpoint = folder / "eval" / "checkpoint.pt"
        name, _, row = bundle.partition(":")
        root = ROOT / "bundles" / name
        settings = {**SETTINGS, **METHODS[bundle], "max_epochs": epochs}
        settings |= {"dataset_dir": data, "bundle_root": root}
        settings |= {"output_dir": folder / "eval", "ckpt_dir": folder / "models"}
        self.command = [sys.executable, "-m", "monai.bundle", "run", "training"]
        files = [str(root / "configs" / "train.yaml")]
        files += [str(root / "configs" / "rows" / f"{row}.yaml")] if row else []
        self.command += ["--config_file", str(files)]
        for name, value in settings.items():
            self.command += [f"--{name}", str(value)]
        folder.mkdir(parents=True)
        self.log = folder / "log.txt"

    def start(self, resume: bool) -> subprocess.Popen[bytes]:
        """A process that trains; its output is appended to the log."""
        command = [*self.command, "--resume", str(resume)]
        threads = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=threads, cwd=self.folder)

    def watch(self, process: subprocess.Popen[bytes], limit: int | None = None) -> list[float]:
        """Seconds from now to each checkpoint that is written, up to a number or the end."""
        start, times, last = time.monotonic(), list[float](), self._written()
        while process.poll() is None and (limit is None or len(times) < limit):
            time.sleep(0.002)
            now = self._written()
            # Between the two renames of a checkpoint there is no file of this name.
            if now not in (None, last):
                last = now
                times.append(time.monotonic() - start)
        return times

    def _written(self) -> int | None:
        try:
            return self.checkpoint.stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def finish(self, resume: bool) -> list[float]:
        """Run to the end; seconds from the start to each checkpoint."""
        process = self.start(resume)
        times = self.watch(process)
        if process.wait() != 0:
            sys.exit(f"training ended with status {process.returncode}:\n{self._tail()}")
        return times

    def kill(self, resume: bool, checkpoints: int, delay: float) -> dict[str, Any]:
        """Kill the run ``delay`` seconds after it has written so many checkpoints (0: started)."""
        start = time.monotonic()
        process = self.start(resume)
        self.watch(process, checkpoints)
        time.sleep(delay)
        if process.poll() is not None:
            sys.exit(f"training ended by itself with {process.returncode}:\n{self._tail()}")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return {
            "after_checkpoints": checkpoints,
            "delay_s": round(delay, 3),
            "seconds_from_start": round(time.monotonic() - start, 3),
            "epoch_kept": self.epoch(),
            "half_written_files": sorted(
                file.name.split(".pt")[0].lstrip(".") for file in self.folder.rglob(".*.tmp")
            ),
        }

    def _tail(self) -> str:
        return self.log.read_text()[-3000:]

    def state(self, name: str) -> Any:
        """Content of a file of the run."""
        return torch.load(self.folder / "eval" / name, map_location="cpu", weights_only=True)

    def epoch(self) -> int:
        """Epoch of the newest checkpoint, 0 without any."""
        for path in (self.checkpoint, self.checkpoint.with_name("checkpoint_previous.pt")):
            if path.is_file():
                return int(self.state(path.name)["epoch"])
        return 0


def differences(one: Any, other: Any, name: str = "") -> list[str]:
    """Names of the entries of two nested states that are not equal to the bit."""
    if isinstance(one, torch.Tensor):
        same = isinstance(other, torch.Tensor) and torch.equal(one, other)
        return [] if same else [name]
    if isinstance(one, dict):
        if not isinstance(other, dict) or one.keys() != other.keys():
            return [name]
        return [d for key in one for d in differences(one[key], other[key], f"{name}.{key}")]
    if isinstance(one, list | tuple):
        if not isinstance(other, list | tuple) or len(one) != len(other):
            return [name]
        pairs = enumerate(zip(one, other, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{name}.{i}")]
    # A NaN equals itself here: it stands for 'no score yet'.
    return [] if one == other or (one != one and other != other) else [name]


def compare(bundle: str, folder: Path, kills: int, epochs: int, seed: int) -> dict[str, Any]:
    """Train with and without kills below ``folder`` and compare what is left.

    Returns:
        The kills and ``different``, the names of entries that are not equal (none, one hopes).
    """
    data = folder / "data"
    write = write_pictures if bundle.startswith("wbc_") else write_data
    write(data)
    whole, killed = (Run(bundle, data, folder / name, epochs) for name in ("whole", "killed"))
    times = whole.finish(resume=False)
    epoch_seconds = statistics.median(b - a for a, b in itertools.pairwise(times))
    rng = random.Random(seed)
    moments: list[dict[str, Any]] = []
    for i in range(kills):
        # Too near the end, the run would be over before it could be killed.
        near_end = killed.epoch() > epochs - 4
        checkpoints = 0 if near_end else rng.choice((0, 1, 1, 2))
        # Start-up takes most of a short run's time: let some kills fall into it.
        delay = rng.uniform(0, epoch_seconds if checkpoints else times[0])
        moments.append(killed.kill(i > 0, checkpoints, delay))
        print(f"{bundle}, kill {i + 1}: {moments[-1]}", flush=True)
    killed.finish(resume=True)
    return {
        "seconds_to_first_checkpoint": round(times[0], 2),
        "seconds_between_checkpoints": round(epoch_seconds, 3),
        "kills": moments,
        "different": [
            f"{name}{entry}"
            for name in ("model_last.pt", "checkpoint.pt")
            for entry in differences(whole.state(name), killed.state(name))
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", action="append", choices=list(METHODS), help="default: all")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--output", type=Path, default=ROOT / "benchmarks" / "results" / "resume_after_kill.json"
    )
    arguments = parser.parse_args()
    for bundle in arguments.bundle or METHODS:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = compare(bundle, Path(folder), arguments.kills, arguments.epochs, arguments.seed)
        different = found.pop("different")
        if different:
            sys.exit(f"{bundle}: not equal to the uninterrupted run: {', '.join(different)}")
        entry = {
            "equal": True,
            "number_of_kills": len(found["kills"]),
            "epochs": arguments.epochs,
            "seed": arguments.seed,
            **found,
            "seconds_in_all": round(time.monotonic() - start, 1),
            "settings": {**SETTINGS, **METHODS[bundle]},
            **environment(),
        }
        write(arguments.output, bundle, entry)
        print(f"{bundle}: equal to the bit after {len(found['kills'])} kills")


def write(path: Path, bundle: str, entry: dict[str, Any]) -> None:
    """Put a bundle's entry into the result file."""
    result: dict[str, Any] = {
        "benchmark": "weights after SIGKILL and resume against an uninterrupted run",
        "command": "python benchmarks/resume_after_kill.py",
        "bundles": {},
    }
    if path.is_file():
        result["bundles"] = json.loads(path.read_text(encoding="utf-8"))["bundles"]
    result["bundles"][bundle] = entry
    write_bytes_atomic(path, strict_json(result).encode())


if __name__ == "__main__":
    main()
