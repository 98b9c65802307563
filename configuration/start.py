"""What a bundle does first when it is run from the command line: typos refused, errors readable."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import monai.bundle

from mixseg.configuration.loading import cause_of
from mixseg.configuration.parent import end_with_parent
from mixseg.configuration.settings import false_as_text, suggestion, unknown_options

__all__ = ["start_command"]


def start_command(argv: Sequence[str] | None = None) -> None:
    """Refuse options that no configuration knows, and let errors end with their cause.

    MONAI takes an option of an unknown name as a new configuration entry that nothing reads, so
    ``--lamda_ent 0`` would train with the default. It also reports the failure of a component at
    the end of a long traceback that does not name the cause; :func:`sys.excepthook` then prints
    the cause once more, as the last line.

    Nothing is done unless the program is ``python -m monai.bundle`` (also under ``torchrun``).

    A run that a command started ends with it, see :func:`mixseg.configuration.end_with_parent`.

    Args:
        argv: the command line; None for :data:`sys.argv`.

    Raises:
        ValueError: naming the unknown options, each with the nearest known name, or switches
            given as ``false``.
    """
    end_with_parent()
    argv = sys.argv if argv is None else argv
    if not argv or Path(argv[0]) != Path(monai.bundle.__file__).with_name("__main__.py"):
        return
    sys.excepthook = _end_with_cause
    unknown = unknown_options(argv[1:])
    if unknown:
        raise ValueError(
            "no such option: "
            + "; ".join(f"--{name}{suggestion(near)}" for name, near in unknown.items())
            + ". The knobs are at the top of the configuration files"
        )
    if texts := false_as_text(argv[1:]):
        raise ValueError(
            "; ".join(f"write --{name} False, with a capital" for name in texts)
            + ": in lower case it is a text, and counts as true"
        )


def _end_with_cause(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """The usual traceback, then the cause as the last lines."""
    sys.__excepthook__(kind, error, traceback)
    cause = cause_of(error)
    if cause is not error:
        print(f"\nerror: {cause}", file=sys.stderr)
