"""Paths in a configuration, whose syntax would take parts of them for its own."""

from __future__ import annotations

import os
from collections.abc import Sequence

from monai.bundle.config_item import ConfigExpression

from mixseg.configuration.settings import option_texts
from mixseg.configuration.workflow import running_parser

__all__ = ["literal_path", "restore_paths"]

#: Settings that are paths whatever they look like: ``20240131`` is a folder, not a number.
_PATHS = ("dataset_dir", "datalist", "output_dir", "ckpt_dir", "checkpoint", "exported")
_SYNTAX = "#$@%"


def literal_path(path: str | os.PathLike[str]) -> str:
    """A path as a value of a configuration that MONAI leaves as it is.

    MONAI writes ``::`` for every ``#``, and takes a text that begins with ``$``, ``@`` or ``%`` for
    an expression, a reference or a macro. In the place of such a path stands a Python string with
    those characters escaped.

    Examples:
        >>> literal_path("runs/run3")
        'runs/run3'
        >>> literal_path("runs/run#3")
        "$'runs/run\\\\x233'"
    """
    text = os.fspath(path)
    if "#" not in text and text[:1] not in tuple(_SYNTAX):
        return text
    quoted = repr(text)
    for character in _SYNTAX:
        quoted = quoted.replace(character, f"\\x{ord(character):02x}")
    return f"${quoted}"


def restore_paths(arguments: Sequence[str]) -> None:
    """Let the paths of ``monai.bundle run``'s command line reach the configuration as they are.

    Python Fire, which reads the command line, makes numbers of ``20240131`` and ``2024_01``, and
    MONAI's parser rewrites what :func:`literal_path` escapes. A value that begins with ``$``, ``@``
    or ``%`` is a path only where such a file or folder exists.

    Args:
        arguments: the command line after the program.
    """
    parser = running_parser()
    if parser is None:
        return
    for name, text in option_texts(arguments).items():
        if name not in parser.config or text in ("None", "null", "none", ""):
            continue
        if text[:1] in ("$", "@", "%") and not os.path.exists(text):
            continue
        value = parser.config[name]
        altered = not isinstance(value, str) or value != text
        if not (name in _PATHS and (altered or "#" in text)):
            continue
        # Always an expression: YAML in a run's record would read the text as a number again.
        literal = literal_path(text)
        literal = literal if literal.startswith("$") else f"${text!r}"
        parser.config[name] = literal
        # The parser has split the configuration into items already; this one is not resolved yet.
        resolver = parser.ref_resolver
        resolver.items[name] = ConfigExpression(literal, name, globals=parser.globals)
        resolver.resolved_content.pop(name, None)
