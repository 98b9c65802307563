"""Writing the datalist of an inspected folder, and copies of the labels that need converting."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mixseg.data.datalist import DATALIST_NAME, SPLITS, Datalist, DatalistError, Entry
from mixseg.data.folder.cases import Conversion, FolderCase
from mixseg.data.folder.inspection import FolderOptions, FolderReport, inspect_folder
from mixseg.data.folder.label_maps import read_label_map
from mixseg.data.folder.pairs import COPIES
from mixseg.data.threads import in_threads
from mixseg.files.atomic import write_atomically
from mixseg.files.reading import Volume, is_picture, open_volume, voxels
from mixseg.files.writing import write_nifti


def prepare_folder(
    images: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: FolderOptions | None = None,
    *,
    overwrite: bool = False,
    progress: bool = False,
) -> Datalist:
    """:func:`inspect_folder` and :func:`write_folder` in one.

    Args:
        images: see :func:`inspect_folder`.
        output: the datalist file, or the folder for a ``datalist.json``.
        options: see :func:`inspect_folder`.
        overwrite: overwrite an existing datalist.
        progress: show progress bars on standard error.

    Raises:
        DatalistError: faults in the folder, all listed; ``output`` exists and is not to be
            replaced.
        ValueError: options that contradict each other.
        OSError: ``output`` cannot be written.
    """
    path = Path(output)
    path = path if path.suffix == ".json" else path / DATALIST_NAME
    if path.exists() and not overwrite:
        raise DatalistError(f"'{path}' exists; give overwrite=True to overwrite it")
    return write_folder(inspect_folder(images, options, progress), path, progress)


def write_folder(
    report: FolderReport,
    output: str | os.PathLike[str],
    progress: bool = False,
) -> Datalist:
    """Write the datalist of a report, and before it the copies of labels that need converting.

    The copies go to ``converted_labels/`` and ``converted_scribbles/`` beside the datalist, NIfTI
    for volumes and PNG for pictures; the files of the folder are never changed.

    Args:
        report: of :func:`inspect_folder`.
        output: the datalist file.
        progress: show a progress bar on standard error while copies are written.

    Returns:
        The datalist as it was written.

    Raises:
        DatalistError: the report has faults.
        OSError: the folder of ``output`` cannot be written to.
    """
    report.check()
    classes = report.classes
    assert classes is not None
    output = Path(output)
    folder = output.parent.resolve()
    copies: dict[tuple[str, str], Path] = {}
    jobs: list[tuple[Conversion, Path]] = []
    for case in (case for split in SPLITS for case in report.splits[split]):
        for role, conversion in case.conversions.items():
            suffix = ".png" if is_picture(conversion.image) else ".nii.gz"
            kind = COPIES[0] if role == "label" else COPIES[1]
            target = folder / kind / f"{case.pair.case_id}{suffix}"
            copies[case.pair.case_id, role] = target
            jobs.append((conversion, target))
    in_threads(lambda job: _convert(*job), jobs, "converting labels", progress and bool(jobs))
    parts = {split: [_entry(case, copies) for case in report.splits[split]] for split in SPLITS}
    datalist = Datalist(classes=list(classes.names), unlabeled=report.unlabeled, **parts)
    datalist = datalist.with_base_dir(folder).relative_to(folder)
    datalist.save(output)
    return datalist


def _entry(case: FolderCase, copies: Mapping[tuple[str, str], Path]) -> Entry:
    pair = case.pair
    files: dict[str, str | None] = {}
    for role, path in (("label", pair.label), ("scribble", pair.scribble)):
        path = copies.get((pair.case_id, role), path)
        files[role] = None if path is None or case.kind == "none" else str(path)
    return Entry(
        image=str(pair.image),
        channels=[str(path) for path in pair.channels] or None,
        label=files["label"],
        scribble=files["scribble"],
        supervision="partial" if case.kind == "classes" else case.kind,
        case_id=pair.case_id,
        patient_id=case.patient,
        annotated_classes=case.annotated,
    )


def _convert(conversion: Conversion, target: Path) -> None:
    """Write a copy of a label with other values, atomically."""
    # The grid of the image matters for cropped segmentations alone; its header suffices.
    image = open_volume(conversion.image, voxels=False)
    label = read_label_map(conversion.source, image, conversion.threshold).volume
    data = np.rint(voxels(label))
    values = np.zeros(label.shape, np.uint8)
    for value, index in conversion.table.items():
        values[data == value] = index
    if target.suffix == ".png":
        _write_png(target, values)
    else:
        write_nifti(target, Volume(label.shape, label.affine, values), np.uint8)


def _write_png(path: Path, values: np.ndarray) -> None:
    """A gray picture of (x, y) values."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(values.T))
    write_atomically(path, lambda file: picture.save(file, "PNG"))
