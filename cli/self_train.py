"""``mixseg self-train``: rounds of proposals and fresh networks trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mixseg.cli.console import (
    Device,
    KeepScribbles,
    Quiet,
    Trained,
    clear_errors,
    console,
    fail,
    interruptible,
    say,
    show,
    this_command,
)


def self_train(
    context: typer.Context,
    teacher: Trained,
    data: Annotated[Path, typer.Option(help="The data that the teacher was trained on.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the rounds.")],
    rounds: Annotated[int, typer.Option(help="Networks to train, one after another.")],
    student: Annotated[
        str | None,
        typer.Option(help="Bundle trained in each round; default: one with a single branch."),
    ] = None,
    split: Annotated[
        str,
        typer.Option(help="'test' also scores the last round on the test split."),
    ] = "validation",
    branch: Annotated[
        str | None, typer.Option(help="The teacher's; default: the one it predicts with.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="The teacher's; default: its bundle's own."),
    ] = None,
    config: Annotated[
        list[Path] | None, typer.Option(help="The student's file of settings; can be repeated.")
    ] = None,
    keep_scribbles: KeepScribbles = False,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Train a new network on a teacher's proposals, the next one on its proposals, and so on.

    Each round has a folder with its proposals, weights, curves and validation scores; rounds.md
    compares them. Interrupt it at any time: the same command resumes. More rounds can be added.

    Examples:

      mixseg self-train run --data ACDC -o rounds --rounds 3

      mixseg self-train run --data ACDC -o rounds --rounds 1 --split test --max-epochs 50

    Settings of the student's train.yaml are options. Its classes are the teacher's.
    """
    from mixseg.apps.predict.pipeline import OutputError
    from mixseg.apps.self_train.plan import plan_rounds
    from mixseg.apps.self_train.rounds import round_folder, train_rounds
    from mixseg.apps.self_train.table import round_table

    with clear_errors(), interruptible(this_command()):
        plan = plan_rounds(
            teacher,
            student,
            data=data,
            branch=branch,
            weights=weights,
            config=config or (),
            arguments=context.args,
            keep_scribbles=keep_scribbles,
        )
        try:
            lines = train_rounds(
                plan,
                rounds,
                data=data,
                output=output,
                split=split,
                device=device,
                progress=not quiet,
                show=show,
            )
        except OutputError as error:
            raise fail(
                f"'{output}' cannot be written ({error}): make room; what is finished is kept, "
                "the same command resumes"
            ) from error
    console.print(round_table(lines))
    say(f"last weights: {round_folder(output, rounds) / 'models' / 'model.pt'}")
    say(f"table: {output / 'rounds.md'}")
