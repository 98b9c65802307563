"""The bundle workflow under way, as its components see it."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from monai.bundle import ConfigParser, ConfigWorkflow

Kind = TypeVar("Kind")
P = ParamSpec("P")
R = TypeVar("R")


def running_parser() -> ConfigParser | None:
    """The parser that resolves the configuration of which the caller is a component.

    MONAI hands a component its arguments alone. The parser that builds it is on the call stack,
    whoever started the run: the command line, a program, or MONAI Label.

    Returns:
        The innermost parser; None outside a configuration.
    """
    return _first(ConfigParser)


def running_workflow() -> ConfigWorkflow | None:
    """The workflow that runs the configuration of which the caller is a component, or None."""
    return _first(ConfigWorkflow)


def running_entry(name: str) -> Any:
    """An entry of the configuration of which the caller is a component, built where it was not yet.

    Raises:
        ValueError: no configuration is run, or it has no such entry.
    """
    parser = running_parser()
    if parser is None or name not in parser:
        raise ValueError(f"the configuration has no '{name}', which a part of it reads")
    return parser.get_parsed_content(name)


def reads_entries(**entries: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a part of a configuration take what it is not given from the configuration itself.

    For parts of the run, not of the method: where a run writes, how often it validates and whether
    it resumes are settings of the same names in every bundle. Outside a configuration, and where
    it has no such entry, an argument keeps its default.

    Args:
        entries: argument → id of the entry that it takes where it is not given; the part has them
            as its attribute ``entries``.

    Examples:
        >>> @reads_entries(folder="output_dir")
        ... def place(folder=".", name="a"):
        ...     return f"{folder}/{name}"
        >>> place(), place.entries  # outside a configuration
        ('./a', {'folder': 'output_dir'})
    """

    def decorate(part: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(part)
        def complete(*args: P.args, **kwargs: P.kwargs) -> R:
            parser = running_parser()
            if parser is not None:
                given = inspect.signature(part).bind_partial(*args, **kwargs).arguments
                found: Any = {
                    name: parser.get_parsed_content(id)
                    for name, id in entries.items()
                    if name not in given and id in parser
                }
                kwargs |= found
            return part(*args, **kwargs)

        complete.entries = entries  # type: ignore[attr-defined]
        return complete

    return decorate


def bundle_folder() -> str:
    """The folder of the bundle that runs, wherever it was moved: ``bundle_root`` of a run.

    Returns:
        The folder that holds the first configuration file, or the folder above it where that one
        is called ``configs``; ``.`` where no workflow runs.
    """
    workflow = running_workflow()
    if workflow is None:
        return "."
    folder = workflow.config_root_path
    return str(folder.parent if folder.name == "configs" else folder)


def _first(kind: type[Kind]) -> Kind | None:
    return next((owner for owner in _owners() if isinstance(owner, kind)), None)


def _owners() -> Iterator[Any]:
    """``self`` of every method on the call stack, the innermost first."""
    frame = sys._getframe(1)
    while frame is not None:
        if (owner := frame.f_locals.get("self")) is not None:
            yield owner
        frame = frame.f_back  # type: ignore[assignment]
