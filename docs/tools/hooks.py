"""What the site does beyond MkDocs: pages of the repository, its links, formulas without scripts.

- A line ``<!-- include: README.md "## License" -->`` stands for that section of another
  file of the repository, up to the next heading of its level, so that no text is kept twice.
- CONTRIBUTING.md, CHANGELOG.md, the bundles' model cards and the help texts of the ``mixseg``
  command are pages.
- A link to a file of the repository leads to its page; where it has none, it becomes its path.
- Formulas are turned to MathML, which browsers show by themselves.
"""

from __future__ import annotations

import html
import os
import posixpath
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
#: File of the repository → its page.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    **{
        f"bundles/{card.parents[1].name}/docs/README.md": f"bundles/{card.parents[1].name}.md"
        for card in sorted(ROOT.glob("bundles/*/docs/README.md"))
    },
}

_INCLUDE = re.compile(r'^<!-- include: (?P<path>\S+) "(?P<heading>#+ .+)" -->$', re.MULTILINE)
_COMMENT = re.compile(r"^<!-- .*? -->\n?", re.MULTILINE)
_FENCE = re.compile(r"^( *(?:```|~~~).*?^ *(?:```|~~~) *$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)
_NUMBER = re.compile(r"\\tag\{(.+?)\}")


def section(text: str, heading: str) -> str:
    """The part of a Markdown file from one heading to the next of its level or above.

    A heading of the first level stands for what comes before the next heading of any level.

    Raises:
        ValueError: the heading is not there.
    """
    parts = _FENCE.split(text)  # headings are outside of the code blocks, which have odd numbers
    found: list[str] = []
    level = max(len(heading) - len(heading.lstrip("#")), 2)
    inside = False
    for i, part in enumerate(parts):
        for line in [part] if i % 2 else part.splitlines(keepends=True):
            if not i % 2 and re.match(rf"#{{1,{level}}} ", line):
                inside = line.strip() == heading
            if inside:
                found.append(line)
    if not found:
        raise ValueError(f"no heading {heading!r}")
    return "".join(found).strip() + "\n"


def relink(text: str, source: str, page: str, included: dict[str, str]) -> str:
    """Turn links that work in the repository into links that work on a page.

    Args:
        text: Markdown.
        source: path of the file that holds it, in the repository.
        page: path of the page, in docs/.
        included: file and anchor, as in ``README.md#citation``, → page that includes the section.
    """

    def replace(match: re.Match[str]) -> str:
        path, hash_, anchor = match["target"].partition("#")
        if re.match(r"[a-z]+:", match["target"]) or (not path and source == f"docs/{page}"):
            return match[0]
        name = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        name = source if not path else name
        goal = included.get(f"{name}#{anchor}") or PAGES.get(name)
        if goal is None and name.startswith("docs/"):
            goal = name.removeprefix("docs/")
        if goal is None and (ROOT / name).exists():
            shown = match["text"].strip("`")
            return f"`{name}`" if shown in (name, path) else f"{match['text']} (`{name}`)"
        if goal is None:  # MkDocs names the page and the target
            return match[0]
        target = posixpath.relpath(goal, posixpath.dirname(page) or ".")
        return f"{match['image']}[{match['text']}]({target}{hash_}{anchor})"

    parts = _FENCE.split(text)
    return "".join(part if i % 2 else _LINK.sub(replace, part) for i, part in enumerate(parts))


def mathml(content: str) -> str:
    """HTML with every formula as MathML; ``\\tag{n}`` numbers a displayed one."""

    def replace(match: re.Match[str]) -> str:
        tex = html.unescape(match["tex"]).strip()
        if match["tag"] == "span":
            return str(convert(tex))
        number = _NUMBER.search(tex)
        formula = convert(_NUMBER.sub("", tex), display="block")
        shown = f'<span class="number">({number[1]})</span>' if number else ""
        return f'<div class="equation">{formula}{shown}</div>'

    return _FORMULA.sub(replace, content)


def _included() -> dict[str, str]:
    """Sections that a page includes: file and anchor → page."""
    found = {}
    for path in sorted(DOCS.rglob("*.md")):
        for match in _INCLUDE.finditer(path.read_text(encoding="utf-8")):
            words = re.sub(r"[^\w\- ]", "", match["heading"].lstrip("# ").lower())
            found[f"{match['path']}#{words.replace(' ', '-')}"] = path.relative_to(DOCS).as_posix()
    return found


def _help_texts() -> str:
    """The help of every command, as Typer writes it."""
    done = subprocess.run(
        [sys.executable, "-m", "typer", "mixseg.cli.main", "utils", "docs", "--name", "mixseg"],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise PluginError(f"the help texts of the mixseg command cannot be read:\n{done.stderr}")
    # The shell's completion is Typer's own, the title the page's.
    text = re.sub(r"^\* `--(install|show)-completion`.*\n", "", done.stdout, flags=re.MULTILINE)
    return "# Commands\n\n" + text.split("\n", 1)[1].replace("```console\n$ ", "```console\n")


@event_priority(100)
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Show the folders of the checkout to mkdocstrings under their import name, ``mixseg``."""
    tree = tempfile.TemporaryDirectory(prefix="mixseg-docs-")
    package = Path(tree.name) / "mixseg"
    package.mkdir()
    for marker in ROOT.glob("*/py.typed"):
        if marker.parent.name == "api":  # which is mixseg itself
            for module in marker.parent.glob("*.py"):
                os.symlink(module, package / module.name)
        else:
            os.symlink(marker.parent, package / marker.parent.name, target_is_directory=True)
    config.extra["tree"] = tree  # removed when the configuration goes
    config.plugins["mkdocstrings"].config["handlers"]["python"]["paths"] = [tree.name]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that come from outside docs/."""
    for name, page in PAGES.items():
        if page != "index.md":
            text = (ROOT / name).read_text(encoding="utf-8")
            files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "api/commands.md", content=_help_texts()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Include sections, adapt links, drop the marks of generators and continuous integration."""
    uri = page.file.src_uri
    source = {page: name for name, page in PAGES.items() if page != "index.md"}
    included = _included()

    def include(match: re.Match[str]) -> str:
        path = ROOT / match["path"]
        try:
            text = section(path.read_text(encoding="utf-8"), match["heading"])
        except (OSError, ValueError) as error:
            raise PluginError(f"{uri} includes {match['path']}: {error}") from error
        return relink(text, match["path"], uri, included)

    markdown = relink(markdown, source.get(uri, f"docs/{uri}"), uri, included)
    markdown = _INCLUDE.sub(include, markdown)
    return _COMMENT.sub("\n", markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write formulas as MathML."""
    return mathml(html)
