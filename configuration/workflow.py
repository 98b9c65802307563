"""The bundle workflow under way, as its components see it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, TypeVar

from monai.bundle import ConfigParser, ConfigWorkflow

__all__ = ["bundle_folder", "running_parser", "running_workflow"]

Kind = TypeVar("Kind")


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
