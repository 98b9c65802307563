"""Configuration files: read as they are written, put together, and run without a word."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser
from monai.bundle.utils import merge_kv
from monai.utils.misc import CheckKeyDuplicatesYamlLoader, check_key_duplicates

# Else MONAI takes the last of two entries of one name, here and in the processes that are started.
os.environ.setdefault("MONAI_FAIL_ON_DUPLICATE_CONFIG", "1")


def load(path: Path) -> dict[str, Any]:
    """A configuration file, YAML or JSON, as it is written, expressions and references unresolved.

    Raises:
        ValueError: it is neither, has a key twice, or is not a mapping; names the file.
    """
    try:
        # MONAI reads in the encoding of the locale.
        with open(path, encoding="utf-8-sig") as file:
            if Path(path).suffix.lower() == ".json":
                content = json.load(file, object_pairs_hook=check_key_duplicates)
            else:
                content = yaml.load(file, CheckKeyDuplicatesYamlLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ValueError(f"{path} is not valid YAML: {error.problem}{place}: fix it") from error
    except RecursionError as error:
        raise ValueError(f"{path} cannot be read: it is nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}: fix it") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no settings, 'name: value' each: copy it from its bundle")
    return content


def load_all(files: Sequence[Path]) -> dict[str, Any]:
    """Configuration files one after the other, put together as MONAI does.

    Raises:
        ValueError: as of :func:`load`; or a file changes what those before it do not have.
    """
    parser = ConfigParser({})
    for path in files:
        for name, value in load(path).items():
            try:
                merge_kv(parser, name, value)
            except (KeyError, IndexError, TypeError) as error:
                raise ValueError(
                    f"{path} changes '{name}', and the files before it have no such part: give "
                    "them in the order in which they build on each other, or remove the line"
                ) from error
    return dict(parser.get())


def read_metadata(bundle: Path) -> dict[str, Any]:
    """A bundle's ``metadata.json``, which says what its network takes.

    Raises:
        ValueError: it cannot be read, or does not say that; names the file.
    """
    path = bundle / "configs" / "metadata.json"
    content = load(path)
    try:
        image = content["network_data_format"]["inputs"]["image"]
        int(image["num_channels"]), len(image["spatial_shape"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not say what the network takes: its network_data_format needs "
            "num_channels and spatial_shape of inputs.image. Copy the file from the bundle, or "
            "from one of the same kind"
        ) from error
    return content


def read_parser(files: Sequence[Path], settings: Mapping[str, Any]) -> ConfigParser:
    """Configuration files one after the other, with other values for settings that they have."""
    parser = ConfigParser(load_all(files))
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
    while error.__cause__ is not None and str(error).startswith(("Failed to ", "applying transf")):
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
