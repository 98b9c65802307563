"""The ``mixseg`` command."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from mixseg.cli.compare import compare_app
from mixseg.cli.export import export
from mixseg.cli.label import label
from mixseg.cli.new import new
from mixseg.cli.pack import pack
from mixseg.cli.phantom import phantom
from mixseg.cli.predict import predict
from mixseg.cli.prepare import prepare_app
from mixseg.cli.propose import propose
from mixseg.cli.quickstart import quickstart
from mixseg.cli.self_train import self_train
from mixseg.cli.validate import validate
from mixseg.cli.verify import verify

app = typer.Typer(
    name="mixseg",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    help="Segmentation with mixed supervision: a few full masks, many scribbles.",
)
app.command(
    "quickstart",
    # What is no option of its own is a knob of the bundle, checked by the command.
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(quickstart)
app.add_typer(prepare_app, name="prepare")
app.command("phantom")(phantom)
app.command("validate")(validate)
app.command("new")(new)
app.command(
    "label",
    # What is no option of its own is a knob of the bundle, checked by the command.
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(label)
app.command(
    "predict",
    # What is no option of its own is a knob of inference.yaml, checked by the command.
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(predict)
app.command(
    "propose",
    # What is no option of its own is a knob of the bundle, checked by the command.
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(propose)
app.command(
    "self-train",
    # What is no option of its own is a knob of the bundles, checked by the command.
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(self_train)
app.command("verify")(verify)
app.add_typer(compare_app, name="compare")
app.command("pack")(pack)
app.command(
    "export",
    # What is no option of its own is a knob of inference.yaml, checked by the command.
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(export)


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
