"""Print the commands of README.md that continuous integration runs, as one shell script.

    python3 .ci/readme.py main|tests|run|la

A block is marked by a comment on the line before its fence: ``<!-- ci: main -->``,
``<!-- ci: tests -->`` or ``<!-- ci: run -->``. ``<!-- ci: run, with ARGUMENTS -->`` adds arguments
to the block's last command: a shorter training, a smaller network.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
_BLOCK = re.compile(
    r"^<!-- ci: (?P<kind>\w+)(?:, with (?P<more>.+?))? -->\n```bash\n(?P<code>.*?)\n```$",
    re.MULTILINE | re.DOTALL,
)


def commands(kind: str) -> list[str]:
    """The marked blocks of one kind, in README's order.

    Raises:
        ValueError: README has none, or a mark without a block below it.
    """
    text = README.read_text(encoding="utf-8")
    found = list(_BLOCK.finditer(text))
    if len(found) != text.count("<!-- ci: "):
        raise ValueError("a 'ci:' mark in README.md is not followed by a bash block")
    blocks = []
    for match in found:
        if match["kind"] == kind:
            more = shlex.join(shlex.split(match["more"] or ""))
            blocks.append(f"{match['code']} {more}".rstrip())
    if not blocks:
        raise ValueError(f"README.md has no block marked 'ci: {kind}'")
    return blocks


if __name__ == "__main__":
    print("\n".join(commands(sys.argv[1])))
