"""``mixseg new``: a ready bundle for the user's own data."""

from __future__ import annotations

import shlex
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from mixseg.cli.console import Quiet, clear_errors, console, note, say

if TYPE_CHECKING:
    from mixseg.apps.plan.plan import Plan


class Method(str, Enum):
    """The values of ``--from``."""

    MIXED = "mixed"
    CONFKD = "confkd"


class Device(str, Enum):
    """The values of ``--device``."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def new(
    name: Annotated[str, typer.Argument(help="Name of the bundle, and of its folder.")],
    datalist: Annotated[
        Path, typer.Option(help="The datalist JSON, see 'mixseg prepare folder' and docs/data.md.")
    ],
    method: Annotated[
        Method,
        typer.Option(
            "--from",
            help="Method: mixed learns from every kind of label; confkd is ConfKD.",
        ),
    ] = Method.MIXED,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to create the bundle's folder in.")
    ] = Path("."),
    dimensions: Annotated[
        int | None,
        typer.Option(help="2 for slices and pictures, 3 for volumes; default: by the data."),
    ] = None,
    num_full: Annotated[
        int | None,
        typer.Option(min=0, help="Patients that keep their full masks; default: all of them."),
    ] = None,
    num_partial: Annotated[
        int | None,
        typer.Option(
            min=0, help="Further patients, partially labeled: their scribbles, or eroded masks."
        ),
    ] = None,
    device: Annotated[
        Device, typer.Option(help="Device to plan for; auto is CUDA if available.")
    ] = Device.AUTO,
    memory: Annotated[
        float | None,
        typer.Option(min=0.1, help="Memory for the training in GB; default: half of what is free."),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=1, help="Time to plan for on a CPU; default: an hour and a half."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Overwrite the files of an existing bundle.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write a bundle for your own data, ready to train.

    Classes, image channels, sizes, spacing and intensities are measured on the training cases,
    never on validation or test cases, nor on masks of cases that count as unlabeled. Sizes, batches
    and the network are fitted to the free memory. The comments in configs/train.yaml explain each
    choice.

    Examples:

      mixseg new cells --datalist cells.json

      mixseg new heart --datalist heart.json --dimensions 3 --device cuda --memory 24

      mixseg new cells --datalist cells.json --num-full 10 --num-partial 50 --minutes 10

      mixseg new cells --datalist cells.json --from confkd
    """
    from mixseg.apps.bundle.find import remember
    from mixseg.apps.plan.choices import choose_dimensions
    from mixseg.apps.plan.machine import this_machine
    from mixseg.apps.plan.plan import (
        case_uses,
        check_folder,
        data_notes,
        make_plan,
        measure_cases,
    )
    from mixseg.apps.plan.writing import bundle_files
    from mixseg.data.datalist import Datalist
    from mixseg.files.atomic import write_text_atomic

    with clear_errors():
        folder = output / name
        check_folder(folder, overwrite)
        loaded = Datalist.load(datalist)
        drawn, facts = measure_cases(
            loaded, datalist, method.value, num_full, num_partial, progress=not quiet
        )
        dims, why = choose_dimensions(facts, dimensions)
        machine = this_machine(device.value, memory, minutes)
        plan, notes = make_plan(name, method.value, dims, datalist, facts, machine, drawn)
        files = bundle_files(plan)
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            write_text_atomic(folder / path, text)
        remember(folder)  # what was written here does not come from elsewhere
    kind = "pictures" if facts.pictures else {2: "slices (2D)", 3: "volumes (3D)"}[dims]
    say(f"{method.value} on {kind}: {why}; for a {machine}")
    console.print(_table(plan))
    for line in case_uses(loaded, facts):
        say(f"  {line}")
    for text in (*data_notes(facts, folder, method.value), *notes):
        note(text)
    console.print(f"wrote {folder}; now fill in docs/data_license.txt there, and train:")
    say(f"  mixseg train {shlex.quote(str(folder))}")


def _table(plan: Plan) -> Table:
    table = Table(title=f"{plan.name}: what was chosen", title_justify="left")
    table.add_column("setting")
    table.add_column("value", overflow="fold")
    table.add_column("why", overflow="fold")
    for choice in plan.choices:
        table.add_row(choice.setting, escape(str(choice.value)), escape(choice.reason))
    if plan.seconds is not None:
        minutes = max(1, round(plan.seconds / 60))
        table.caption = f"training takes very roughly {minutes} minutes here"
    return table
