"""Settings on a command line: read, checked against the configuration files, refused."""

from __future__ import annotations

import ast
import difflib
import inspect
import itertools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import monai.bundle
import yaml
from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser, ConfigWorkflow

from mixseg.configuration.kinds import refuse_other_kinds
from mixseg.configuration.loading import load
from mixseg.configuration.workflow import running_parser

#: Options of ``monai.bundle run`` itself, and those that its ``--tracking mlflow`` reads.
_RUN_OPTIONS = frozenset[str]().union(
    *(
        inspect.signature(function).parameters
        for function in (monai.bundle.run, monai.bundle.create_workflow, ConfigWorkflow)
    )
) - {"override", "kwargs"}
#: What every training knows, whether or not its configuration names it.
_TRAINING_OPTIONS = frozenset({"overwrite"})
_TRACKING_OPTIONS = frozenset(
    {"output_dir", "tracking_uri", "experiment_name", "run_name", "save_execute_config"}
)

#: What a workflow consists of, and where it reads and writes.
_WORKFLOW = frozenset({"imports", "initialize", "run", "training", "evaluating", "inference"})
_WORKFLOW |= {"finalize", "_meta_"}
_PLACES = frozenset({"bundle_root", "dataset_dir", "datalist", "output_dir", "ckpt_dir"})
_PLACES |= {"checkpoint", "device", "resume", "overwrite", "progress"}


def run_settings() -> dict[str, Any]:
    """The settings of the bundle workflow under way, expressions by their values.

    Returns:
        As of :func:`written_settings`. An expression whose value JSON cannot hold stands as it is
        written.
    """
    parser = running_parser()
    return {} if parser is None else {name: _value(parser, name) for name in written_settings()}


def _value(parser: ConfigParser, name: str) -> Any:
    """An entry's value, or the entry as it is written where that is nothing for JSON."""
    try:
        value = parser.get_parsed_content(name)
        json.dumps(value)
    except Exception:  # whatever an expression raises
        return parser.get(name)
    return value


def written_settings() -> dict[str, Any]:
    """The settings of the bundle workflow under way, expressions as written.

    Returns:
        Name → value of each entry at the top of the configuration that is not a component, names
        none, and is not a place of the machine; empty outside a workflow.
    """
    parser = running_parser()
    if parser is None:
        return {}
    config: dict[str, Any] = parser.get()
    parts = {name for name, value in config.items() if not _is_plain(value)}
    left_out = parts | _PLACES | _WORKFLOW
    return {
        name: value
        for name, value in config.items()
        if name not in left_out and not _named(value) & parts
    }


def _is_plain(value: Any) -> bool:
    """Whether a value holds no component."""
    if isinstance(value, dict):
        return "_target_" not in value and all(map(_is_plain, value.values()))
    return not isinstance(value, list) or all(map(_is_plain, value))


def _named(value: Any) -> set[str]:
    """Entries at the top that the expressions and references in a value name."""
    if isinstance(value, (dict, list)):
        items = value.values() if isinstance(value, dict) else value
        return set().union(*map(_named, items))
    is_code = isinstance(value, str) and value[:1] in ("@", "$")
    return set(re.findall(r"@(\w+)", value)) if is_code else set()


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
    known = {name.removeprefix("+") for name in known} | _RUN_OPTIONS | _TRAINING_OPTIONS
    if "tracking" in given:
        known |= _TRACKING_OPTIONS
    return {
        name: difflib.get_close_matches(name, known, n=1)
        for name in given
        if "#" not in name and "::" not in name and name not in known
    }


def misread_values(arguments: Sequence[str]) -> dict[str, Any]:
    """Values that YAML would understand, and that reach the configuration as texts.

    Python Fire, which reads MONAI's command line, knows Python's ``False`` and ``None`` alone; a
    text ``false`` counts as true. In the file of ``--args_file`` a number such as ``1e-3`` is a
    text, since PyYAML wants a point in it.

    Returns:
        Name → the value that was meant.
    """
    given = _given(arguments)
    if "config_file" not in given:
        return {}
    config = ConfigParser.load_config_files(given["config_file"])
    typed, misread = option_texts(arguments), {}
    for name, value in given.items():
        if isinstance(value, str) and name not in _RUN_OPTIONS:
            meant = value_of(value, config.get(name))
            # Fire understands lists of bare words, [background, LA], which no literal is.
            arrives = DefaultParseValue(value) if name in typed else value
            if not isinstance(meant, str) and meant != arrives:
                misread[name] = meant
    return misread


