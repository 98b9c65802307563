"""What is tried: files of every format, label maps, datalists and descriptions of data sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
from PIL import Image

from fuzz.mutations import change_bytes, change_json, repack
from mixseg.data import Datalist, FolderOptions, inspect_folder
from mixseg.data.checks import validate_datalist
from mixseg.data.folder.label_maps import read_label_map
from mixseg.files.reading import UnreadableError, count_values, open_volume

__all__ = ["TARGETS", "Outcome", "Target"]

AFFINE = np.diag([-0.8, -0.8, 1.25, 1.0])


@dataclass(frozen=True)
class Outcome:
    """What became of an input.

    Attributes:
        accepted: whether it was read.
        decoded: bytes of the image as float32; 0 where it was refused.
        wrong: an accepted image of a format with checksums that is not what was written.
    """

    accepted: bool
    decoded: int = 0
    wrong: bool = False


@dataclass(frozen=True)
class Target:
    """A way in.

    Attributes:
        name: of the target.
        run: makes input number ``n`` in an empty folder, and tries it; raises what the product
            raises, where that is not a refusal in words.
    """

    name: str
    run: Callable[[np.random.Generator, Path, Path], Outcome]


def _scan() -> np.ndarray:
    x = np.add.outer(np.add.outer(np.arange(14), np.arange(12)), np.arange(9))
    return (x * 7 % 251).astype(np.int16)


def _label() -> np.ndarray:
    label = np.zeros((14, 12, 9), np.uint8)
    label[3:9, 3:8, 2:6], label[5:8, 4:7, 3:5] = 1, 2
    return label


#: Formats whose files are protected by checksums from the byte that the function names on.
_PROTECTED: dict[str, Callable[[bytes], int]] = {
    ".nii.gz": lambda content: 0,
    ".png": lambda content: 0,
    ".nrrd": lambda content: content.find(b"\n\n") + 2,
    ".mha": lambda content: content.find(b"LOCAL\n") + 6,
}


def make_samples(folder: Path) -> None:
    """One sound file of each kind, from which the others are made."""
    folder.mkdir(parents=True, exist_ok=True)
    scan, label = _scan(), _label()
    for name in ("scan.nii", "scan.nii.gz"):
        nib.save(nib.Nifti1Image(scan, AFFINE), folder / name)
    nib.save(nib.Nifti2Image(scan.astype(np.float32), AFFINE), folder / "two.nii.gz")
    nib.save(nib.Nifti1Image(label, AFFINE), folder / "label.nii.gz")
    for name, packed in (("raw.nrrd", False), ("packed.nrrd", True), ("raw.mha", False)):
        _write_itk(folder / name, scan, packed)
    _write_itk(folder / "packed.mha", scan, True)
    _write_itk(folder / "label.nrrd", label, True)
    head, body = (folder / "label.nrrd").read_bytes().split(b"\n\n", 1)
    for number, name in enumerate(("liver", "tumor")):
        key = f"\nSegment{number}_".encode()
        head += key + b"ID:=Segment_%d" % number + key + b"Name:=" + name.encode()
        head += key + b"LabelValue:=%d" % (number + 1) + key + b"Layer:=0"
    (folder / "label.seg.nrrd").write_bytes(head + b"\n\n" + body)
    (folder / "label.nrrd").unlink()
    gray = (scan[..., 4] * 100).astype(np.uint16).T.copy()
    Image.fromarray(gray).save(folder / "deep.png")
    colors = np.stack([scan[..., z].T.astype(np.uint8) for z in range(4)], axis=-1)
    for name in ("colors.png", "colors.tif", "colors.bmp"):
        Image.fromarray(colors[..., : 3 if name.endswith("bmp") else 4].copy()).save(folder / name)
    Image.fromarray(colors[..., :3].copy()).convert("P").save(folder / "palette.png")
    Image.fromarray(colors[..., :3].copy()).save(folder / "colors.jpg")
    Image.fromarray(label[..., 4].T.copy()).save(folder / "label.png")
    image = itk.image_from_array(scan[..., 4].T.copy())
    itk.imwrite(image, str(folder / "slice.dcm"))


def _write_itk(path: Path, values: np.ndarray, packed: bool) -> None:
    image = itk.image_from_array(np.ascontiguousarray(values.T))
    image.SetSpacing((0.8, 0.8, 1.25))
    itk.imwrite(image, str(path), compression=packed)


def _sample(rng: np.random.Generator, samples: Path, part: str) -> Path:
    names = sorted(p for p in samples.iterdir() if part in p.name)
    return names[int(rng.integers(len(names)))]


def _broken(rng: np.random.Generator, sample: Path, path: Path) -> bool:
    """Write a changed copy; whether checksums protect all that was changed."""
    content = sample.read_bytes()
    suffix = next((s for s in _PROTECTED if sample.name.endswith(s)), "")
    if suffix == ".nii.gz" and rng.random() < 0.5:
        path.write_bytes(repack(rng, content))
        return False
    packed = suffix in (".nii.gz", ".png") or sample.name.startswith(("packed", "label.seg"))
    if packed and rng.random() < 0.5:
        start = _PROTECTED[suffix](content)
        path.write_bytes(change_bytes(rng, content, start))
        return True
    path.write_bytes(change_bytes(rng, content))
    return suffix in (".nii.gz", ".png")


def _same(data: np.ndarray, sample: Path) -> bool:
    original = open_volume(sample).data
    return original is not None and data.shape == original.shape and bool((data == original).all())


def try_image(rng: np.random.Generator, samples: Path, folder: Path) -> Outcome:
    """Open a changed image, its header first."""
    sample = _sample(rng, samples, "")
    path = folder / sample.name
    protected = _broken(rng, sample, path)
    try:
        open_volume(path, voxels=False)
        volume = open_volume(path)
    except UnreadableError:
        return Outcome(False)
    assert volume.data is not None
    wrong = protected and not _same(volume.data, sample)
    return Outcome(True, 4 * volume.data.size, wrong)


def try_label(rng: np.random.Generator, samples: Path, folder: Path) -> Outcome:
    """Read a changed label map, and count its values."""
    sample = _sample(rng, samples, "label")
    path = folder / sample.name
    _broken(rng, sample, path)
    threshold = None if rng.random() < 0.7 else float(rng.choice([0.5, 128, -1, 1e30]))
    try:
        label = read_label_map(path, None, threshold)
    except UnreadableError:
        return Outcome(False)
    assert label.volume.data is not None
    count_values(label.volume.data)
    return Outcome(True, 4 * label.volume.data.size)


def _write_folder(folder: Path) -> None:
    for i in range(4):
        for name, values in (("images", _scan() + i), ("labels", _label())):
            (folder / name).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(values, AFFINE), folder / name / f"c{i}.nii")


def try_datalist(rng: np.random.Generator, samples: Path, folder: Path) -> Outcome:
    """Load a changed datalist and check the files that it names."""
    entries: list[dict[str, Any]] = [
        {
            "image": str(samples / "scan.nii"),
            "label": str(samples / "label.nii.gz"),
            "supervision": "full",
            "case_id": f"c{i}",
            "patient_id": f"p{i}",
            "annotated_classes": [1, 2],
        }
        for i in range(3)
    ]
    content = {
        "classes": ["background", "liver", "tumor"],
        "unlabeled": 3,
        "training": entries[:2],
        "validation": entries[2:],
    }
    (folder / "datalist.json").write_bytes(change_json(rng, content))
    try:
        validate_datalist(Datalist.load(folder / "datalist.json"))
    except ValueError:
        return Outcome(False)
    return Outcome(True)


def try_description(rng: np.random.Generator, samples: Path, folder: Path) -> Outcome:
    """Inspect a folder with a changed ``dataset.json`` or split file."""
    _write_folder(folder)
    described: dict[str, Any] = {
        "labels": {"background": 0, "liver": 1, "tumor": 2, "ignore": 3},
        "channel_names": {"0": "CT"},
        "training": [
            {"image": f"./images/c{i}.nii", "label": f"./labels/c{i}.nii"} for i in range(4)
        ],
        "test": ["./images/c9.nii"],
    }
    options = FolderOptions()
    if rng.random() < 0.3:
        split = {"train": ["c0", "c1"], "val": ["c2"], "test": ["c3"]}
        (folder / "split.json").write_bytes(change_json(rng, split))
        options = FolderOptions(split=str(folder / "split.json"))
    else:
        (folder / "dataset.json").write_bytes(change_json(rng, described))
    try:
        inspect_folder(folder, options)
    except ValueError:
        return Outcome(False)
    return Outcome(True)


TARGETS = (
    Target("images", try_image),
    Target("labels", try_label),
    Target("datalists", try_datalist),
    Target("descriptions", try_description),
)
