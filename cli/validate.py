"""``mixseg validate``: every fault of a datalist and its files, at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from mixseg.cli.console import Quiet, clear_errors, console, datalist_table


def validate(
    datalist: Annotated[Path, typer.Argument(help="The datalist JSON.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder that relative paths start from; default: the datalist's own."),
    ] = None,
    headers_only: Annotated[
        bool, typer.Option("--headers-only", help="Do not read the voxels.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Check a datalist and every file it names; exit status 1 if anything is wrong.

    Example: mixseg validate datalist.json
    """
    from mixseg.data.checks import validate_datalist
    from mixseg.data.datalist import Datalist
    from mixseg.data.file_checks import group_faults, told_apart

    with clear_errors():
        loaded = Datalist.load(datalist)
        faults = validate_datalist(loaded, data, check_voxels=not headers_only, progress=not quiet)
    console.print(datalist_table(loaded, str(datalist)))
    if faults:
        table = Table(show_lines=True)
        for name in ("", "file", "case", "problem", "fix"):
            table.add_column(name, overflow="fold")
        for fault, others in group_faults(faults):
            style = "red" if fault.level == "error" else "yellow"
            case = f"{fault.case_id} ({fault.split})" if fault.case_id else ""
            file = fault.file
            if others:
                names = ", ".join(told_apart([file, *others])[1:21])
                file += f"\nand {len(others)} more: {names}{', …' * (len(others) > 20)}"
            cells = (escape(text) for text in (file, case, fault.problem, fault.fix))
            table.add_row(f"[{style}]{fault.level}[/]", *cells)
        console.print(table)
    errors = sum(fault.level == "error" for fault in faults)
    if errors:
        console.print(f"[bold red]{errors} errors[/]")
        raise typer.Exit(1)
    console.print("[green]no errors[/]")
