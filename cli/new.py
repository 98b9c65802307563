"""``mixseg new``: a ready bundle for the user's own data."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from mixseg.cli.bundle_files import check_name
from mixseg.cli.console import clear_errors, console, error_console
from mixseg.cli.new_bundle import Plan, bundle_files
from mixseg.cli.new_machine import Machine, this_machine
from mixseg.cli.new_measure import DataFacts, measure
from mixseg.cli.new_plan import (
    choose_dimensions,
    data_choices,
    normalization_choices,
    supervision_choices,
)
from mixseg.cli.new_size import slice_sizes, volume_sizes
from mixseg.data.datalist import Datalist
from mixseg.data.subset import WeakLabel, select_cases
from mixseg.metrics import write_bytes_atomic


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
            help="Method: mixed learns from whatever labels there are; confkd is the papers'.",
        ),
    ] = Method.MIXED,
    output: Annotated[
        Path, typer.Option(help="Folder that the bundle's folder is made in.")
    ] = Path("."),
    dimensions: Annotated[
        int | None,
        typer.Option(help="2 for slices and pictures, 3 for volumes; chosen from the data."),
    ] = None,
    num_full: Annotated[
        int | None,
        typer.Option(min=0, help="Patients that keep their full masks; default: all that can."),
    ] = None,
    num_partial: Annotated[
        int | None,
        typer.Option(
            min=0, help="Further patients, partially labeled: their scribbles, or eroded masks."
        ),
    ] = None,
    device: Annotated[
        Device, typer.Option(help="Device to plan for; auto is CUDA where there is one.")
    ] = Device.AUTO,
    memory: Annotated[
        float | None,
        typer.Option(min=0.1, help="Its memory for the training, GB; default: half of the free."),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=1, help="Time to plan for on a CPU; default: an hour and a half."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the files of a bundle that is there.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Write a bundle for your own data, ready to train.

    Classes, image channels, sizes, spacing and intensities are measured on the training cases
    (never on validation or test cases, nor on masks of cases that count as unlabeled); sizes,
    batches and the network are fitted to the memory at hand. Each choice is explained where it
    stands, in configs/train.yaml.

    Examples:

    mixseg new cells --datalist cells.json

    mixseg new heart --datalist heart.json --dimensions 3 --device cuda --memory 24

    mixseg new cells --datalist cells.json --num-full 10 --num-partial 50 --minutes 10

    mixseg new cells --datalist cells.json --from confkd
    """
    with clear_errors():
        folder = output / name
        _check_folder(folder, force)
        loaded = Datalist.load(datalist)
        drawn, facts = _measure(
            loaded, datalist, method.value, num_full, num_partial, progress=not quiet
        )
        dims, why = choose_dimensions(facts, dimensions)
        machine = this_machine(device.value, memory, minutes)
        plan, notes = _plan(name, method.value, dims, datalist, facts, machine, drawn)
        files = bundle_files(plan)
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            write_bytes_atomic(folder / path, text.encode())
    kind = "pictures" if facts.pictures else {2: "slices (2D)", 3: "volumes (3D)"}[dims]
    console.print(f"{method.value} on {kind}: {why}; for a {machine}", soft_wrap=True)
    console.print(_table(plan))
    for note in (*_data_notes(facts, folder, method.value), *notes):
        error_console.print(f"[yellow]note:[/] {escape(note)}", soft_wrap=True)
    console.print(f"wrote {folder}; now fill in docs/data_license.txt there, and train:")
    console.print(
        f"  cd {folder} && python -m monai.bundle run training --config_file configs/train.yaml",
        soft_wrap=True,
        highlight=False,
    )


def _check_folder(folder: Path, force: bool) -> None:
    """Refuse names that would break something later, and folders in use.

    Raises:
        ValueError: saying what is wrong with the name, or that the folder is not empty.
    """
    faults = check_name(folder)
    if not folder.name.isidentifier():
        faults.append(f"the name '{folder.name}' must begin with a letter: choose another")
    if faults:
        raise ValueError("; ".join(dict.fromkeys(faults)))
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"'{folder}' is a file; choose another name")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise ValueError(f"'{folder}' is not empty; give --force to overwrite its files")


