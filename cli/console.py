"""What the commands share: consoles, the way they fail, and writing a datalist."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mixseg.data.datalist import SPLITS, Datalist

console = Console()
error_console = Console(stderr=True)


def fail(message: str) -> typer.Exit:
    """Print an error and return the exception that ends the command with exit status 1."""
    # Not wrapped: paths in messages stay in one piece, also where there is no terminal.
    error_console.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    return typer.Exit(1)


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn the errors that a user can mend (bad data, unwritable folders) into :func:`fail`."""
    try:
        yield
    except PermissionError as error:
        raise fail(f"no permission to write '{error.filename}'") from error
    except OSError as error:
        # An error that was raised with a message alone names the file in it.
        place = "" if error.filename is None else f"'{error.filename}': "
        raise fail(f"{place}{error.strerror or error}") from error
    except ValueError as error:
        raise fail(str(error)) from error


def refuse_existing(path: Path, force: bool) -> None:
    """End the command where ``path`` exists and ``--force`` is not given."""
    if path.exists() and not force:
        raise fail(f"'{path}' exists; give --force to overwrite it")


def datalist_table(datalist: Datalist, title: str) -> Table:
    """Patients, cases and hand-drawn scribbles of each split."""
    table = Table(title=title, title_justify="left")
    table.add_column("split")
    for name in ("patients", "cases", "with scribble"):
        table.add_column(name, justify="right")
    for split in SPLITS:
        entries = getattr(datalist, split)
        table.add_row(
            split,
            str(len({entry.patient_id for entry in entries})),
            str(len(entries)),
            str(sum(entry.scribble is not None for entry in entries)),
        )
    return table


def knob_texts(arguments: Sequence[str], known: Collection[str], owner: str) -> dict[str, str]:
    """``--name value`` and ``--name=value`` pairs that a command takes beyond its own options.

    Args:
        arguments: what the command line has beyond the command's own options.
        known: names of the knobs that there are.
        owner: what has these knobs, for the message.

    Raises:
        ValueError: a name that is no knob, or a name without a value.
    """
    knobs: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        name, separator, value = rest.pop(0).partition("=")
        if not name.startswith("--") or name[2:] not in known:
            raise ValueError(f"'{name}' is neither an option nor a knob of {owner}")
        if not separator:
            if not rest:
                raise ValueError(f"'{name}' needs a value")
            value = rest.pop(0)
        knobs[name[2:]] = value
    return knobs


def refuse_own(knobs: Iterable[str], own: Mapping[str, str]) -> None:
    """Raise ValueError for a knob that the command sets by itself.

    Args:
        knobs: names that were given.
        own: knob → what gives it here.
    """
    for name in knobs:
        if name in own:
            raise ValueError(f"'--{name}' is given by {own[name]} here")
