"""The ``mixseg`` command."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Annotated, ClassVar

import typer

from mixseg.cli.lazy import HELP, LazyCommand, LazyGroup


class _Commands(LazyGroup):
    moved: ClassVar[Mapping[str, str]] = {
        "compare": "'python -m benchmarks.compare', in the repository"
    }
    lazy: ClassVar[Mapping[str, LazyCommand]] = {
        "quickstart": LazyCommand(
            "mixseg.cli.quickstart:quickstart",
            "Make synthetic data, train on masks alone and on masks and scribbles, and compare "
            "both.",
            takes_settings=True,
        ),
        "phantom": LazyCommand(
            "mixseg.cli.phantom:phantom",
            "Generate synthetic short-axis cardiac stacks in ACDC's layout, with their datalist.",
        ),
        "prepare": LazyCommand(
            "mixseg.cli.prepare:prepare_app",
            "Write the datalist of a public data set, or of your own.",
        ),
        "validate": LazyCommand(
            "mixseg.cli.validate:validate",
            "Check a datalist and every file it names; exit status 1 if anything is wrong.",
        ),
        "new": LazyCommand(
            "mixseg.cli.new:new", "Write a bundle for your own data, ready to train."
        ),
        "label": LazyCommand(
            "mixseg.cli.label:label",
            "Start a MONAI Label server for the scans in STUDIES.",
            takes_settings=True,
        ),
        "train": LazyCommand("mixseg.cli.train:train", "Train a bundle.", takes_settings=True),
        "evaluate": LazyCommand(
            "mixseg.cli.evaluate:evaluate",
            "Score a trained run, or a bundle that comes with weights, on the cases of a split.",
            takes_settings=True,
        ),
        "predict": LazyCommand(
            "mixseg.cli.predict:predict",
            "Segment an image or a folder of images; each mask has its image's own grid.",
            takes_settings=True,
        ),
        "report": LazyCommand(
            "mixseg.cli.report:report",
            "Write report.html of a training, an evaluation or a prediction from its files.",
        ),
        "propose": LazyCommand(
            "mixseg.cli.propose:propose",
            "Segment the training cases that have no full mask, and write them as a datalist.",
        ),
        "self-train": LazyCommand(
            "mixseg.cli.self_train:self_train",
            "Train a new network on a teacher's proposals, the next one on its proposals, "
            "and so on.",
            takes_settings=True,
        ),
        "info": LazyCommand(
            "mixseg.cli.info:info",
            "Show what a bundle segments, its inputs and labels, its scores and its licenses.",
        ),
        "verify": LazyCommand(
            "mixseg.cli.verify:verify",
            "Check bundles against MONAI's rules and this project's; exit status 1 if any fails.",
        ),
        "pack": LazyCommand(
            "mixseg.cli.pack:pack",
            "Pack a run, or a bundle, into OUTPUT/<name>_v<version>.zip, which runs without "
            "mixseg.",
        ),
        "export": LazyCommand(
            "mixseg.cli.export:export",
            "Export the network of a bundle, and compare the file with it on random images.",
            takes_settings=True,
        ),
    }


_HELP = """Segmentation with mixed supervision: a few full masks, many scribbles.

To try it without data: mixseg quickstart

To segment with weights that ship: mixseg predict acdc_mixed -i scans -o masks

From your own files to masks: prepare folder, new, train, evaluate, predict, one after another.
'mixseg COMMAND --help' has examples of each.
"""

app = typer.Typer(
    name="mixseg",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    context_settings=HELP,
    help=_HELP,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mixseg {version('mixseg')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Segmentation with mixed supervision: a few full masks, many scribbles."""


if __name__ == "__main__":
    app()
