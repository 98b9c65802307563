"""Print the commands that continuous integration runs from the documentation, as a shell script.

    python3 .ci/readme.py main|tests|run|la             # of README.md
    python3 .ci/readme.py methods docs/methods/*.md     # of other pages, in their order

A block is marked by a comment on the line before its fence: ``<!-- ci: main -->``, or any other
word in place of ``main``. ``<!-- ci: run, with ARGUMENTS -->`` adds arguments to the block's last
command: a shorter training, a smaller network.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
_BLOCK = re.compile(
    r"^<!-- ci: (?P<kind>\w+)(?:, with (?P<more>.+?))? -->\n```bash\n(?P<code>.*?)\n```$",
    re.MULTILINE | re.DOTALL,
)


def commands(kind: str, pages: Sequence[Path] = ()) -> list[str]:
    """The marked blocks of one kind, in the order of the pages; without pages those of README.

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
                more = shlex.join(shlex.split(match["more"] or ""))
                blocks.append(f"{match['code']} {more}".rstrip())
    if not blocks:
        names = ", ".join(page.name for page in pages)
        raise ValueError(f"{names} has no block marked 'ci: {kind}'")
    return blocks


if __name__ == "__main__":
    print("\n".join(commands(sys.argv[1], [Path(page) for page in sys.argv[2:]])))
