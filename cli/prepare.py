"""``mixseg prepare``: a datalist for a public data set, from the folder as it was downloaded."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from mixseg.cli.console import clear_errors, console, datalist_table, error_console, refuse_existing
from mixseg.data.acdc import prepare_acdc
from mixseg.data.datalist import DATALIST_NAME

prepare_app = typer.Typer(
    no_args_is_help=True, help="Write the datalist of a public data set; nothing is copied."
)


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
    """Split ACDC by patient (80/5/15, stratified by pathology) and write its datalist."""
    with clear_errors():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            datalist = prepare_acdc(source, seed)
        for warning in caught:
            error_console.print(f"[yellow]note:[/] {warning.message}", soft_wrap=True)
        console.print(datalist_table(datalist, f"ACDC in {source}"))
        path = source / DATALIST_NAME if output is None else output
        refuse_existing(path, force)
        datalist.relative_to(path.parent).save(path)
    console.print(f"wrote {path}", soft_wrap=True)
