"""What a bundle does first when it is run from the command line: typos refused, errors readable."""

from __future__ import annotations

import ast
import difflib
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import monai.bundle
from monai.bundle import ConfigParser

__all__ = ["cause_of", "literal", "start_command", "unknown_options"]

#: Options of ``monai.bundle run`` itself, and those that its ``--tracking mlflow`` reads.
_RUN_OPTIONS = frozenset(inspect.signature(monai.bundle.run).parameters) - {"override"}
_TRACKING_OPTIONS = frozenset(
    {"output_dir", "tracking_uri", "experiment_name", "run_name", "save_execute_config"}
)


def start_command(argv: Sequence[str] | None = None) -> None:
    """Refuse options that no configuration knows, and let errors end with their cause.

    MONAI takes an option of an unknown name as a new configuration entry that nothing reads, so
    ``--lamda_ent 0`` would train with the default. It also reports the failure of a component at
    the end of a long traceback that does not name the cause; :func:`sys.excepthook` then prints
    the cause once more, as the last line.

    Nothing is done unless the program is ``python -m monai.bundle`` (also under ``torchrun``).

    Args:
        argv: the command line; None for :data:`sys.argv`.

    Raises:
        ValueError: naming the unknown options, each with the nearest known name, or switches
            given as ``false``.
    """
    argv = sys.argv if argv is None else argv
    if not argv or Path(argv[0]) != Path(monai.bundle.__file__).with_name("__main__.py"):
        return
    sys.excepthook = _end_with_cause
    unknown = unknown_options(argv[1:])
    if unknown:
        raise ValueError(
            "no such option: "
            + "; ".join(f"--{name}{_suggestion(near)}" for name, near in unknown.items())
            + ". The knobs are at the top of the configuration files"
        )
    if texts := false_as_text(argv[1:]):
        raise ValueError(
            "; ".join(f"write --{name} False, with a capital" for name in texts)
            + ": in lower case it is a text, and counts as true"
        )


def unknown_options(arguments: Sequence[str]) -> dict[str, list[str]]:
    """Options of ``monai.bundle run`` that name no entry of the configuration files.

    Args:
        arguments: the command line after the program, e.g. ``["run", "training", "--lr", "1"]``.

    Returns:
        Unknown name → known names that resemble it. Options with ``#`` are left to MONAI, which
        refuses a missing parent, and to the component that gets an unknown argument.
    """
    given = _given(arguments)
    if "config_file" not in given:
        return {}
    known = set(ConfigParser.load_config_files(given["config_file"]))
    known = {name.removeprefix("+") for name in known} | _RUN_OPTIONS
    if "tracking" in given:
        known |= _TRACKING_OPTIONS
    return {
        name: difflib.get_close_matches(name, known, n=1)
        for name in given
        if "#" not in name and "::" not in name and name not in known
    }


def false_as_text(arguments: Sequence[str]) -> list[str]:
    """Switches that are given as ``false``, a text that counts as true.

    Python Fire, which reads MONAI's command line, knows Python's ``False`` alone. ``true`` is
    text as well, but means what it says.

    Args:
        arguments: as for :func:`unknown_options`.
    """
    given = _given(arguments)
    if "config_file" not in given:
        return []
    config = ConfigParser.load_config_files(given["config_file"])
    return [
        name
        for name, value in given.items()
        if isinstance(config.get(name), bool)
        and isinstance(value, str)
        and value.lower() in ("false", "no", "off")
    ]


def _given(arguments: Sequence[str]) -> dict[str, Any]:
    """Options of the command line, and of the file that ``--args_file`` names."""
    given = _options(arguments)
    if "args_file" in given:
        given = {**ConfigParser.load_config_file(str(given["args_file"])), **given}
    return given


def _options(arguments: Sequence[str]) -> dict[str, Any]:
    """Name → value of each ``--name value`` and ``--name=value``, as Python Fire reads them."""
    options: dict[str, Any] = {}
    for i, argument in enumerate(arguments):
        if not argument.startswith("--") or argument == "--":
            continue
        name, equals, value = argument[2:].partition("=")
        if not equals:
            value = arguments[i + 1] if i + 1 < len(arguments) else ""
        options[name.replace("-", "_")] = literal(value)
    return options


def literal(text: str) -> Any:
    """A value of the command line as Python Fire reads it: a Python literal, or else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _suggestion(near: list[str]) -> str:
    return f" (did you mean --{near[0]}?)" if near else ""


def cause_of(error: BaseException) -> BaseException:
    """The error that a component raised, out of those that MONAI wraps around it."""
    while error.__cause__ is not None and str(error).startswith("Failed to "):
        error = error.__cause__
    return error


def _end_with_cause(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """The usual traceback, then the cause as the last lines."""
    sys.__excepthook__(kind, error, traceback)
    cause = cause_of(error)
    if cause is not error:
        print(f"\nerror: {cause}", file=sys.stderr)
