"""``mixseg phantom``: the synthetic data set that needs no download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mixseg.cli.console import Quiet, clear_errors, console, datalist_table, refuse_existing


def phantom(
    output: Annotated[Path, typer.Argument(help="Folder to write into; created if missing.")],
    patients: Annotated[
        int,
        typer.Option(min=3, help="Patients; an eighth validates, a quarter tests."),
    ] = 32,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything that is random.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Overwrite an existing data set.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Generate synthetic short-axis cardiac stacks in ACDC's layout, with their datalist.

    Example: mixseg phantom PHANTOM --patients 12
    """
    from mixseg.data.datalist import DATALIST_NAME
    from mixseg.data.phantom.dataset import write_phantom

    with clear_errors():
        refuse_existing(output / DATALIST_NAME, overwrite)
        datalist = write_phantom(output, num_patients=patients, seed=seed, progress=not quiet)
    console.print(datalist_table(datalist, f"phantom in {output}"))