def _measure(
    datalist: Datalist,
    path: Path,
    method: str,
    num_full: int | None,
    num_partial: int | None,
    progress: bool,
) -> tuple[bool, DataFacts]:
    """Whether scribbles are drawn by hand, and what the training cases show.

    Raises:
        ValueError: the validation split is empty, or the method cannot learn from these labels.
    """
    if not datalist.validation:
        raise ValueError(
            f"{path}: the validation split is empty, and the best weights are chosen by it; add "
            "cases with full masks to 'validation'"
        )
    kinds = [entry.supervision for entry in datalist.training]
    usable = ("full", None) if method == "confkd" else ("full", "partial", None)
    if not any(kind in usable for kind in kinds):
        raise ValueError(f"{path}: {_NOTHING[method]}")
    # Scribbles are taken where every case that is to be partial has one.
    weak: WeakLabel = "erosion"
    items = select_cases(datalist, None, num_full, num_partial, weak)
    entries = {entry.case_id: entry for entry in datalist.training}
    eroded = [item for item in items if item["erode"]]
    if eroded and all(entries[item["case_id"]].scribble for item in eroded):
        weak = "drawn"
        items = select_cases(datalist, None, num_full, num_partial, weak)
    masks = any(item["supervision"] == "full" for item in items)
    if method == "confkd" and not masks:
        raise ValueError(f"{path}: {_NOTHING[method]}")
    facts = measure(items, datalist.classes, datalist.unlabeled, progress)
    if not masks and not facts.background_drawn:
        raise ValueError(
            f"{path}: no training case has a full mask and no stroke marks background, so nothing "
            "would teach the network what is none of the classes; annotate one case in full, or "
            "add strokes of background"
        )
    return weak == "drawn", facts


_NOTHING = {
    "mixed": "no training case has a label; annotate a few cases",
    "confkd": "no training case has a full mask, and the teacher learns from these alone; annotate "
    "a few cases in full, or leave out --from",
}


def _plan(
    name: str,
    method: str,
    dims: int,
    datalist: Path,
    facts: DataFacts,
    machine: Machine,
    drawn: bool,
) -> tuple[Plan, tuple[str, ...]]:
    sizes = (slice_sizes if dims == 2 else volume_sizes)(facts, machine, method)
    intensities, value_range = normalization_choices(facts, method, dims)
    choices = [
        *data_choices(facts, method, dims),
        *intensities,
        *sizes.choices,
        *supervision_choices(facts, method, drawn, sizes.schedule),
    ]
    path = datalist.resolve()
    plan = Plan(name, method, dims, path, facts, choices, value_range, sizes.seconds)
    return plan, sizes.notes


def _data_notes(facts: DataFacts, folder: Path, method: str) -> list[str]:
    notes = []
    if facts.unseen:
        notes.append(
            f"no training label shows {', '.join(facts.unseen)}: the network cannot learn what it "
            "never sees; check the datalist's 'classes' and the labels"
        )
    if not facts.partial:
        alone = " (the teacher alone, batch_partial 0)" if method == "confkd" else ""
        notes.append(
            f"no training case is partially labeled: the bundle trains the lower bound{alone}. "
            "Scribble on more cases, or try the method on the masks that you have with --num-full "
            "and --num-partial"
        )
    for weights in (folder / "eval" / "models" / "model.pt", folder / "models" / "model.pt"):
        if weights.is_file():
            notes.append(f"{weights} is of the earlier files: train again")
    return notes


def _table(plan: Plan) -> Table:
    table = Table(title=f"{plan.name}: what was chosen", title_justify="left")
    table.add_column("setting")
    table.add_column("value", overflow="fold")
    table.add_column("why", overflow="fold")
    for choice in plan.choices:
        table.add_row(choice.knob, escape(str(choice.value)), escape(choice.reason))
    if plan.seconds is not None:
        minutes = max(1, round(plan.seconds / 60))
        table.caption = f"training takes very roughly {minutes} minutes here"
    return table
