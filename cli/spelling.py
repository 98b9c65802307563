"""How options are written: hyphens or underscores, and what became of earlier names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

#: Names of before that mean the same.
_ALIASES = {"--checkpoint": "--weights"}
#: Names of before that are refused.
_RENAMED = {"--force": "--overwrite", "--dataset-dir": "--data", "--output-dir": "--output"}
_RUN = "it takes a run's folder, which knows its own settings"
#: Names of before that nothing replaces → why.
_GONE = {
    "--overlay": _RUN,
    "--teacher-setting": _RUN,
    "--teacher-config": _RUN,
}


def present_spelling(arguments: Sequence[str], names: Mapping[str, bool]) -> list[str]:
    """The arguments of a command with its own options in their present spelling.

    Args:
        arguments: as they were typed.
        names: the command's options, such as ``--num-full`` → whether they are switches.

    Returns:
        The arguments; those that are not options of the command as they were.

    Raises:
        ValueError: an option was renamed or went, or one of several letters begins with one dash.
    """
    present: list[str] = []
    is_value = False
    for position, argument in enumerate(arguments):
        if argument == "--":
            return [*present, *arguments[position:]]
        if is_value or not argument.startswith("-"):
            present.append(argument)
            is_value = False
            continue
        if re.match(r"-[A-Za-z][A-Za-z_]", argument):
            raise ValueError(
                f"'{argument}' begins with one dash: write --{argument[1:]}, or a space between an "
                "option of one letter and its value"
            )
        written, equals, value = argument.partition("=")
        name = _present(written, names)
        is_value = names.get(name) is False and not equals
        present.append(f"{name}{equals}{value}")
    return present


def _present(written: str, names: Mapping[str, bool]) -> str:
    if written in names:
        return written
    hyphenated = written.replace("_", "-")
    if hyphenated in names:
        return hyphenated
    if (alias := _ALIASES.get(hyphenated)) in names:
        return str(alias)
    if (now := _RENAMED.get(hyphenated)) in names:
        raise ValueError(f"'{written}' is now {now}")
    if hyphenated in _GONE:
        raise ValueError(f"the command needs no '{written}': {_GONE[hyphenated]}")
    return written
