"""``mixseg evaluate``: scores of what was trained."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from mixseg.cli.console import (
    Device,
    Trained,
    Verbose,
    clear_errors,
    interruptible,
    say,
    this_command,
)


class Split(str, Enum):
    """The values of ``--split``."""

    TEST = "test"
    VALIDATION = "validation"


def evaluate(
    context: typer.Context,
    run: Trained,
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
    verbose: Verbose = False,
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
        with interruptible(this_command(), to="start again"):
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
    say(f"log: {scores / 'evaluate.log'}")
