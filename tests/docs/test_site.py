"""What the site does beyond MkDocs: sections of other files, links, formulas, docstrings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("mkdocs", reason="needs requirements-docs.txt")

Tool = Callable[[str], ModuleType]
README = """# Title

First.

## One

Text.

```bash
# not a heading
## nor this
```

### Part

More.

## Two

End.
"""


@pytest.fixture
def hooks(tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The hooks on a repository of their own."""
    module = tool("hooks")
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "LICENSE").write_text("")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "DOCS", tmp_path / "docs")
    cards = {"README.md": "index.md", "bundles/a/docs/README.md": "bundles/a.md"}
    monkeypatch.setattr(module, "PAGES", cards)
    return module


def test_a_section_ends_at_the_next_heading_of_its_level(hooks: ModuleType) -> None:
    expected = README.split("## One")[1].split("## Two")[0].strip()
    assert hooks.section(README, "## One") == f"## One\n\n{expected}\n"
    assert hooks.section(README, "## Two") == "## Two\n\nEnd.\n"
    assert hooks.section(README, "# Title") == "# Title\n\nFirst.\n"
    assert hooks.section(README, "### Part") == "### Part\n\nMore.\n"
    with pytest.raises(ValueError, match="no heading '## Three'"):
        hooks.section(README, "## Three")


@pytest.mark.parametrize(
    ("link", "on_page"),
    [
        ("[a](docs/data.md)", "[a](../data.md)"),
        ("[a](docs/data.md#checks)", "[a](../data.md#checks)"),
        ("![a](docs/figures/a.png)", "![a](../figures/a.png)"),
        ("[a](bundles/a/docs/README.md)", "[a](../bundles/a.md)"),
        ("[`LICENSE`](LICENSE)", "`LICENSE`"),
        ("[the license](LICENSE)", "the license (`LICENSE`)"),
        ("[a](https://example.org/x)", "[a](https://example.org/x)"),
        ("[a](gone.md)", "[a](gone.md)"),
        ("[a](#one)", "[a](../train.md#one)"),
        ("```bash\n[a](LICENSE)\n```", "```bash\n[a](LICENSE)\n```"),
    ],
)
def test_links_of_the_readme_on_a_page_in_a_folder(
    hooks: ModuleType, link: str, on_page: str
) -> None:
    included = {"README.md#one": "train.md"}
    assert hooks.relink(link, "README.md", "methods/kl.md", included) == on_page


def test_links_of_a_page_to_the_repository(hooks: ModuleType) -> None:
    links = "[a](../README.md) [b](data.md) [c](#here) [d](../bundles/a/docs/README.md)"
    assert hooks.relink(links, "docs/losses.md", "losses.md", {}) == (
        "[a](index.md) [b](data.md) [c](#here) [d](bundles/a.md)"
    )


def test_a_page_includes_sections_and_loses_its_marks(hooks: ModuleType) -> None:
    class Page:
        class file:
            src_uri = "train.md"

    text = 'A\n\n<!-- include: README.md "## Two" -->\n\n<!-- ci: run -->\n```bash\nx\n```\n'
    shown = hooks.on_page_markdown(text, Page, None, None)
    assert shown.split() == ["A", "##", "Two", "End.", "```bash", "x", "```"]
    wrong = '<!-- include: README.md "## Gone" -->'
    with pytest.raises(
        hooks.PluginError, match=r"train\.md includes README\.md: no heading '## Gone'"
    ):
        hooks.on_page_markdown(wrong, Page, None, None)


def test_formulas_become_mathml(hooks: ModuleType) -> None:
    inline = hooks.mathml('<p><span class="arithmatex">\\(p &lt; 1\\)</span></p>')
    assert inline.startswith("<p><math")
    assert "<mi>p</mi><mo>&#x0003C;</mo><mn>1</mn>" in inline
    block = hooks.mathml('<div class="arithmatex">\\[\nx \\tag{5}\n\\]</div>')
    assert block.startswith('<div class="equation"><math')
    assert 'display="block"' in block
    assert "<mi>x</mi>" in block
    assert block.endswith('<span class="number">(5)</span></div>')
    assert "tag" not in block


def test_docstrings_become_markdown(tool: Tool) -> None:
    text = (
        "See :class:`mixseg.data.Entry` and :meth:`~a.b`.\n\n"
        "==== =====\nterm value\n==== =====\nkd   L_kd\n==== =====\n\nEnd."
    )
    assert tool("docstrings").markdown(text) == (
        "See `mixseg.data.Entry` and `a.b`.\n\n| term | value |\n|---|---|\n| kd | L_kd |\n\nEnd."
    )


def test_links_of_the_built_site_are_followed(tool: Tool, tmp_path: Path) -> None:
    check = tool("check_links")
    (tmp_path / "b").mkdir()
    (tmp_path / "a.html").write_text(
        '<h1 id="top">A</h1><a href="b/c.html#part">1</a><a href="#top">2</a>'
        '<a href="https://example.org">3</a><img src="b/d.png">'
    )
    (tmp_path / "b" / "c.html").write_text('<h2 id="part">P</h2><a href="../a.html">4</a>')
    (tmp_path / "b" / "d.png").write_bytes(b"")
    assert check.faults(tmp_path) == []
    (tmp_path / "b" / "c.html").write_text(
        '<a href="../gone.html">5</a><a href="#part">6</a><script src="https://x.org/y.js"></script>'
    )
    assert check.faults(tmp_path) == [
        "a.html: no heading for b/c.html#part",
        "b/c.html: loads https://x.org/y.js from elsewhere",
        "b/c.html: no file for ../gone.html",
        "b/c.html: no heading for #part",
    ]
    with pytest.raises(FileNotFoundError, match="build the site first"):
        check.faults(tmp_path / "b" / "nothing")
