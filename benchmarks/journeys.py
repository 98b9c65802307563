"""Walk the journeys of a user from end to end, and record times and scores.

    python benchmarks/journeys.py --data DATA --work FOLDER
    python benchmarks/journeys.py --data DATA --work FOLDER --only volumes

DATA holds `acdc/`, `la/` and `wbc/`, each with `image/`, `label/` and `split.json`; `acdc/` has
`scribble/`, too. Each journey copies what it needs under names of a user's own, and then types the
commands that the documentation gives. They run in an environment of their own, with mixseg from a
wheel of this checkout, outside the repository. FOLDER keeps everything: a journey that was
interrupted resumes at the command where it stopped, and one that ended is not walked again.

`--borrow` takes what mixseg depends on from the environment that runs this, which saves its
download; mixseg itself still comes from the wheel.

Writes benchmarks/results/journeys.json after each journey.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.morphology import skeletonize

from mixseg.files.atomic import strict_json, write_bytes_atomic
from mixseg.files.provenance import environment

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "journeys.json"
UNLABELED = 255
#: Iterations of a training, at most.
STEPS = 600


class Walk:
    """A journey's folder, the commands that were run there, and what each took."""

    def __init__(self, folder: Path, environment_folder: Path, threads: int) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._programs = environment_folder / "bin"
        self._journal = folder / "journal.json"
        self.steps: dict[str, dict[str, Any]] = {}
        if self._journal.is_file():
            self.steps = json.loads(self._journal.read_text(encoding="utf-8"))
        hidden = ("PYTHONPATH", "VIRTUAL_ENV", "MIXSEG_DATA")
        self._variables = {k: v for k, v in os.environ.items() if k not in hidden}
        self._variables["OMP_NUM_THREADS"] = str(threads)

    def once(self, name: str, make: Callable[[Path], None]) -> Path:
        """A folder that is made whole or not at all."""
        target = self.folder / name
        if not target.exists():
            unfinished = self.folder / f"{name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(target)
        return target

    def type(self, command: str, resume: str = "") -> str:
        """Run a command where that has not been done; seconds of interrupted attempts add up.

        Args:
            command: as it is typed.
            resume: what is added to it where it was interrupted.

        Returns:
            What it printed, its end.

        Raises:
            RuntimeError: it failed.
        """
        step = self.steps.setdefault(command, {"command": command, "seconds": 0.0, "attempts": 0})
        if "output" in step:
            return str(step["output"])
        print(f"$ {command}", flush=True)
        words = shlex.split(f"{command} {resume}" if step["attempts"] else command)
        words[0] = str(self._programs / words[0])
        log = self.folder / "output.txt"
        started = time.monotonic()
        with log.open("wb") as stream:
            process = subprocess.Popen(
                words, cwd=self.folder, env=self._variables, stdout=stream, stderr=stream
            )
            try:
                _, ended, usage = os.wait4(process.pid, 0)
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)
                _, ended, usage = os.wait4(process.pid, 0)
                raise
            finally:
                step["attempts"] += 1
                step["seconds"] = round(step["seconds"] + time.monotonic() - started, 1)
                self._save()
        step["processor_seconds"] = round(usage.ru_utime + usage.ru_stime, 1)
        step["peak_memory_mb"] = round(usage.ru_maxrss * 1024 / 1e6)
        output = log.read_text(encoding="utf-8", errors="replace")
        if os.waitstatus_to_exitcode(ended):
            raise RuntimeError(f"'{command}' in {self.folder} failed:\n{output[-4000:]}")
        step["output"] = output[-4000:]
        self._save()
        return str(step["output"])

    def _save(self) -> None:
        write_bytes_atomic(self._journal, strict_json(self.steps).encode())

    def report(self) -> dict[str, Any]:
        """Commands in their order, and what they took together."""
        kept = ("command", "seconds", "processor_seconds", "peak_memory_mb", "attempts")
        steps = [{name: step.get(name) for name in kept} for step in self.steps.values()]
        return {
            "minutes": round(sum(step["seconds"] for step in steps) / 60, 1),
            "processor_minutes": round(sum(s["processor_seconds"] or 0 for s in steps) / 60, 1),
            "peak_memory_mb": max(step["peak_memory_mb"] or 0 for step in steps),
            "commands": steps,
        }


