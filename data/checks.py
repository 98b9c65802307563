"""Checks of a datalist and of the files that it names, all faults at once."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mixseg.data.datalist import SPLITS, Datalist, DatalistError, Split
from mixseg.data.file_checks import (
    Case,
    Fault,
    Rules,
    describe_faults,
    examine_case,
    grid_faults,
    image_files,
)
from mixseg.data.threads import in_threads


def validate_datalist(
    datalist: Datalist,
    base_dir: str | os.PathLike[str] | None = None,
    splits: Sequence[Split] | None = None,
    check_voxels: bool = True,
    progress: bool = False,
) -> list[Fault]:
    """Check a datalist and every file that it names, without raising.

    Args:
        datalist: the datalist.
        base_dir: folder that relative paths start from; None for the datalist's own.
        splits: splits to check; None for all. An empty training split among them is a fault.
        check_voxels: also read the voxels. Without it only headers are read: damage in the
            compressed data, NaN, constant images and label values are not seen.
        progress: show a progress bar on standard error.

    Returns:
        Errors and notes, in the order of the datalist.
    """
    chosen = SPLITS if splits is None else tuple(splits)
    cases = [
        Case(
            split,
            entry.case_id,
            entry.patient_id,
            entry.image,
            entry.label,
            entry.scribble,
            entry.supervision,
            complete=bool(entry.complete),
            channels=tuple(entry.channels or ()),
        )
        for split, entry in datalist.resolve(base_dir).items()
        if split in chosen
    ]
    classes = len(datalist.classes)
    rules = Rules(classes, datalist.unlabeled, check_voxels, frozenset(range(1, classes)))
    return _validate(cases, "training" in chosen, rules, progress)


def check_cases(
    training: Sequence[Mapping[str, Any]] | None = None,
    validation: Sequence[Mapping[str, Any]] | None = None,
    test: Sequence[Mapping[str, Any]] | None = None,
    *,
    classes: Sequence[str] | int,
    unlabeled: int | None = None,
    foreground: Collection[int] | None = None,
    spatial_dims: int | None = None,
    check_voxels: bool = True,
    progress: bool = False,
) -> list[Fault]:
    """Check exactly the cases that a run will use.

    Args:
        training: items of :func:`mixseg.data.subset.select_cases`; None leaves the split out, an
            empty list is a fault.
        validation: items of :func:`mixseg.data.subset.split_cases`; likewise, but an empty list is
            no fault: the training keeps its last weights.
        test: items of ``split_cases``; likewise, and an empty list is not a fault.
        classes: the datalist's classes, or their number.
        unlabeled: the datalist's unlabeled value; None for the number of classes.
        foreground: classes that count as labeled once a mask is eroded (an eroded mask labels
            only these); None for all but the background. Give the classes that are trained.
        spatial_dims: 3 for volumes, 2 for pictures and other flat images; None for whichever of
            the two the images are, all alike.
        check_voxels: as in :func:`validate_datalist`.
        progress: show a progress bar on standard error.

    Returns:
        The notes.

    Raises:
        DatalistError: lists all errors, each with its file and the fix; or there is a ``test``
            alone, without a case.
    """
    given: dict[Split, Sequence[Mapping[str, Any]] | None] = {
        "training": training,
        "validation": validation,
        "test": test,
    }
    if training is None and validation is None and test is not None and not test:
        raise DatalistError(
            "there is no case to score: the split is empty. Add cases to it in the datalist, or "
            "choose the other one of validation and test with --split"
        )
    cases = [
        Case(
            split,
            str(item["case_id"]),
            str(item.get("patient_id", item["case_id"])),
            image_files(item)[0],
            item.get("label"),
            None,
            item.get("supervision"),
            erode=bool(item.get("erode", False)),
            complete=bool(item.get("complete", False)),
            channels=tuple(image_files(item)[1:]),
        )
        for split, items in given.items()
        for item in items or ()
    ]
    count = classes if isinstance(classes, int) else len(classes)
    rules = Rules(
        count,
        count if unlabeled is None else unlabeled,
        check_voxels,
        frozenset(range(1, count) if foreground is None else foreground),
    )
    return _raise_errors(_validate(cases, training is not None, rules, progress, spatial_dims))


def _validate(
    cases: Sequence[Case],
    trains: bool,
    rules: Rules,
    progress: bool,
    spatial_dims: int | None = None,
) -> list[Fault]:
    faults = _structure_faults(cases, trains)
    findings = in_threads(lambda case: examine_case(case, rules), cases, "checking files", progress)
    for finding in findings:
        faults += finding.faults
    grids = [(case, finding.grid) for case, finding in zip(cases, findings, strict=True)]
    faults += grid_faults([(c, g) for c, g in grids if g is not None], spatial_dims)
    counted = [f.labeled for f in findings if f.labeled is not None]
    if counted and not any(counted):
        faults.append(
            Fault(
                "training",
                "training",
                "",
                f"none of the {len(counted)} partially labeled cases has a labeled voxel",
                "check the scribbles and the classes that are trained",
            )
        )
    return faults


def _structure_faults(cases: Sequence[Case], trains: bool) -> list[Fault]:
    """Faults that no file needs to be opened for."""
    faults = []
    if trains and not any(case.split == "training" for case in cases):
        place = ("training", "training", "")
        faults.append(Fault(*place, "the training split is empty", "add cases to the datalist"))
    ids: dict[str, str] = {}
    images: dict[str, str] = {}
    patients: dict[str, str] = {}
    reported: set[str] = set()
    for case in cases:
        if case.case_id in ids:
            faults.append(
                case.fault(
                    case.image,
                    f"case_id '{case.case_id}' is used twice (also in {ids[case.case_id]})",
                    "give every case its own case_id",
                )
            )
        ids.setdefault(case.case_id, case.split)
        if case.image in images:
            faults.append(
                case.fault(
                    case.image,
                    f"the image is listed twice (also as case {images[case.image]})",
                    "remove one of the entries",
                )
            )
        images.setdefault(case.image, case.case_id)
        other = patients.setdefault(case.patient_id, case.split)
        if other != case.split and case.patient_id not in reported:
            reported.add(case.patient_id)
            faults.append(
                case.fault(
                    case.image,
                    f"patient '{case.patient_id}' is in two splits, {other} and {case.split}",
                    "keep all cases of a patient in one split",
                )
            )
    return faults


def _raise_errors(faults: list[Fault]) -> list[Fault]:
    errors = [f for f in faults if f.level == "error"]
    if errors:
        lines = "\n".join(f"  {line}" for line in describe_faults(errors))
        plural = "faults" if len(errors) > 1 else "fault"
        raise DatalistError(f"{len(errors)} {plural} in the data; nothing is trained:\n{lines}")
    return [f for f in faults if f.level == "note"]
