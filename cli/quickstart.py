"""``mixseg quickstart``: from nothing to a trained network beside its lower bound, in minutes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mixseg.cli.console import clear_errors, console, interruptible, say, show, this_command


def quickstart(
    context: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to work in.")] = Path(
        "quickstart"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Seed of data and training.")] = 0,
    patients: Annotated[int, typer.Option(min=3, help="Patients of the phantom.")] = 32,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over in OUTPUT.")] = False,
    record: Annotated[
        bool,
        typer.Option("--record", help="Maintainers: renew the numbers and pictures of the README."),
    ] = False,
) -> None:
    """Make synthetic data, train on masks alone and on masks and scribbles, and compare both.

    It prints every command that it runs. After an interruption, the same command resumes.
    Settings of the bundle are also options.

    Examples:

      mixseg quickstart

      mixseg quickstart -o trial --max-epochs 3 --num-full 5
    """
    from mixseg.apps.quickstart.report import METHODS, markdown_report, screen_table
    from mixseg.apps.quickstart.run import (
        BUNDLE,
        FIGURES,
        Quickstart,
        check_patients,
        find_repository,
        read_configuration,
        record_figures,
    )
    from mixseg.configuration.settings import read_settings
    from mixseg.files.atomic import strict_json, write_text_atomic

    with clear_errors():
        root = find_repository()
        known, digest = read_configuration(root / "bundles" / BUNDLE)
        given = read_settings(context.args, known, f"the bundle {BUNDLE}")
        check_patients(patients, known, given)
        settings = {"patients": patients, "seed": seed, "given": given, "configuration": digest}
        work = Quickstart(root, output, settings, given, show)
        work.open(overwrite)
        with interruptible(this_command("--overwrite")):
            work.step("phantom", work.phantom)
            for run, title in METHODS.items():
                work.step(f"{title}: training", partial(work.train, run))
                work.step(f"{title}: test", partial(work.evaluate, run))
        results = work.results()
        write_text_atomic(output / "results.json", strict_json(results))
        write_text_atomic(output / "results.md", markdown_report(results))
    console.print(screen_table(results))
    for run, title in METHODS.items():
        places = (output / run / name for name in FIGURES.values())
        say(f"{title}: {', '.join(map(str, places))}")
    say(f"scores: {output / 'results.json'}, {output / 'results.md'}")
    if record:
        record_figures(root, output)
        console.print("recorded; now run: python benchmarks/tables.py")
