"""``python -m benchmarks.compare``: methods on one engine, beside the published numbers."""

from __future__ import annotations

import json
import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from mixseg.apps.bundle.find import find_bundle
from mixseg.cli.console import clear_errors, console, fail
from mixseg.files.atomic import write_bytes_atomic

from .complexity import measure_complexity
from .list import experiments
from .pages import RESULTS, outdated_pages, participating, write_pages
from .published import load_published
from .results import Result
from .run import Places, Watch, run_experiments
from .tables import Measurements

compare_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Compare methods: run experiment lists, write the papers' tables with measured values.",
)
_INTERRUPTED = 130


class Profile(str, Enum):
    """The values of ``--profile``."""

    CPU = "cpu"
    GPU = "gpu"


class _Bar(Watch):
    """A line per row, and a bar for the one that runs."""

    def __init__(self, progress: Progress, rows: int) -> None:
        self.progress = progress
        self.bar: TaskID = progress.add_task("", total=None, visible=False)
        self.left = rows

    def says(self, row: str, text: str) -> None:
        running = text.startswith("running")
        self.left -= not running
        self.progress.update(self.bar, visible=running, total=None)
        # Not wrapped: paths stay in one piece.
        self.progress.console.print(f"{row}: {text}", soft_wrap=True, markup=False)

    def step(self, row: str, step: str, done: int, total: int) -> None:
        shown = f"{row}: {step}" + (f", epoch {done}/{total}" if total else "")
        more = f" [dim]({self.left} left)[/]"
        self.progress.update(
            self.bar, description=escape(shown) + more, completed=done, total=total or None
        )


@compare_app.command("run")
def run(
    experiment_list: Annotated[
        Path,
        typer.Argument(
            metavar="LIST", help="Experiment list (YAML), see benchmarks/compare/README.md."
        ),
    ],
    dataset_dir: Annotated[
        Path, typer.Option("--dataset_dir", help="Folder of the data, as for training.")
    ],
    row: Annotated[
        list[str] | None, typer.Option("--row", help="Name of a row, repeatable; default: all.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Seeds, e.g. 0,1; default: those of the list.")
    ] = None,
    profile: Annotated[
        Profile | None,
        typer.Option(help="Only rows of this profile, and of none. gpu needs a CUDA device."),
    ] = None,
    results: Annotated[
        Path, typer.Option(help="Folder of the result files; one folder a list is made in it.")
    ] = RESULTS,
    work: Annotated[
        Path, typer.Option(help="Folder of checkpoints, weights and logs of the runs.")
    ] = Path("runs"),
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Start no row that would not end in time, as the longest took."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of a run.")] = os.cpu_count()
    or 1,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep checkpoints of finished runs.")
    ] = False,
) -> None:
    """Train and score the rows of a list, one result file a row and seed.

    Rows that have their file are skipped, an interrupted row resumes where it stopped.

    [bold]Examples[/]

    python -m benchmarks.compare run benchmarks/experiments/compare_acdc_cpu.yaml --dataset_dir ACDC

    python -m benchmarks.compare run benchmarks/experiments/acdc_gpu.yaml --row set3_kl_ent
    --dataset_dir ACDC --minutes 60
    """
    with clear_errors():
        chosen_seeds = _read_seeds(seeds)
        if not dataset_dir.is_dir():
            raise ValueError(f"there is no folder '{dataset_dir}': give that of the data")
        known = {one.row: one for one in experiments(experiment_list)}
        rows = experiments(experiment_list, row or ())
        if profile is not None:
            left_out = [e.row for e in rows if e.profile not in (None, profile.value)]
            if row and left_out:
                raise ValueError(
                    f"not of profile {profile.value}: {', '.join(left_out)}; leave --profile out"
                )
            rows = [e for e in rows if e.row not in left_out]
        places = Places(dataset_dir.resolve(), results, work.resolve(), threads, keep)
        count = sum(len(chosen_seeds or e.seeds) for e in rows)
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        try:
            with Progress(*columns, console=console, transient=True) as progress:
                outcome = run_experiments(
                    rows, known, places, chosen_seeds, minutes, _Bar(progress, count)
                )
        except KeyboardInterrupt:
            console.print("interrupted; the same command resumes from the last checkpoint")
            raise typer.Exit(_INTERRUPTED) from None
    if outcome.failed:
        raise fail(f"failed: {', '.join(outcome.failed)}; their logs in '{work}' say why")


@compare_app.command("tables")
def tables(
    lists: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[LIST]...",
            help="Experiment lists; default: those in benchmarks/experiments/ with a profile.",
        ),
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder of the result files.")] = RESULTS,
    output: Annotated[Path, typer.Option(help="Folder of the tables and figures.")] = Path(
        "comparison"
    ),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing, exit with 1 if anything is old.")
    ] = False,
) -> None:
    """Write the papers' tables, published and measured values side by side, a figure each.

    [bold]Examples[/]

    python -m benchmarks.compare tables --results benchmarks/results --output comparison

    python -m benchmarks.compare tables mine.yaml --results results --output comparison --check
    """
    with clear_errors():
        measurements = Measurements(lists or participating(), results)
        if check:
            old = outdated_pages(measurements, output)
            if old:
                raise ValueError(f"out of date in '{output}': {', '.join(old)}")
            console.print("up to date")
            return
        for name in write_pages(measurements, output):
            console.print(f"{name}: written", markup=False)


@compare_app.command("complexity")
def complexity(
    bundles: Annotated[
        list[str] | None,
        typer.Argument(metavar="[BUNDLE]...", help="Default: those of the journal's Table 8."),
    ] = None,
    profile: Annotated[Profile, typer.Option(help="Where to measure.")] = Profile.CPU,
    results: Annotated[Path, typer.Option(help="Folder of the result files.")] = RESULTS,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = os.cpu_count() or 1,
) -> None:
    """Measure parameters during training and time per sample, at the bundles' own sizes.

    Needs no data and no weights. Values of other bundles in the file are kept.

    [bold]Example[/]

    python -m benchmarks.compare complexity acdc_lv_confkd acdc_lv_uamt --profile cpu
    """
    import torch

    with clear_errors():
        device = "cuda" if profile is Profile.GPU else "cpu"
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("no CUDA device is visible here: choose --profile cpu")
        torch.set_num_threads(threads)
        rows = load_published().complexity["8"].rows
        names = [name.partition(":") for name in bundles or [row.bundle for row in rows]]
        path = results / f"complexity_{profile.value}.json"
        content: Result = {"benchmark": "complexity", "bundles": {}}
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
        for bundle, colon, overlay in names:
            folder = find_bundle(bundle)
            name = f"{folder.name}{colon}{overlay}"
            one = measure_complexity(folder, {}, device, [overlay] if overlay else [])
            content["bundles"][name] = one
            console.print(
                f"{name}: {one['parameters']:,} parameters in {one['networks']} networks, "
                f"{one['milliseconds']} ms a sample, {one['milliseconds_all']} ms through all"
            )
        write_bytes_atomic(path, (json.dumps(content, indent=1) + "\n").encode())


def _read_seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"--seeds takes whole numbers with commas, e.g. 0,1, not '{text}'"
        ) from None


if __name__ == "__main__":
    compare_app(prog_name="python -m benchmarks.compare")
