"""The embedded data set: synthetic short-axis cardiac stacks in ACDC's official layout."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from tqdm import tqdm

from mixseg.data.collections.acdc import ACDC_CLASSES
from mixseg.data.datalist import DATALIST_NAME, Datalist, Entry
from mixseg.data.phantom.anatomy import GROUPS, draw_patient
from mixseg.data.phantom.rendering import SPACING, render_frame

#: Frames that are written: number in the cine series, contraction (0 end-diastole, 1 end-systole).
FRAMES = ((1, 0.0), (10, 1.0))
_NUMBER_OF_FRAMES = 25


def phantom_patient(
    index: int, seed: int = 0
) -> tuple[str, Iterator[tuple[int, np.ndarray, np.ndarray]]]:
    """One patient, independent of how many others are made.

    Args:
        index: number of the patient, from 1; the groups are dealt in turn.
        seed: seed of the data set.

    Returns:
        The group, and an iterator over the frames: number, image (H, W, D) uint16, label
        (H, W, D) uint8 with 0 background, 1 RV, 2 myocardium, 3 LV.
    """
    rng = np.random.default_rng([seed, index])
    group = list(GROUPS)[(index - 1) % len(GROUPS)]
    patient = draw_patient(rng, group)
    frames = ((number, *render_frame(patient, phase, rng)) for number, phase in FRAMES)
    return group, frames


def split_sizes(
    num_patients: int, num_validation: int | None = None, num_test: int | None = None
) -> tuple[int, int, int]:
    """Patients for training, validation and test.

    Args:
        num_patients: in all.
        num_validation: of the validation split; None for an eighth (at least 1).
        num_test: of the test split; None for a quarter (at least 1).
    """
    validation = max(1, round(num_patients / 8)) if num_validation is None else num_validation
    test = max(1, round(num_patients / 4)) if num_test is None else num_test
    return num_patients - validation - test, validation, test


def write_phantom(
    output_dir: str | os.PathLike[str],
    num_patients: int = 32,
    seed: int = 0,
    num_validation: int | None = None,
    num_test: int | None = None,
    progress: bool = False,
) -> Datalist:
    """Generate the synthetic data set and its datalist.

    Files are those of the official ACDC download: ``patientXXX/patientXXX_frameYY.nii.gz``,
    ``…_gt.nii.gz`` and ``Info.cfg``, here with voxel size 1.5 × 1.5 × 8 mm, and ``datalist.json``.
    The same arguments give the same voxels. Existing files of the same names are overwritten.

    Args:
        output_dir: folder to write into; created if missing.
        num_patients: patients in all, at least 3; each has two frames.
        seed: seed of everything that is random.
        num_validation: patients of the validation split; see :func:`split_sizes`.
        num_test: patients of the test split; see there. The rest, 20 of 32, is for training.
        progress: show a progress bar on standard error.

    Returns:
        The datalist that was written, ``base_dir`` set to the folder.

    Raises:
        ValueError: the numbers leave a split without a patient.
        OSError: the folder cannot be written to.
    """
    training, validation, test = split_sizes(num_patients, num_validation, num_test)
    if min(training, validation, test) < 1:
        raise ValueError(
            f"{num_patients} patients give {training} for training, {validation} for validation "
            f"and {test} for test; every split needs at least one"
        )
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    # Removed first and written last: a folder with a datalist is a complete data set.
    (folder / DATALIST_NAME).unlink(missing_ok=True)
    entries: list[list[Entry]] = []
    numbers = range(1, num_patients + 1)
    for index in tqdm(numbers, desc="phantom", unit="patient", disable=not progress):
        entries.append(_write_patient(folder, index, seed))
    cases = [
        [entry for patient in part for entry in patient]
        for part in (
            entries[:training],
            entries[training : training + validation],
            entries[training + validation :],
        )
    ]
    datalist = Datalist(
        classes=list(ACDC_CLASSES),
        unlabeled=len(ACDC_CLASSES),
        training=cases[0],
        validation=cases[1],
        test=cases[2],
    ).with_base_dir(folder)
    datalist.save(folder / DATALIST_NAME)
    return datalist


def _write_patient(folder: Path, index: int, seed: int) -> list[Entry]:
    name = f"patient{index:03d}"
    group, frames = phantom_patient(index, seed)
    (folder / name).mkdir(exist_ok=True)
    entries = []
    for number, image, label in frames:
        case = f"{name}_frame{number:02d}"
        paths = (f"{name}/{case}.nii.gz", f"{name}/{case}_gt.nii.gz")
        for path, array in zip(paths, (image, label), strict=True):
            _save(array, folder / path)
        entries.append(
            Entry(
                image=paths[0],
                label=paths[1],
                supervision="full",
                case_id=case,
                patient_id=name,
                groups={"phase": "ED" if number == FRAMES[0][0] else "ES", "disease": group},
            )
        )
    (folder / name / "Info.cfg").write_text(
        f"ED: {FRAMES[0][0]}\nES: {FRAMES[1][0]}\nGroup: {group}\nNbFrame: {_NUMBER_OF_FRAMES}\n",
        encoding="utf-8",
    )
    return entries


def _save(array: np.ndarray, path: Path) -> None:
    image = nib.Nifti1Image(array, np.diag([*SPACING, 1.0]))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
