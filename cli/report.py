"""``mixseg report``: the page of a training, an evaluation or a prediction, made again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mixseg.cli.console import clear_errors, say


def report(
    folders: Annotated[
        list[Path], typer.Argument(help="Folders of trainings, of scores, or of masks.")
    ],
) -> None:
    """Write report.html of a training, an evaluation or a prediction from its files.

    Each of them writes the page when it ends. Use this command for a folder of an earlier version,
    or during a training.

    Example: mixseg report run run/test masks
    """
    from mixseg.report.page import write_page

    with clear_errors():
        for folder in folders:
            say(f"report: {write_page(folder)}")
