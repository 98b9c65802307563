"""``mixseg evaluate``: scores of what was trained."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from mixseg.cli.console import Device, clear_errors, console, this_command


class Split(str, Enum):
    """The values of ``--split``."""

    TEST = "test"
    VALIDATION = "validation"


def evaluate(
    context: typer.Context,
    run: Annotated[
        str,
        typer.Argument(help="Folder of a run; or of a bundle with weights, its zip, or its name."),
    ],
    data: Annotated[
        Path | None, typer.Option(help="Folder of the data; default: the one that the run names.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder of the scores; default: RUN/test or RUN/validation."
        ),
    ] = None,
    split: Annotated[Split, typer.Option(help="Cases to score.")] = Split.TEST,
    weights: Annotated[
        Path | None, typer.Option(help="Weights to score; default: the run's own.")
    ] = None,
    config: Annotated[
        list[Path] | None,
        typer.Option(help="Configuration that the run was trained with; can be repeated."),
    ] = None,
    device: Device = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show all log messages.")] = False,
) -> None:
    """Score a trained run, or a bundle that comes with weights, on the cases of a split.

    The output folder gets report.html, metrics.csv, summary.json, pictures and evaluate.log.

    Examples:

      mixseg evaluate run --data ACDC

      mixseg evaluate acdc_mixed --data ACDC --split validation -o scores

    Settings of the run are options: --mirror-axes "[]". It runs `python -m monai.bundle run
    evaluating`.
    """
    from mixseg.apps.bundle.find import find_trained
    from mixseg.apps.bundle.workflow import EVALUATION_ARGUMENTS, evaluate_run, evaluation_files
    from mixseg.configuration.settings import read_settings, settings_of

    with clear_errors():
        folder = find_trained(run)
        known = settings_of(evaluation_files(folder, config or ()))
        name = f"the bundle {folder.resolve().name}"
        settings = read_settings(context.args, known, name, EVALUATION_ARGUMENTS)
        try:
            scores = evaluate_run(
                run,
                data=data,
                output=output,
                split=split.value,
                weights=weights,
                config=config or (),
                settings=settings,
                device=device,
                verbose=verbose,
            )
        except KeyboardInterrupt:
            console.print(
                f"\n[yellow]interrupted; to start again:[/] {this_command()}", soft_wrap=True
            )
            raise typer.Exit(130) from None
    console.print(f"log: {scores / 'evaluate.log'}", soft_wrap=True)
