"""The datalist of what annotators submitted, in the project's own convention."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from mixseg.apps.label.brush import BrushLabel
from mixseg.apps.label.studies import StoredScan, StoreError
from mixseg.data.datalist import DATALIST_NAME, Datalist, Entry, Supervision
from mixseg.files.atomic import write_text_atomic
from mixseg.files.reading import UnreadableError, open_volume
from mixseg.transforms.labels import MaskUnannotatedClasses, label_kind

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submitted:
    """Input of a training.

    Attributes:
        full: ids of training cases with complete masks.
        partial: ids of training cases with scribbles or partial masks.
        none: ids of scans without a label.
        validation: ids of complete cases that are kept for validation.
    """

    datalist: Path
    full: tuple[str, ...]
    partial: tuple[str, ...]
    none: tuple[str, ...]
    validation: tuple[str, ...]


def convert_label(scan: StoredScan, classes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """A submitted label in the project's convention.

    Returns:
        uint8 (H, W, D), values 0…C (C: unlabeled), and its affine, 4×4 in mm.

    Raises:
        StoreError: names the file and what is wrong with it.
    """
    path = scan.label
    if path is None:
        raise StoreError(f"{scan.case_id} has no label")
    if path.name.endswith(".seg.nrrd"):
        raise StoreError(
            f"'{path}' is a segmentation of overlapping segments: in 3D Slicer, choose .nii.gz or "
            ".nrrd as file extension in the settings of MONAI Label, and submit again"
        )
    try:
        volume = open_volume(path)
    except UnreadableError as error:
        raise StoreError(f"'{path}' cannot be read ({error}): submit it again") from error
    try:
        label = BrushLabel(classes)(volume.data, scan.segments, scan.supervision)
        if scan.annotated_classes is not None:
            names = {name.lower(): value for value, name in enumerate(classes)}
            if foreign := [n for n in scan.annotated_classes if not names.get(n.lower())]:
                raise ValueError(f"annotated_classes {foreign} are not among {list(classes[1:])}")
            chosen = [names[name.lower()] for name in scan.annotated_classes]
            label = MaskUnannotatedClasses(len(classes))(label, chosen)
    except ValueError as error:
        raise StoreError(f"'{path}': {error}") from error
    return np.asarray(label), volume.affine


def validation_patients(patients: Sequence[str], val_split: float) -> set[str]:
    """Which patients validate: a share of them, rounded down, and always the same ones.

    Patients are ordered by a hash of their names, so that a further one hardly moves the others;
    one at least is left for training.

    Raises:
        ValueError: the share is out of range.
    """
    if not 0 <= val_split < 1:
        raise ValueError(
            f"val_split is {val_split}; it is a share of the complete cases, 0 up to below 1"
        )
    names = sorted(set(patients), key=lambda name: hashlib.sha256(name.encode()).digest())
    return set(names[: min(int(val_split * len(names)), len(names) - 1)])


def write_submitted(
    scans: Sequence[StoredScan],
    classes: Sequence[str],
    folder: Path,
    *,
    val_split: float = 0.2,
    patient_pattern: str = "",
) -> Submitted:
    """Write converted labels and their datalist below ``folder``.

    Scans without a label are listed with supervision ``none``: methods that learn from images
    alone find them there, the others leave them out. No label file of theirs is looked for.

    Args:
        val_split: share of the completely labeled patients that validate; scribbled ones never do.
        patient_pattern: regular expression whose first group, found in an id, is the patient; ids
            without a match are patients of their own.

    Raises:
        StoreError: no scan has a label, or one cannot be used.
        ValueError: ``val_split`` is out of range.
    """
    labeled = [scan for scan in scans if scan.label is not None]
    if not labeled:
        raise StoreError("no label has been submitted yet: annotate a scan, then train")
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    kinds: dict[str, Supervision] = {}
    files: dict[str, str] = {}
    faults = []
    for scan in labeled:
        try:
            label, affine = convert_label(scan, classes)
        except StoreError as error:
            faults.append(str(error))
            continue
        path = folder / "labels" / f"{scan.case_id}.nii.gz"
        # Written under its final name: nothing reads it before the datalist names it.
        nib.save(nib.Nifti1Image(label, affine), path)
        kinds[scan.case_id] = "full" if label_kind(label, len(classes)) == "full" else "partial"
        files[scan.case_id] = str(path.resolve())
    if faults:
        raise StoreError("\n".join(faults))
    patients = {scan.case_id: _patient(scan.case_id, patient_pattern) for scan in scans}
    complete = [p for c, p in patients.items() if kinds.get(c) == "full"]
    incomplete = {patients[c] for c, kind in kinds.items() if kind != "full"}
    validating = validation_patients([p for p in complete if p not in incomplete], val_split)

    datalist = Datalist(classes=list(classes), unlabeled=len(classes))
    for scan in scans:
        kind: Supervision = kinds.get(scan.case_id, "none")
        # A frame of a patient who validates must not train, not even without its label.
        held = patients[scan.case_id] in validating
        if held and kind != "full":
            continue
        entry = Entry(
            image=str(scan.image.resolve()),
            label=files.get(scan.case_id),
            supervision=kind,
            case_id=scan.case_id,
            # In training each case counts by itself: one frame of a patient may be complete and
            # another scribbled.
            patient_id=patients[scan.case_id] if held else scan.case_id,
        )
        (datalist.validation if held else datalist.training).append(entry)
    path = folder / DATALIST_NAME
    datalist.save(path)
    ids = {
        kind: tuple(e.case_id for e in datalist.training if e.supervision == kind)
        for kind in ("full", "partial", "none")
    }
    validation = tuple(e.case_id for e in datalist.validation)
    result = Submitted(path, ids["full"], ids["partial"], ids["none"], validation)
    write_text_atomic(folder / "cases.txt", _summary(result))
    logger.info(_summary(result))
    return result


def _patient(case_id: str, pattern: str) -> str:
    found = re.search(pattern, case_id) if pattern else None
    return found.group(1) if found else case_id


def _summary(submitted: Submitted) -> str:
    return (
        f"training: {len(submitted.full)} complete, {len(submitted.partial)} scribbled or partial, "
        f"{len(submitted.none)} without a label; validation: {len(submitted.validation)} complete"
    )