# --- what a user has


def strokes(mask: np.ndarray, every: int) -> np.ndarray:
    """Scribbles as one draws them in some slices: the middle line of each class, and a ring around.

    Args:
        mask: (x, y, z), 0 is background.
        every: distance of the slices that are drawn in.
    """
    drawn = np.full(mask.shape, UNLABELED, np.uint8)
    for z in range(every // 2, mask.shape[2], every):
        plane, line = mask[..., z], drawn[..., z]
        for value in np.unique(plane[plane > 0]):
            inside = plane == value
            line[ndimage.binary_dilation(skeletonize(inside)) & inside] = value
        if plane.any():
            distance = ndimage.distance_transform_edt(plane == 0)
            line[(distance >= 8) & (distance < 10)] = 0
        else:
            x, y = plane.shape
            line[x // 4 : 3 * x // 4, y // 2 - 1 : y // 2 + 1] = 0
    return drawn


def cases(folder: Path, split: str) -> list[str]:
    """Names of a split, in its order."""
    content = json.loads((folder / "split.json").read_text(encoding="utf-8"))
    return [str(name) for name in content[split]]


def save_map(values: np.ndarray, like: Path, path: Path) -> None:
    """A label map with another image's geometry."""
    image = nib.load(like)
    nib.save(nib.Nifti1Image(values.astype(np.uint8), image.affine, image.header), path)


def load_map(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj).astype(np.uint8)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / max(one.sum() + other.sum(), 1))


def scores_of(folder: Path) -> dict[str, Any]:
    """Dice of each class, and the number of cases, of an evaluation or a cross-validation."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    (branch,) = summary["scores"].values()
    per_class = {name: round(one["dice"]["mean"], 4) for name, one in branch.items()}
    mean = round(float(np.mean(list(per_class.values()))), 4)
    return {"dice": per_class, "mean_dice": mean, "cases": next(iter(branch.values()))["dice"]["n"]}


# --- the journeys


def volumes(walk: Walk, data: Path) -> dict[str, Any]:
    """Own 3D data: 3 scans with full masks, 10 with scribbles, 7 without a label."""
    source, names = data / "la", cases(data / "la", "train")[:20]

    def lay_out(folder: Path) -> None:
        (folder / "scans").mkdir()
        (folder / "masks").mkdir()
        for number, name in enumerate(names, 1):
            file = f"scan_{number:02}.nii.gz"
            shutil.copyfile(source / "image" / f"{name}.nii.gz", folder / "scans" / file)
            label = source / "label" / f"{name}.nii.gz"
            if number <= 13:
                mask = load_map(label)
                drawn = mask if number <= 3 else strokes(mask, every=4)
                save_map(drawn, label, folder / "masks" / file)

    walk.once("data", lay_out)
    walk.type(
        "mixseg prepare folder data/scans data/masks --classes background,atrium "
        f"--unlabeled {UNLABELED} --allow-unlabeled"
    )
    walk.type("mixseg new atrium --datalist data/datalist.json --device cpu")
    walk.type(f"mixseg train atrium --output folds --folds 3 {steps()}")
    runs = " ".join(f"folds/fold_{fold}" for fold in (1, 2, 3))
    walk.type(f"mixseg predict {runs} -i data/scans/scan_14.nii.gz -o masks")
    mask = load_map(walk.folder / "masks" / "scan_14_seg.nii.gz")
    truth = load_map(source / "label" / f"{names[13]}.nii.gz")
    return {
        "cases": "3 full masks, 10 scribbled, 7 without a label",
        "cross_validation": scores_of(walk.folder / "folds"),
        "target": {"mean_dice": 0.75},
        "unlabeled_scan_dice": round(dice(mask == 1, truth == 1), 4),
    }


def pictures(walk: Walk, data: Path) -> dict[str, Any]:
    """Own RGB pictures of three classes: 12 with masks and 60 with scribbles train."""
    source = data / "wbc"

    def lay_out(folder: Path) -> None:
        (folder / "pictures").mkdir()
        (folder / "masks").mkdir()
        split = {name: cases(source, name) for name in ("train", "val", "test")}
        split["train"] = split["train"][:72]
        for name in itertools.chain(*split.values()):
            shutil.copyfile(source / "image" / f"{name}.png", folder / "pictures" / f"{name}.png")
            mask = np.asarray(Image.open(source / "label" / f"{name}.png"))
            if name in split["train"][12:]:
                mask = strokes(mask[..., None], every=1)[..., 0]
            Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
        (folder / "split.json").write_text(json.dumps(split), encoding="utf-8")

    walk.once("data", lay_out)
    walk.type(
        "mixseg prepare folder data/pictures data/masks --classes background,cytoplasm,nucleus "
        f"--unlabeled {UNLABELED} --split data/split.json"
    )
    walk.type("mixseg new cells --datalist data/datalist.json --device cpu")
    walk.type(f"mixseg train cells --output run {steps()}", "--resume")
    walk.type("mixseg evaluate run")
    return {
        "cases": "12 full masks, 60 scribbled",
        "test": scores_of(walk.folder / "run" / "test"),
        "target": {"mean_dice": 0.85},
    }


def cardiac(walk: Walk, data: Path) -> dict[str, Any]:
    """Three classes of the heart: masks of 15 patients, hand-drawn scribbles of 15 others."""
    source, patients = data / "acdc", cases(data / "acdc", "train")[:30]

    def lay_out(folder: Path) -> None:
        for name in ("scans", "masks", "drawn"):
            (folder / name).mkdir()
        for number, patient in enumerate(patients):
            for path in sorted((source / "image").glob(f"{patient}_*")):
                shutil.copyfile(path, folder / "scans" / path.name)
                kind, place = ("label", "masks") if number < 15 else ("scribble", "drawn")
                shutil.copyfile(source / kind / path.name, folder / place / path.name)

    walk.once("data", lay_out)
    walk.type(
        "mixseg prepare folder data/scans data/masks --scribbles data/drawn --unlabeled 4 "
        r"--classes 'background,RV,myocardium,LV' --patient-pattern '(patient\d+)'"
    )
    walk.type("mixseg new heart --datalist data/datalist.json --device cpu")
    walk.type(f"mixseg train heart --output run {steps()}", "--resume")
    walk.type("mixseg evaluate run")
    return {
        "cases": "15 patients with full masks (10 of them train), 15 with scribbles drawn by hand",
        "test": scores_of(walk.folder / "run" / "test"),
    }


def fine_tuning(walk: Walk, data: Path) -> dict[str, Any]:
    """A class that no shipped weights know, from shipped weights and from random ones."""
    source = data / "acdc"
    # None of the training cases of the shipped weights.
    patients = [*cases(source, "val"), *cases(source, "test")]

    def lay_out(folder: Path) -> None:
        (folder / "scans").mkdir()
        (folder / "masks").mkdir()
        for patient in patients:
            for path in sorted((source / "image").glob(f"{patient}_*")):
                shutil.copyfile(path, folder / "scans" / path.name)
                label = source / "label" / path.name
                save_map(load_map(label) >= 2, label, folder / "masks" / path.name)

    walk.once("data", lay_out)
    walk.type(
        "mixseg prepare folder data/scans data/masks --classes background,ventricle "
        r"--patient-pattern '(patient\d+)'"
    )
    walk.type("mixseg new ventricle --datalist data/datalist.json --num-full 3 --device cpu")
    result: dict[str, Any] = {"cases": "3 patients with full masks train, 4 are tested"}
    for name, extra in (("tuned", " --init-weights acdc_mixed"), ("from_random", "")):
        walk.type(f"mixseg train ventricle --output {name} {steps(100)}{extra}", "--resume")
        walk.type(f"mixseg evaluate {name}")
        result[name] = scores_of(walk.folder / name / "test")
    result["steps"] = 100
    return result


def dicom(walk: Walk, data: Path) -> dict[str, Any]:
    """A DICOM series in: the mask of the same scan in NIfTI."""
    name = cases(data / "la", "test")[0]

    def lay_out(folder: Path) -> None:
        shutil.copyfile(data / "la" / "image" / f"{name}.nii.gz", folder / "scan.nii.gz")
        write_series(folder / "scan.nii.gz", folder / "series")

    walk.once("data", lay_out)
    walk.type("mixseg predict la_mixed -i data/series -o from_dicom")
    walk.type("mixseg predict la_mixed -i data/scan.nii.gz -o from_nifti")
    masks = {}
    for kind in ("dicom", "nifti"):
        (path,) = (walk.folder / f"from_{kind}").glob("*.nii.gz")
        image = nib.as_closest_canonical(nib.load(path))
        masks[kind] = np.asarray(image.dataobj) == 1
    truth = nib.as_closest_canonical(nib.load(data / "la" / "label" / f"{name}.nii.gz"))
    return {
        "cases": "1 scan of the test split",
        "dice": round(dice(masks["dicom"], np.asarray(truth.dataobj) == 1), 4),
        "different_voxels": int((masks["dicom"] != masks["nifti"]).sum()),
        "voxels": int(masks["nifti"].size),
    }


def python(walk: Walk, data: Path) -> dict[str, Any]:
    """The Python API: files and an array are segmented, a bundle is trained and scored."""
    source = data / "acdc"
    first, *rest = cases(source, "test")[:4]

    def lay_out(folder: Path) -> None:
        for name in ("image", "label"):
            (folder / name).mkdir()
            for patient in (first, *rest):
                for path in sorted((source / name).glob(f"{patient}_*")):
                    shutil.copyfile(path, folder / name / path.name)
        (folder / "walk.py").write_text(_PROGRAM, encoding="utf-8")

    walk.once("data", lay_out)
    said = json.loads(walk.type("python data/walk.py").splitlines()[-1])
    found = [
        dice(load_map(walk.folder / "masks" / mask) == 3, load_map(source / "label" / file) == 3)
        for file, mask in said["masks"].items()
    ]
    return {
        "cases": f"{len(found)} volumes of the test split",
        "LV_dice": round(float(np.mean(found)), 4),
        "array_equals_file": said["array_equals_file"],
        "trained_and_scored": said["scored"],
    }


_PROGRAM = '''\
"""Ten lines of docs/python.md, one after the other."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

import mixseg

if __name__ == "__main__":
    bundle = mixseg.Bundle("acdc_mixed")
    results = bundle.predict("data/image", output="masks")
    image = nib.load(results[0].image)
    again = bundle.predict(image.get_fdata(dtype="float32"), affine=image.affine)
    small = {"features": [8, 16, 32, 64, 64], "spatial_size": [64, 64], "num_full": 2}
    Path("data/datalist.json").write_text(
        json.dumps(
            {
                "classes": ["background", "RV", "myocardium", "LV"],
                "unlabeled": 4,
                **{
                    split: [
                        {
                            "image": f"image/{r.image.name}",
                            "label": f"label/{r.image.name}",
                            "supervision": "full",
                            "case_id": r.case_id,
                            "patient_id": r.case_id.partition("_")[0],
                        }
                        for r in chosen
                    ]
                    for split, chosen in (
                        ("training", results[:4]),
                        ("validation", results[4:6]),
                        ("test", results[6:]),
                    )
                },
            }
        )
    )
    run = bundle.train(
        "data", output="run", num_partial=0, batch_partial=0, max_epochs=1, epoch_length=10, **small
    )
    summary = run.evaluate()
    print(
        json.dumps(
            {
                "masks": {r.image.name: r.path.name for r in results},
                "array_equals_file": bool((again.mask == results[0].mask).all()),
                "scored": bool(summary),
            }
        )
    )
'''


def write_series(scan: Path, folder: Path) -> None:
    """The slices of a volume as DICOM files, in the volume's geometry."""
    import itk

    folder.mkdir()
    volume = itk.imread(str(scan), itk.SS)
    spacing, origin = (np.array(list(part)) for part in (volume.GetSpacing(), volume.GetOrigin()))
    axes = itk.array_from_matrix(volume.GetDirection())
    uid = "1.2.826.0.1.3680043.10.543.1"
    for z, plane in enumerate(itk.array_view_from_image(volume)):  # (z, y, x)
        image = itk.image_from_array(np.ascontiguousarray(plane))
        image.SetSpacing(spacing[:2].tolist())
        place = origin + axes[:, 2] * z * spacing[2]
        tags = image.GetMetaDataDictionary()
        for tag, value in {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.4",
            "0008|0018": f"{uid}.9.{z + 1}",
            "0008|0060": "MR",
            "0018|0050": f"{spacing[2]:g}",
            "0020|000d": f"{uid}.1",
            "0020|000e": uid,
            "0020|0013": str(z + 1),
            "0020|0032": "\\".join(f"{v:g}" for v in place),
            "0020|0037": "\\".join(f"{v:g}" for v in axes[:, :2].T.ravel()),
            "0020|0052": f"{uid}.2",
        }.items():
            tags[tag] = value
        codec = itk.GDCMImageIO.New()
        codec.KeepOriginalUIDOn()
        itk.ImageFileWriter.New(image, FileName=str(folder / f"{z:03}.dcm"), ImageIO=codec).Update()


def steps(number: int = STEPS) -> str:
    return f"--max-epochs {number // 100} --epoch-length 100"


JOURNEYS: dict[str, Callable[[Walk, Path], dict[str, Any]]] = {
    one.__name__: one for one in (volumes, pictures, cardiac, fine_tuning, dicom, python)
}


# --- the environment


def make_environment(work: Path, borrow: bool) -> Path:
    """An environment with mixseg from a wheel of this checkout's last commit."""
    folder, wheels = work / "environment", work / "wheels"
    if (folder / "bin" / "mixseg").is_file():
        return folder
    with_sources = work / "sources"
    shutil.rmtree(with_sources, ignore_errors=True)
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(with_sources)], check=True)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(with_sources)], check=True
    )
    (wheel,) = wheels.glob("mixseg-*.whl")
    venv.create(folder, clear=True, with_pip=True)
    install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    if borrow:
        # A path alone: an editable mixseg of this environment does not come with it.
        packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
        (packages / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        install.append("--no-deps")
    subprocess.run([*install, str(wheel)], check=True)
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with acdc/, la/ and wbc/")
    parser.add_argument("--work", type=Path, required=True, help="folder that keeps everything")
    parser.add_argument("--only", nargs="+", choices=JOURNEYS, default=list(JOURNEYS))
    parser.add_argument("--borrow", action="store_true", help="do not install dependencies")
    parser.add_argument("--threads", type=int, default=1, help="processor threads of a command")
    given = parser.parse_args(arguments)
    work, data = given.work.resolve(), given.data.resolve()
    if work.is_relative_to(ROOT):
        parser.error("--work lies outside the repository")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = make_environment(work, given.borrow)
    for name in given.only:
        before = {**environment(), "load_before": round(os.getloadavg()[0], 1)}
        walk = Walk(work / name, folder, given.threads)
        result = {**JOURNEYS[name](walk, data), **walk.report(), "threads": given.threads, **before}
        content = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
        content |= {"benchmark": "journeys"}
        content.setdefault("journeys", {})[name] = result
        write_bytes_atomic(RESULT, strict_json(content).encode())
        print(f"{name}: {result['minutes']} minutes; wrote {RESULT}", flush=True)


if __name__ == "__main__":
    main()