def one_dash(arguments: Sequence[str]) -> list[str]:
    """Options that begin with one dash, which Python Fire takes for values of MONAI's own ones."""
    return [
        argument
        for before, argument in itertools.pairwise(["", *arguments])
        if re.match(r"-[A-Za-z]", argument) and not (before.startswith("--") and "=" not in before)
    ]


def _given(arguments: Sequence[str]) -> dict[str, Any]:
    """Options of the command line, and of the file that ``--args_file`` names."""
    given = {name: literal(text) for name, text in option_texts(arguments).items()}
    if "args_file" in given:
        given = {**ConfigParser.load_config_file(str(given["args_file"])), **given}
    return given


def option_texts(arguments: Sequence[str]) -> dict[str, str]:
    """Name → what was typed behind it; empty where nothing was.

    Args:
        arguments: as for :func:`unknown_options`; ``-`` in a name is ``_``, as Python Fire has it.
    """
    options = {}
    for argument, following in itertools.pairwise([*arguments, "--"]):
        if argument.startswith("--") and argument != "--":
            name, equals, value = argument[2:].partition("=")
            if not equals and not following.startswith("--"):
                value = following
            options[name.replace("-", "_")] = value
    return options


def literal(text: str) -> Any:
    """A value of the command line as Python Fire reads it: a Python literal, or else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def value_of(text: str, present: Any = None) -> Any:
    """A value of the command line, as Python or YAML understands it.

    Args:
        text: a Python literal (``[8,16]``, ``None``, ``1e-3``), YAML's ``true``, ``null``,
            ``[a, b]`` or ``{a: 1}``, or any other text. ``none`` is null.
        present: the value that it replaces; ``none`` stays a text where that is this very text.

    Returns:
        The value; the text itself where it is neither.
    """
    value = literal(text)
    if value != text or not isinstance(value, str):
        return value
    if not text or text.lower() == "none":
        return text if not text or present == text else None
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, (list, dict)) and text[0] in "[{":
        return _with_numbers(value)
    return value if value is None or isinstance(value, bool) else text


def _with_numbers(value: Any) -> Any:
    """What YAML reads, numbers such as ``1e-3`` among it."""
    if isinstance(value, list):
        return [_with_numbers(one) for one in value]
    if isinstance(value, dict):
        return {name: _with_numbers(one) for name, one in value.items()}
    return literal(value) if isinstance(value, str) else value


def suggestion(near: list[str]) -> str:
    """Suggestion of known names that resemble an unknown one."""
    return f" (did you mean --{near[0]}?)" if near else ""


def setting_texts(arguments: Sequence[str], known: Collection[str], owner: str) -> dict[str, str]:
    """``--name value`` and ``--name=value`` pairs that a command takes beyond its own options.

    Args:
        arguments: what the command line has beyond the command's own options.
        known: names of the settings that there are. They may be written with hyphens, and an
            entry below one of them as ``--optimizer#lr``.
        owner: what has these settings, for the message.

    Raises:
        ValueError: a name that is not a setting, or a name without a value.
    """
    settings: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        written, separator, value = rest.pop(0).partition("=")
        name = written.removeprefix("--").replace("-", "_")
        if not written.startswith("--") or re.split("#|::", name)[0] not in known:
            near = difflib.get_close_matches(name.lstrip("_"), list(known), n=1)
            raise ValueError(
                f"'{written}' is neither an option nor a setting of {owner}{suggestion(near)}"
            )
        if not separator:
            if not rest:
                raise ValueError(f"'{written}' needs a value")
            value = rest.pop(0)
        settings[name] = value
    return settings


def read_settings(
    arguments: Sequence[str],
    known: Mapping[str, Any],
    owner: str = "inference.yaml",
    own: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """``--name value`` pairs, the values as :func:`value_of` understands them.

    Args:
        arguments: what the command line has beyond the command's own options.
        known: configuration that has the settings.
        owner: what has them, for the message.
        own: settings that the command gives by itself → what gives them there.

    Raises:
        ValueError: for an unknown name, one of ``own``, or one without a value or of another kind.
    """
    texts = setting_texts(arguments, known, owner)
    for name in texts:
        if name in own:
            raise ValueError(f"'--{name}' is set by {own[name]} here")
    settings = {name: value_of(text, known.get(name)) for name, text in texts.items()}
    refuse_other_kinds(settings)
    return settings


def settings_of(files: Sequence[Path]) -> dict[str, Any]:
    """The entries of configuration files as they are written, those of later files first."""
    merged: dict[str, Any] = {}
    for file in files:
        merged |= {name.removeprefix("+"): value for name, value in load(file).items()}
    return merged


def settings_in(*configs: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of configurations: entries at the top that are not a wired part."""
    return {k: v for config in configs for k, v in config.items() if not isinstance(v, dict)}
