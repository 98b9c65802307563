"""The ``mixseg`` command."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer
from mixseg.cli.prepare import prepare_app
from mixseg.cli.validate import validate

app = typer.Typer(
    name="mixseg",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    help="Segmentation with mixed supervision: a few full masks, many scribbles.",
)
app.add_typer(prepare_app, name="prepare")
app.command("validate")(validate)


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
