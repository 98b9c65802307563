"""What a bundle does first when it is run from the command line: typos refused, errors readable."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import monai.bundle

from mixseg.configuration.loading import cause_of
from mixseg.configuration.settings import misread_values, one_dash, suggestion, unknown_options
from mixseg.configuration.threads import share_processors

__all__ = ["start_command"]


def start_command(argv: Sequence[str] | None = None) -> None:
    """Refuse options that no configuration knows, and let errors end with their cause.

    MONAI takes an option of an unknown name as a new configuration entry that nothing reads, so
    ``--lamda_ent 0`` would train with the default. It also reports the failure of a component at
    the end of a long traceback that does not name the cause; :func:`sys.excepthook` then prints
    the cause once more, as the last line. PyTorch gets half of the processors, see
    :func:`share_processors`, and Ignite's messages are left out unless MIXSEG_VERBOSE is set.

    Nothing is done unless the program is ``python -m monai.bundle`` (also under ``torchrun``).

    Args:
        argv: the command line; None for :data:`sys.argv`.

    Raises:
        ValueError: naming options with one dash, unknown options, each with the nearest known
            name, or values such as ``false`` and ``null`` that would be texts.
    """
    argv = sys.argv if argv is None else argv
    if not argv or Path(argv[0]) != Path(monai.bundle.__file__).with_name("__main__.py"):
        return
    sys.excepthook = _end_with_cause
    share_processors()
    if "MIXSEG_VERBOSE" not in os.environ:
        # Two lines of Ignite an epoch, and two a validation, hide what concerns a user.
        logging.getLogger("ignite").setLevel(logging.WARNING)
    if dashes := one_dash(argv[1:]):
        raise ValueError(
            "; ".join(f"'{name}' begins with one dash: write -{name}" for name in dashes)
        )
    unknown = unknown_options(argv[1:])
    if unknown:
        raise ValueError(
            "no such option: "
            + "; ".join(f"--{name}{suggestion(near)}" for name, near in unknown.items())
            + ". The settings are at the top of the configuration files"
        )
    if misread := misread_values(argv[1:]):
        raise ValueError(
            "; ".join(f"write --{name} {value!r}" for name, value in misread.items())
            + ": monai.bundle takes any other spelling for a text"
        )


def _end_with_cause(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """The usual traceback, then the cause as the last lines."""
    sys.__excepthook__(kind, error, traceback)
    cause = cause_of(error)
    if cause is not error:
        print(f"\nerror: {cause}", file=sys.stderr)
