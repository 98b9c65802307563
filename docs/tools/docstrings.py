"""Docstrings as Markdown: the roles of reStructuredText become code, a simple table a table."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|class|meth|attr|data):`~?([^`]+)`")
_RULE = re.compile(r"^ *=+(?: +=+)+ *$")


def markdown(text: str) -> str:
    """A docstring whose roles and simple tables are written in Markdown."""
    lines: list[str] = []
    starts: list[int] = []  # of the columns of the table that is open
    rules = 0
    for line in _ROLE.sub(r"`\1`", text).splitlines():
        if _RULE.match(line):
            rules = (rules + 1) % 3
            starts = [match.start() for match in re.finditer("=+", line)]
            if rules == 2:
                lines.append("|" + "---|" * len(starts))
        elif rules:
            ends = [*starts[1:], None]
            cells = [line[a:b].strip() for a, b in zip(starts, ends, strict=True)]
            lines.append(f"| {' | '.join(cells)} |")
        else:
            lines.append(line)
    return "\n".join(lines)


class Docstrings(griffe.Extension):
    """Applies :func:`markdown` to every docstring that is read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)
