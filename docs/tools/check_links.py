"""Every link, picture, style and script of the built site must lead somewhere inside it.

    python docs/tools/check_links.py site

Prints what does not, with its page; exit status 1 if there is any. Links to other sites are not
followed, but nothing that a browser loads by itself may come from one.
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    """Ids of a page, its links, and what a browser loads with it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids |= {found[name] for name in ("id", "name") if name in found}
        if "src" in found:
            self.loaded.append(found["src"])
        elif tag == "link" and found.get("rel") in ("stylesheet", "icon"):
            self.loaded.append(found["href"])
        elif "href" in found and tag == "a":
            self.links.append(found["href"])


def faults(site: Path) -> list[str]:
    """One line for each target that is missing.

    Raises:
        FileNotFoundError: there is no page.
    """
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    if not pages:
        raise FileNotFoundError(f"no page below {site}: build the site first")
    found = []
    for path, page in pages.items():
        name = path.relative_to(site)
        if name.name == "404.html":  # its links start from wherever the server shows it
            continue
        for target in page.loaded:
            if urlsplit(target).netloc:
                found.append(f"{name}: loads {target} from elsewhere")
        for target in page.links + page.loaded:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            goal = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            goal = goal / "index.html" if goal.is_dir() else goal
            if not goal.is_file():
                found.append(f"{name}: no file for {target}")
                continue
            # Only pages have headings; a part of another file is not looked for.
            if parts.fragment and goal in pages and unquote(parts.fragment) not in pages[goal].ids:
                found.append(f"{name}: no heading for {target}")
    return found


if __name__ == "__main__":
    wrong = faults(Path(sys.argv[1]).resolve())
    print("\n".join(wrong) or "every link of the site leads somewhere")
    raise SystemExit(bool(wrong))
