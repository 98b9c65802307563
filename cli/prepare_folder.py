"""``mixseg prepare folder``: a datalist for people's own images and labels."""

from __future__ import annotations

import os
from dataclasses import fields
from enum import Enum
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.markup import escape
from rich.table import Table

from mixseg.cli.console import (
    Quiet,
    clear_errors,
    console,
    datalist_table,
    fail,
    note,
    number_table,
    refuse_existing,
    say,
)

if TYPE_CHECKING:
    from mixseg.data.file_checks import Fault
    from mixseg.data.folder.cases import FolderCase
    from mixseg.data.folder.inspection import FolderOptions, FolderReport


class Missing(str, Enum):
    """The values of ``--missing-classes``."""

    ABSENT = "absent"
    UNANNOTATED = "unannotated"


def folder(
    images: Annotated[
        Path,
        typer.Argument(
            help="Folder of images; or the root of a data set (nnU-Net, dataset.json, images/ and "
            "labels/), or a dataset.json."
        ),
    ],
    labels: Annotated[
        Path | None, typer.Argument(help="Folder of labels; default: the one in IMAGES.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Datalist to write, or its folder; default: beside the data."
        ),
    ] = None,
    scribbles: Annotated[
        Path | None, typer.Option(help="Folder of hand-drawn scribbles, named as the images.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Names of the classes, background first, with commas.")
    ] = None,
    values: Annotated[
        str | None,
        typer.Option(help="Value of each class in the files, in the classes' order: 0,128,255."),
    ] = None,
    unlabeled: Annotated[
        str | None,
        typer.Option(
            help="Value of unlabeled voxels, or several with commas; default: none, or what "
            "dataset.json names 'ignore'. 0 is allowed for --scribbles only."
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="For smoothed or gray masks of one class: its voxels have at least this value."
        ),
    ] = None,
    missing_classes: Annotated[
        Missing,
        typer.Option(help="Why a mask may lack a class: it is absent, or nobody looked for it."),
    ] = Missing.ABSENT,
    allow_unlabeled: Annotated[
        bool,
        typer.Option("--allow-unlabeled", help="Use images without a label for training."),
    ] = False,
    channel: Annotated[
        int | None, typer.Option(help="Channel to use if cases have several files.")
    ] = None,
    patient_pattern: Annotated[
        str | None,
        typer.Option(
            help="Regular expression whose group is the patient, searched in an image's path "
            r"below its folder: '(patient\d+)'. Default: each case is a patient."
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            help="Training/validation/test in percent of the patients with full masks; auto is "
            "70/10/20 for ten or more of them, at least seven of which train, and trains on all "
            "otherwise. Or a file with lists train, val and test; or splits_final.json:FOLD of "
            "nnU-Net."
        ),
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report, and write nothing.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Overwrite an existing file.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    r"""Find out what your images and labels are, report it, and write their datalist.

    Every file is read. The labels' values show which cases have full masks, scribbles, some classes
    annotated or no label. Cases are split by patient; only full masks validate and test, and with
    fewer than ten all of them train. All faults are listed together, and nothing is written until
    they are fixed. Your files are never changed: labels that need other values are copied beside
    the datalist.

    Examples:

      mixseg prepare folder images masks --dry-run

      mixseg prepare folder Dataset017_Spleen --patient-pattern '(\d+)'

      mixseg prepare folder pictures masks --values 0,128,255 --classes background,cytoplasm,nucleus

      mixseg prepare folder scans masks --scribbles drawn --allow-unlabeled --split 60/20/20
    """
    from mixseg.apps.bundle.run import shown
    from mixseg.data.folder.inspection import FolderOptions, inspect_folder
    from mixseg.data.folder.writing import write_folder

    options = FolderOptions(
        labels,
        scribbles,
        None if classes is None else [name.strip() for name in classes.split(",")],
        None if values is None else _numbers("--values", values),
        None if unlabeled is None else _numbers("--unlabeled", unlabeled),
        threshold,
        missing_classes.value,
        allow_unlabeled,
        channel,
        patient_pattern,
        split,
        seed,
    )
    with clear_errors():
        if labels is None and _prepared_otherwise(images, output, options, dry_run, overwrite):
            return
        path = _output_path(images, labels, output)
        if not dry_run:
            refuse_existing(path, overwrite)
        report = inspect_folder(images, options, progress=not quiet)
        _print(report)
        if not dry_run and (reason := _unwritable(path)):
            report.faults.append(reason)
        report.check()
        if dry_run:
            console.print("nothing is written (--dry-run)")
            return
        datalist = write_folder(report, path, progress=not quiet)
        console.print(datalist_table(datalist, f"splits, seed {seed}"))
        copies = sum(len(case.conversions) for part in report.splits.values() for case in part)
        if copies:
            say(f"wrote {copies} converted labels in {path.parent}")
        say(f"wrote {path}; to write a bundle for it:")
        say(f"  {shown(['mixseg', 'new', 'my_bundle', '--datalist', str(path)])}")


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise fail(f"{option} '{text}' must be whole numbers, such as 0,128,255") from error


def _output_path(images: Path, labels: Path | None, output: Path | None) -> Path:
    """The datalist's file: as asked for, or where all the data lie below."""
    from mixseg.data.datalist import DATALIST_NAME

    if output is not None:
        return output if output.suffix == ".json" else output / DATALIST_NAME
    images = images.resolve()
    if labels is None:
        folder = images if images.is_dir() and images.name != "imagesTr" else images.parent
        return folder / DATALIST_NAME
    labels = labels.resolve()
    if images == labels:
        return images / DATALIST_NAME
    if images.parent != labels.parent:
        raise ValueError(
            f"'{images}' and '{labels}' are in different places: give --output, the datalist to "
            "write"
        )
    return images.parent / DATALIST_NAME


def _unwritable(path: Path) -> Fault | None:
    """Why nothing can be written at ``path``, if so, before anything is."""
    from mixseg.data.file_checks import Fault

    folder = path.absolute().parent
    place = next(p for p in (folder, *folder.parents) if p.exists())
    if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
        return None
    why = "no permission to write there" if place.is_dir() else f"'{place}' is not a folder"
    return Fault(str(path), "", "", f"the datalist cannot be written: {why}", "give --output")


def _prepared_otherwise(
    images: Path, output: Path | None, options: FolderOptions, dry_run: bool, overwrite: bool
) -> bool:
    """Hand the folder of a known collection to the command that knows it."""
    from mixseg.data.collections.registry import collections
    from mixseg.data.folder.inspection import FolderOptions

    if not images.is_dir():
        return False
    known = next((one for one in collections() if one.instead_of_folder(images)), None)
    if known is None:
        return False
    command = f"mixseg prepare {known.name} {images}"
    default = FolderOptions(seed=options.seed)
    changed = [
        f.name for f in fields(options) if getattr(options, f.name) != getattr(default, f.name)
    ]
    if changed:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in changed)
        raise ValueError(
            f"'{images}' is {known.title}, whose classes and split are known, so {names} cannot be "
            f"given: {command}. To split it in your own way, name the folders of its images and "
            "labels"
        )
    say(f"This is {known.title}; the same as: {command}")
    title = f"{known.title} in {images}"
    if dry_run:
        datalist = known.datalist(images, options.seed)
        assert datalist is not None
        console.print(datalist_table(datalist, title))
        console.print("nothing is written (--dry-run)")
        return True
    path = None if output is None else _output_path(images, None, output)
    done = known.prepare(images, output=path, seed=options.seed, overwrite=overwrite)
    console.print(datalist_table(done.datalist, title))
    say(f"wrote {done.written[-1]}")
    return True


def _print(report: FolderReport) -> None:
    """What was found, before anything is written."""
    say(f"{report.root}: {report.layout}")
    if report.cases:
        console.print(_case_table(report))
        console.print(_image_table(report.cases))
    if report.classes is not None and report.cases:
        console.print(_class_table(report))
    for text in (*report.notes, *report.uses):
        note(text)


def _case_table(report: FolderReport) -> Table:
    from mixseg.data.datalist import SPLITS
    from mixseg.data.folder.cases import KINDS

    table = number_table("cases", "recognized as", "cases", "patients", "scribble files", *SPLITS)
    for kind, text in KINDS.items():
        cases = [case for case in report.cases if case.kind == kind]
        if not cases:
            continue
        numbers = [
            len(cases),
            len({case.patient for case in cases}),
            sum(case.pair.scribble is not None for case in cases),
            *(sum(c.kind == kind for c in report.splits.get(split, ())) for split in SPLITS),
        ]
        table.add_row(text, *(str(number) for number in numbers))
    return table


def _class_table(report: FolderReport) -> Table:
    from mixseg.data.folder.classes import ClassMap

    classes = cast(ClassMap, report.classes)
    count = len(classes.names)
    table = number_table("labels", "class", "index", "value in files", "cases", "voxels", "share")
    total = sum(sum(case.voxels.values()) for case in report.cases)
    rows = [*zip(classes.names, range(count), map(str, classes.codes), strict=True)]
    unlabeled = ", ".join(str(value) for value in report.values)
    rows += [("(unlabeled)", count, unlabeled)] if report.values else []
    for name, index, values in rows:
        voxels = [case.voxels[index] for case in report.cases if index in case.voxels]
        written = report.unlabeled if index == count else index
        share = f"{100 * sum(voxels) / total:.2f} %" if total else ""
        table.add_row(
            escape(name), str(written), values, str(len(voxels)), f"{sum(voxels):,}", share
        )
    return table


def _image_table(cases: list[FolderCase]) -> Table:
    """Least, middle and greatest size, spacing and intensity."""
    table = number_table("images", "", "least", "median", "greatest")
    images = [case.image for case in cases]
    rows: list[tuple[str, list[float]]] = []
    axes = max(len(image.shape) for image in images)
    for axis in range(axes):
        sizes = [image.shape[axis] for image in images if len(image.shape) > axis]
        rows.append((f"size {'xyz'[axis]}, voxels", [float(size) for size in sizes]))
    for axis in range(axes):
        mm = [i.spacing[axis] for i in images if i.spacing is not None and len(i.spacing) > axis]
        if mm:
            rows.append((f"spacing {'xyz'[axis]}, mm", mm))
    rows.append(("channels", [float(image.channels) for image in images]))
    rows.append(("least intensity", [image.low for image in images]))
    rows.append(("mean intensity", [image.mean for image in images]))
    rows.append(("greatest intensity", [image.high for image in images]))
    for name, values in rows:
        numbers = (min(values), median(values), max(values))
        table.add_row(name, *(f"{number:.6g}" for number in numbers))
    return table
