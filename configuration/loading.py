"""Configuration files: read as they are written, put together, and run without a word."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

__all__ = [
    "as_parsed",
    "cause_of",
    "configurations",
    "load",
    "overlays",
    "read_parser",
    "silence",
    "strings",
]


def load(path: Path) -> dict[str, Any]:
    """A configuration file as it is written, expressions and references unresolved."""
    return dict(ConfigParser.load_config_file(path))


def read_parser(files: Sequence[Path], settings: Mapping[str, Any]) -> ConfigParser:
    """Configuration files one after the other, with other values for settings that they have."""
    parser = ConfigParser(ConfigParser.load_config_files([str(path) for path in files]))
    parser.update({name: value for name, value in settings.items() if name in parser})
    return parser


def overlays(bundle: Path) -> list[Path]:
    """The files that are passed after train.yaml."""
    complete = {"train.yaml", "inference.yaml"}
    return [p for p in sorted((bundle / "configs").glob("*.yaml")) if p.name not in complete]


def strings(content: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every string value with its id."""
    if isinstance(content, str):
        yield place, content
    elif isinstance(content, (dict, list)):
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in pairs:
            yield from strings(value, f"{place}#{key}" if place else str(key))


def configurations(folder: Path, given: Sequence[Path], option: str = "--config") -> list[Path]:
    """Configuration files by their paths, or by their names in the bundle's configs/.

    Raises:
        ValueError: there is neither; names the option that gave it.
    """
    paths = []
    for path in given:
        inside = folder / "configs" / path
        if not path.is_file() and not inside.is_file():
            raise ValueError(f"{option}: there is neither '{path}' nor '{inside}'")
        paths.append(path if path.is_file() else inside)
    return paths


def as_parsed(value: Any) -> Any:
    """A value as MONAI's parser keeps it, which writes ``::`` for ``#``."""
    if isinstance(value, str):
        return value.replace("#", "::")
    if isinstance(value, dict):
        return {key: as_parsed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_parsed(item) for item in value]
    return value


def cause_of(error: BaseException) -> BaseException:
    """The error that a component raised, out of those that MONAI wraps around it."""
    while error.__cause__ is not None and str(error).startswith("Failed to "):
        error = error.__cause__
    return error


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep MONAI's summaries, warnings and what is printed off the screen."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
