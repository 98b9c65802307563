"""``mixseg self-train``: rounds of proposals and fresh networks trained on them."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from filelock import FileLock, Timeout

from mixseg.cli.console import clear_errors, console, fail, show, this_command

if TYPE_CHECKING:
    from mixseg.apps.self_train.rounds import SelfTraining

#: Settings of the student that have another name here, or that the rounds decide.
_OWN_OPTIONS = {
    "bundle_root": "--student",
    "dataset_dir": "--data",
    "output_dir": "-o",
    "ckpt_dir": "-o",
    "device": "--device",
    "progress": "--quiet",
    "resume": "each round",
    **dict.fromkeys(("datalist", "num_full", "num_partial", "num_unlabeled"), "the teacher"),
}


def self_train(
    context: typer.Context,
    teacher: Annotated[
        str,
        typer.Argument(help="Folder of a run; or of a bundle with weights, its zip, or its name."),
    ],
    data: Annotated[Path, typer.Option(help="The data that the teacher was trained on.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the rounds.")],
    rounds: Annotated[int, typer.Option(help="Networks to train, one after another.")],
    student: Annotated[
        str | None,
        typer.Option(help="Bundle trained in each round; default: one branch, for the same data."),
    ] = None,
    split: Annotated[
        str,
        typer.Option(help="'test' scores the last round on the test split, too, at the end."),
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
    keep_scribbles: Annotated[
        bool,
        typer.Option(
            "--keep-scribbles", help="Stored partial labels replace the predictions there."
        ),
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1 …; default: CUDA where it is there.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Train a fresh network on a teacher's proposals, the next one on its proposals, and so on.

    Each round has a folder with its proposals, weights, curves and validation scores; rounds.md
    compares them. Interrupt it at any time: the same command resumes. More rounds can be added.

    Examples:

      mixseg self-train run --data ACDC -o rounds --rounds 3

      mixseg self-train run --data ACDC -o rounds --rounds 1 --student acdc_lv_confkd
      --config rows/decoupled.yaml --noisy-as partial --inference-branch teacher --lambda-w 1

    Settings of the student's train.yaml are options. Its classes are the teacher's.
    """
    from mixseg.apps.predict.pipeline import OutputError, choose_device
    from mixseg.apps.self_train.cases import read_selection
    from mixseg.apps.self_train.proposals import trained
    from mixseg.apps.self_train.rounds import SelfTraining
    from mixseg.apps.self_train.student import (
        decisive_settings,
        find_student,
        make_student,
        refuse_other_classes,
    )
    from mixseg.configuration.loading import configurations
    from mixseg.configuration.settings import read_settings, settings_in, settings_of
    from mixseg.files.atomic import ensure_writable

    with clear_errors():
        if rounds < 1:
            raise ValueError(f"--rounds is {rounds}: train one network at least")
        if split not in ("validation", "test"):
            raise ValueError(f"--split is '{split}': give validation or test")
        source = trained(teacher, weights, branch)
        folder, row = find_student(source.folder, student)
        overlays = (*row, *configurations(folder, config or ()))
        chosen = choose_device(device)
        known = settings_in(settings_of([folder / "configs" / "train.yaml", *overlays]))
        given = read_settings(context.args, known, f"the student, {folder.name}", _OWN_OPTIONS)
        selection = read_selection(source.files("train.yaml"), data)
        learner = make_student(folder, overlays, given, source, selection, device)
        refuse_other_classes(learner, selection)
        ensure_writable([output], "-o")
        work = SelfTraining(
            output,
            source,
            learner,
            selection,
            dataset_dir=data,
            device=chosen,
            keep_scribbles=keep_scribbles,
            progress=not quiet,
            show=show,
        )
        lock = FileLock(output / ".lock", timeout=0)
        # As Ctrl-C: the training that runs is ended, too.
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with lock:
                settings = decisive_settings(source, learner, selection, keep_scribbles)
                work.open(settings)
                _run(work, rounds, split, settings)
        except Timeout as error:
            raise ValueError(
                f"another self-training works in '{output}': wait for it, or choose another -o"
            ) from error
        except KeyboardInterrupt:
            console.print(f"\n[yellow]interrupted; to resume:[/] {this_command()}", soft_wrap=True)
            raise typer.Exit(130) from None
        except OutputError as error:
            raise fail(
                f"'{output}' cannot be written ({error}): make room; what is finished is kept, "
                "the same command resumes"
            ) from error
        finally:
            signal.signal(signal.SIGTERM, previous)


def _run(work: SelfTraining, rounds: int, split: str, settings: Mapping[str, Any]) -> None:
    """The rounds, and their table after each."""
    from mixseg.apps.self_train.table import round_table, write_rounds
    from mixseg.files.provenance import environment

    lines: list[dict[str, Any]] = []
    for number in range(1, rounds + 1):
        lines.append(work.run(number))
        if split == "test" and number == rounds:
            lines[-1]["scores"]["test"] = work.score(number, "test")
        write_rounds(work.output, lines, {"settings": settings, **environment()})
    console.print(round_table(lines))
    weights = work.folder(rounds) / "models" / "model.pt"
    console.print(f"last weights: {weights}", soft_wrap=True, highlight=False)
    console.print(f"table: {work.output / 'rounds.md'}", soft_wrap=True, highlight=False)
