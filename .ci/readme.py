"""Print the commands that continuous integration runs from the documentation, as a shell script.

    python3 .ci/readme.py main|tests|run|own            # of README.md
    python3 .ci/readme.py methods docs/methods/*.md     # of other pages, in their order

A block is marked by a comment on the line before its fence: ``<!-- ci: main -->``, or any other
word in place of ``main``. What follows the word changes what is run, not what is read:

- ``<!-- ci: run, with ARGUMENTS -->`` adds arguments to the block's last command: a shorter
  training, a smaller network;
- ``<!-- ci: run, each with ARGUMENTS -->`` adds them to each of its commands;
- ``<!-- ci: run, train with ARGUMENTS -->`` adds them to its ``mixseg train``, or another command;
- ``<!-- ci: run, exits 1 -->`` takes that exit status, and no other, for success.

Blocks that are not run stand in tests/docs/not_run.yaml, each with its reason.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
_BLOCK = re.compile(
    r"^<!-- ci: (?P<kind>\w+)"
    r"(?:, (?:(?P<which>\w+ )?with (?P<more>.+?)|exits (?P<status>\d+)))? -->\n"
    r"```bash\n(?P<code>.*?)\n```$",
    re.MULTILINE | re.DOTALL,
)
#: A line that begins a command, rather than set a variable, change the folder or continue a line.
_COMMAND = re.compile(r"(python|mixseg|torchrun) ")


def _with(code: str, more: str, which: str) -> str:
    """A block with arguments behind its last command, behind ``each``, or behind one of mixseg."""
    lines = re.split(r"(?<!\\)\n", code)  # with those that a backslash continues
    for i, line in enumerate(lines):
        if which == "each":
            wanted = _COMMAND.match(line) is not None
        elif which:
            wanted = line.startswith(f"mixseg {which} ")
        else:
            wanted = i == len(lines) - 1
        if wanted:
            lines[i] = f"{line} {more}".rstrip()
    return "\n".join(lines)


def commands(kind: str, pages: Sequence[Path] = (), short: bool = True) -> list[str]:
    """The marked blocks of one kind, in the order of the pages; without pages those of README.

    Args:
        kind: the word of the mark.
        pages: Markdown files.
        short: with the arguments of the marks; without, the blocks as they are read.

    Raises:
        ValueError: no page has one, or a page has a mark without a block below it.
    """
    pages = pages or [README]
    blocks = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        found = list(_BLOCK.finditer(text))
        if len(found) != text.count("<!-- ci: "):
            raise ValueError(f"a 'ci:' mark in {page.name} is not followed by a bash block")
        for match in found:
            if match["kind"] == kind:
                more = shlex.join(shlex.split((match["more"] if short else "") or ""))
                code = _with(match["code"], more, (match["which"] or "").strip())
                if match["status"]:
                    code = f"(\n{code}\n) && exit 1 || [ $? -eq {match['status']} ]"
                blocks.append(code)
    if not blocks:
        names = ", ".join(page.name for page in pages)
        raise ValueError(f"{names} has no block marked 'ci: {kind}'")
    return blocks


if __name__ == "__main__":
    print("\n".join(commands(sys.argv[1], [Path(page) for page in sys.argv[2:]])))
