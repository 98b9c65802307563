"""What the commands share: consoles, the way they fail, and writing a datalist."""

from __future__ import annotations

import errno
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.rule import Rule
from rich.table import Table

if TYPE_CHECKING:
    from mixseg.data.datalist import Datalist


#: Arguments and options of several commands.
Bundle = Annotated[
    str, typer.Argument(help="A bundle's folder, a zip of 'mixseg pack', or a name.")
]
Trained = Annotated[
    str,
    typer.Argument(help="Folder of a run; or of a bundle with weights, its zip, or its name."),
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1 …; default: CUDA if available.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show all log messages.")]
KeepScribbles = Annotated[
    bool,
    typer.Option(
        "--keep-scribbles", help="Keep stored partial labels: they replace the prediction."
    ),
]

console = Console()
error_console = Console(stderr=True)


class _Notes(logging.Handler):
    """Prints what the rooms below log as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


@contextmanager
def hushed() -> Iterator[None]:
    """Hide the log messages and warnings of MONAI, Ignite and PyTorch."""
    loggers = [logging.getLogger(name) for name in ("monai", "ignite", "torch")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for logger in loggers:
            warnings.filterwarnings("ignore", module=rf"{logger.name}(\.|$)")
            logger.setLevel(logging.ERROR)
        # MONAI's, raised on behalf of whoever reads a configuration.
        warnings.filterwarnings("ignore", message="parsing config_file")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def this_command(without: str = "", plus: str = "") -> str:
    """The command line of this process as one would type it, without one word, or with one more."""
    from mixseg.apps.bundle.run import shown

    words = [word for word in sys.argv[1:] if word not in (without, plus)]
    return shown(["mixseg", *words, *([plus] if plus else [])])


logging.getLogger("mixseg.apps").addHandler(_Notes(logging.WARNING))


def say(text: str) -> None:
    """Print text as it is: nothing in it is taken for a style, and paths stay in one piece."""
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def note(text: str, place: Console = error_console) -> None:
    """Print what the user should know, on standard error unless told otherwise."""
    place.print(f"[yellow]note:[/] {escape(text)}", soft_wrap=True)


def fail(message: str) -> typer.Exit:
    """Print an error and return the exception that ends the command with exit status 1."""
    # Not wrapped: paths in messages stay in one piece, also where there is no terminal.
    error_console.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    return typer.Exit(1)


def show(text: str, kind: str = "") -> None:
    """Print a message of a long task; ``kind`` is ``heading``, ``command``, ``done`` or empty."""
    if kind == "heading":
        console.print(Rule(f"[bold]{escape(text)}", align="left"))
    elif kind == "command":
        console.print(f"[cyan]{escape(text)}[/]", soft_wrap=True, highlight=False)
    elif kind == "done":
        console.print(f"[dim]{escape(text)}[/]")
    else:
        console.print(escape(text))


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn the errors that a user can fix (bad data, unwritable folders) into :func:`fail`."""
    try:
        yield
    except BrokenPipeError:
        raise  # whoever read the output has seen enough: Typer ends the command without a word
    except PermissionError as error:
        raise fail(f"no permission to write '{error.filename}'") from error
    except (FileExistsError, NotADirectoryError) as error:
        if error.filename is None:
            raise fail(str(error)) from error
        raise fail(
            f"'{error.filename}' cannot be made, a file is in the place of a folder: choose "
            "another folder, with --output where the command has it"
        ) from error
    except OSError as error:
        # An error that was raised with a message alone names the file in it.
        place = "" if error.filename is None else f"'{error.filename}': "
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        fix = "; make room, or choose another folder" if full else ""
        raise fail(f"{place}{error.strerror or error}{fix}") from error
    except ValueError as error:
        raise fail(str(error)) from error


@contextmanager
def interruptible(again: str, to: str = "resume") -> Iterator[None]:
    """End the command at Ctrl-C, or SIGTERM, with the command that resumes."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(f"\n[yellow]interrupted; to {to}:[/] {again}", soft_wrap=True)
        raise typer.Exit(130) from None


def refuse_existing(path: Path, overwrite: bool) -> None:
    """End the command where ``path`` exists and ``--overwrite`` is not given."""
    if path.exists() and not overwrite:
        raise fail(f"'{path}' exists; give --overwrite to replace it")


def number_table(title: str, *columns: str) -> Table:
    """A table whose first column is text and whose others are numbers."""
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left")
    return table


def datalist_table(datalist: Datalist, title: str) -> Table:
    """Patients, cases and hand-drawn scribbles of each split."""
    from mixseg.data.datalist import SPLITS

    table = number_table(title, "split", "patients", "cases", "scribble files")
    for split in SPLITS:
        entries = getattr(datalist, split)
        table.add_row(
            split,
            str(len({entry.patient_id for entry in entries})),
            str(len(entries)),
            str(sum(entry.scribble is not None for entry in entries)),
        )
    return table
