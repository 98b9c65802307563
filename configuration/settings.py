"""Settings on a command line: read, checked against the configuration files, refused."""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import monai.bundle
from monai.bundle import ConfigParser

__all__ = [
    "false_as_text",
    "literal",
    "read_settings",
    "run_settings",
    "setting_texts",
    "settings_in",
    "suggestion",
    "unknown_options",
]

#: Options of ``monai.bundle run`` itself, and those that its ``--tracking mlflow`` reads.
_RUN_OPTIONS = frozenset(inspect.signature(monai.bundle.run).parameters) - {"override"}
_TRACKING_OPTIONS = frozenset(
    {"output_dir", "tracking_uri", "experiment_name", "run_name", "save_execute_config"}
)


def run_settings(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """The settings of the ``monai.bundle run`` under way, expressions by their values.

    Args:
        argv: the command line; None for :data:`sys.argv`.

    Returns:
        Name → value of the entries of each configuration file up to its first component, with
        those of the command line; empty in another program. An expression whose value JSON cannot
        hold stands as it is written.
    """
    argv = sys.argv if argv is None else argv
    given = _given(argv[1:])
    if "config_file" not in given:
        return {}
    files = given["config_file"]
    files = files.split(",") if isinstance(files, str) else list(files)
    settings: dict[str, Any] = {}
    for file in files:
        for name, value in ConfigParser.load_config_file(file).items():
            if "#" in name or (isinstance(value, dict) and "_target_" in value):
                break
            settings[name.removeprefix("+")] = given.get(name, value)
    places = {"imports", "bundle_root", "dataset_dir", "datalist", "output_dir", "ckpt_dir"}
    places |= {"checkpoint", "device"}
    parser = ConfigParser(ConfigParser.load_config_files(files))
    parser.update({name: settings[name] for name in settings if name in given})
    return {name: _value(parser, name) for name in settings if name not in places}


def _value(parser: ConfigParser, name: str) -> Any:
    """An entry's value, or the entry as it is written where that is nothing for JSON."""
    try:
        value = parser.get_parsed_content(name)
        json.dumps(value)
    except Exception:  # whatever an expression raises
        return parser.get(name)
    return value


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


def suggestion(near: list[str]) -> str:
    """What is said of the known names that resemble an unknown one."""
    return f" (did you mean --{near[0]}?)" if near else ""


def setting_texts(arguments: Sequence[str], known: Collection[str], owner: str) -> dict[str, str]:
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


def read_settings(
    arguments: Sequence[str],
    known: Mapping[str, Any],
    owner: str = "inference.yaml",
    own: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """``--name value`` pairs, the values as Python literals where they are some.

    Switches take ``true`` and ``false`` in lower case too: as texts both would count as true.

    Args:
        arguments: what the command line has beyond the command's own options.
        known: configuration that has the settings.
        owner: what has them, for the message.
        own: settings that the command gives by itself → what gives them there.

    Raises:
        ValueError: for a name that is none of them, one of ``own``, or one without a value.
    """
    texts = setting_texts(arguments, known, owner)
    for name in texts:
        if name in own:
            raise ValueError(f"'--{name}' is given by {own[name]} here")
    return {
        name: literal(text.capitalize() if isinstance(known[name], bool) else text)
        for name, text in texts.items()
    }


def settings_in(*configs: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of configurations: entries at the top that are no part which is wired."""
    return {k: v for config in configs for k, v in config.items() if not isinstance(v, dict)}
