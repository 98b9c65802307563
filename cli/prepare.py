"""``mixseg prepare``: a datalist from a folder, a public data set as downloaded or one's own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from mixseg.cli.console import clear_errors, console, datalist_table, error_console, refuse_existing
from mixseg.cli.prepare_folder import folder
from mixseg.data.collections.acdc import prepare_acdc
from mixseg.data.collections.la import la_layout, prepare_la
from mixseg.data.collections.la_crop import CENTER_SIZE, MASK_MARGIN, PREPARATION_NAME, crop_la
from mixseg.data.collections.wbc import convert_wbc, prepare_wbc, wbc_layout
from mixseg.data.datalist import DATALIST_NAME, Datalist

prepare_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Write the datalist of a public data set, or of your own.",
)
prepare_app.command("folder")(folder)


class CropRule(str, Enum):
    """The values of ``--crop`` (:data:`mixseg.data.collections.la_crop.Crop` as Typer before 0.19 wants it)."""

    CENTER = "center"
    FULL_MASKS = "full-masks"
    NONE = "none"


@prepare_app.command("acdc")
def acdc(
    source: Annotated[
        Path, typer.Argument(help="Folder with patientXXX/, or with image/, label/, split.json.")
    ],
    output: Annotated[
        Path | None, typer.Option(help="Datalist to write; default: SOURCE/datalist.json.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split (official layout).")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Split ACDC by patient (80/5/15, stratified by pathology); nothing is copied."""
    with clear_errors():
        with _notes():
            datalist = prepare_acdc(source, seed)
        console.print(datalist_table(datalist, f"ACDC in {source}"))
        _save(datalist, source / DATALIST_NAME if output is None else output, force)


@prepare_app.command("la")
def la(
    source: Annotated[
        Path,
        typer.Argument(help="Folder with <id>/lgemri.nrrd, or with image/, label/, split.json."),
    ],
    output: Annotated[
        Path | None,
        typer.Argument(
            help="Folder for cropped copies and the datalist; needed for lgemri.nrrd, "
            "default for the other layout: SOURCE, where nothing is copied."
        ),
    ] = None,
    crop: Annotated[
        CropRule | None,
        typer.Option(
            help="What is kept in-plane: a square about the scan's centre (the default), the box "
            "of the masks of the first --num-full training scans, or all."
        ),
    ] = None,
    size: Annotated[
        float | None, typer.Option(help=f"Side of the square, mm (default: {CENTER_SIZE:g}).")
    ] = None,
    num_full: Annotated[
        int | None,
        typer.Option(help="Fully labelled scans of the training, whose masks full-masks may use."),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(help=f"Around the box of full-masks, mm (default: {MASK_MARGIN:g})."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the split (default: 0).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Split the left-atrium scans (80/5/15), crop them around the heart and write their datalist.

    Masks of cases that may count as partially labelled never decide about the crop.
    """
    options = {
        "crop": crop and crop.value,
        "size": size,
        "num_full": num_full,
        "margin": margin,
        "seed": seed,
    }
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    with clear_errors():
        if la_layout(source) == "official":
            if output is None:
                raise ValueError(
                    f"'{source}' holds whole scans, which are cropped into a folder of their own: "
                    f"mixseg prepare la {source} OUTPUT"
                )
            with _notes():
                datalist = crop_la(source, output, **given, force=force, progress=not quiet)
            console.print(datalist_table(datalist, f"left atrium in {output}"))
            console.print(f"wrote {output / PREPARATION_NAME}", soft_wrap=True)
            console.print(f"wrote {output / DATALIST_NAME}", soft_wrap=True)
            return
        datalist = prepare_la(source)
        if given:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ValueError(
                f"{names}: '{source}' is cropped and split already (image/, label/, split.json)"
            )
        console.print(datalist_table(datalist, f"left atrium in {source}"))
        _save(datalist, (source if output is None else output) / DATALIST_NAME, force)


@prepare_app.command("wbc")
def wbc(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder with 001.bmp and its mask 001.png, or with image/, label/, split.json."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Argument(help="Folder for converted masks and the datalist; default: SOURCE."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the split of SOURCE's 001.bmp … (default: 0).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing datalist.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Split the white blood cells (80/5/15) and convert their masks of 0, 128 and 255.

    128 is the cytoplasm and 255 the nucleus. Your files are never changed: the masks are copied.

    Examples:

      mixseg prepare wbc "segmentation_WBC/Dataset 1"

      mixseg prepare wbc segmentation_WBC wbc --seed 1
    """
    with clear_errors():
        folder = source if output is None else output
        title = f"white blood cells in {source}"
        if wbc_layout(source) == "official":
            with _notes():
                datalist = convert_wbc(
                    source, folder, seed=seed or 0, force=force, progress=not quiet
                )
            console.print(datalist_table(datalist, title))
            console.print(f"wrote {folder / DATALIST_NAME}", soft_wrap=True)
            return
        datalist = prepare_wbc(source)
        if seed is not None:
            raise ValueError(f"--seed: '{source}' is split already (image/, label/, split.json)")
        console.print(datalist_table(datalist, title))
        _save(datalist, folder / DATALIST_NAME, force)


@contextmanager
def _notes() -> Iterator[None]:
    """Print what is said of the data as notes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        # Others (deprecations in a reader) are not about the data.
        if issubclass(warning.category, UserWarning):
            error_console.print(f"[yellow]note:[/] {escape(str(warning.message))}", soft_wrap=True)


def _save(datalist: Datalist, path: Path, force: bool) -> None:
    refuse_existing(path, force)
    datalist.relative_to(path.parent).save(path)
    console.print(f"wrote {path}", soft_wrap=True)
