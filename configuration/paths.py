"""Values of the command line that MONAI alters or drops: paths with its syntax, and null."""

from __future__ import annotations

import os
from collections.abc import Sequence

from monai.bundle.config_item import ConfigExpression, ConfigItem

from mixseg.configuration.settings import option_texts
from mixseg.configuration.workflow import running_parser

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


def restore_values(arguments: Sequence[str]) -> None:
    """Let paths and null of ``monai.bundle run``'s command line reach the configuration.

    MONAI leaves out an option of the value None, so that the default would stay. Python Fire, which
    reads the command line, makes numbers of the paths ``20240131`` and ``2024_01``, and MONAI's
    parser rewrites what :func:`literal_path` escapes. A value that begins with ``$``, ``@`` or
    ``%`` is a path only where such a file or folder exists.

    Args:
        arguments: the command line after the program.

    Raises:
        ValueError: a part of an entry is set to None.
    """
    parser = running_parser()
    if parser is None:
        return
    # The parser has split the configuration into items already; these are not resolved yet.
    items = parser.ref_resolver.items
    for name, text in option_texts(arguments).items():
        if text == "None" and ("#" in name or "::" in name):
            raise ValueError(
                f"--{name} None cannot be given here: write '{name}: null' into a file, and pass "
                "it behind the others in --config_file"
            )
        if name not in parser.config or text in ("null", "none", ""):
            continue
        if text == "None":
            parser.config[name] = None
            items[name] = ConfigItem(None, name)
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
        items[name] = ConfigExpression(literal, name, globals=parser.globals)
        parser.ref_resolver.resolved_content.pop(name, None)
