"""Continuous integration runs every command of the pages, or a list says why not."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CARDS = "bundles/*/docs/README.md"
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in (
        "README.md",
        "CONTRIBUTING.md",
        "benchmarks/compare/README.md",
        "docs/**/*.md",
        CARDS,
    )
    for path in ROOT.glob(pattern)
)
NOT_RUN = yaml.safe_load((ROOT / "tests" / "docs" / "not_run.yaml").read_text(encoding="utf-8"))
_FENCE = re.compile(
    r"^(?:<!-- ci: (?P<word>\w+).*? -->\n)?(?P<indent> *)```(?P<language>\S*)\n"
    r"(?P<code>.*?)\n(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A block of code on a page; word is that of its mark, or None."""

    page: str
    word: str | None
    language: str
    code: str


def blocks_of(text: str, page: str) -> list[Block]:
    found = _FENCE.finditer(text)
    return [Block(page, match["word"], match["language"], match["code"]) for match in found]


def unaccounted(blocks: list[Block], listed: list[dict[str, str]]) -> list[str]:
    """Bash blocks that are neither run nor listed, by page and first line."""
    # Cards of one kind share their commands, which run once; each bundle's tests run its own.
    on_cards = {b.code for b in blocks if b.word and Path(b.page).match(CARDS)}
    missing = []
    for block in blocks:
        known = block.word or (Path(block.page).match(CARDS) and block.code in on_cards)
        known = known or any(
            one["page"] == block.page and one["line"] in block.code.splitlines() for one in listed
        )
        if block.language == "bash" and not known:
            missing.append(f"{block.page}: {block.code.splitlines()[0]}")
    return missing


def run_by_ci(script: str) -> set[tuple[str, str]]:
    """Words and pages that .ci/run runs."""
    found = set()
    for match in re.finditer(r"^ *commands(?:_in \S+)? (\w+)([^|&;\n]*)", script, re.MULTILINE):
        names = shlex.split(match[2].partition(" 2>")[0]) or ["README.md"]
        for name in names:
            for path in ROOT.glob(CARDS if name == "$card" else name):
                found.add((match[1], path.relative_to(ROOT).as_posix()))
    return found


@pytest.fixture(scope="module")
def blocks() -> list[Block]:
    return [block for page in PAGES for block in blocks_of((ROOT / page).read_text("utf-8"), page)]


def test_every_block_of_code_says_its_language(blocks: list[Block]) -> None:
    fences = sum((ROOT / page).read_text("utf-8").count("```") for page in PAGES)
    assert fences == 2 * len(blocks)  # none is overlooked
    assert [block for block in blocks if not block.language] == []
    # A shell's commands are never hidden under another name.
    assert {block.language for block in blocks} <= {
        "bash",
        "json",
        "markdown",
        "python",
        "toml",
        "yaml",
    }


def test_every_command_runs_or_is_listed_with_its_reason(blocks: list[Block]) -> None:
    assert unaccounted(blocks, NOT_RUN) == []


def test_the_list_names_blocks_that_are_there_and_do_not_run(blocks: list[Block]) -> None:
    for one in NOT_RUN:
        named = [b for b in blocks if b.page == one["page"] and one["line"] in b.code.splitlines()]
        assert len(named) == 1, one
        assert named[0].word is None, f"runs, but is listed: {one}"
        assert len(one["reason"].split()) > 5, one
        for file in re.findall(r"(?:tests|benchmarks)/[\w/]+\.py", one["reason"]):
            assert (ROOT / file).is_file(), file


def test_every_mark_is_one_that_continuous_integration_runs(blocks: list[Block]) -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    known = run_by_ci(script)
    # The tutorial's commands run through the benchmark that records them.
    assert re.search(r"^ *\S+ benchmarks/tutorial_wbc\.py --short", script, re.MULTILINE)
    known.add(("tutorial", "docs/tutorial_wbc.md"))
    marked = {(block.word, block.page) for block in blocks if block.word}
    assert marked - known == set()
    assert ("main", "README.md") in known
    assert ("methods", "docs/methods/kl.md") in known


def test_new_commands_do_not_slip_in() -> None:
    text = "<!-- ci: a, with --n 1 -->\n```bash\none\n```\n\n```bash\ntwo\nthree\n```\n"
    found = blocks_of(text + "```json\n{}\n```\n", "p.md")
    assert found == [
        Block("p.md", "a", "bash", "one"),
        Block("p.md", None, "bash", "two\nthree"),
        Block("p.md", None, "json", "{}"),
    ]
    assert unaccounted(found, []) == ["p.md: two"]
    assert unaccounted(found, [{"page": "q.md", "line": "three"}]) == ["p.md: two"]
    assert unaccounted(found, [{"page": "p.md", "line": "three"}]) == []
    # An empty line between mark and fence leaves the block without its mark.
    assert blocks_of("<!-- ci: a -->\n\n```bash\none\n```\n", "p.md")[0].word is None


def test_cards_share_what_runs_on_one_of_them() -> None:
    one, other = "bundles/a/docs/README.md", "bundles/b/docs/README.md"
    run, same = Block(one, "model_card", "bash", "x"), Block(other, None, "bash", "x")
    assert unaccounted([run, same], []) == []
    assert unaccounted([run, same._replace(code="y")], []) == [f"{other}: y"]
    assert unaccounted([run, same._replace(page="docs/p.md")], []) == ["docs/p.md: x"]


def test_words_and_pages_of_the_script() -> None:
    script = (
        "commands main\ncommands tests 2>&1 | tee log\ncommands_in . site docs/architecture.md\n"
        'commands_in "bundles/$bundle" model_card "$card"\n'
    )
    known = run_by_ci(script)
    assert {("main", "README.md"), ("tests", "README.md")} <= known
    assert ("site", "docs/architecture.md") in known
    assert ("model_card", "bundles/la_confkd/docs/README.md") in known
    assert ("model_card", "README.md") not in known


@pytest.fixture
def readme() -> ModuleType:
    spec = importlib.util.spec_from_file_location("_readme", ROOT / ".ci" / "readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_arguments_for_each_command_and_expected_failures(
    readme: ModuleType, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        '<!-- ci: a, each with --n 1 -->\n```bash\nX="--lr 2"\npython -m a \\\n  --b 1\n'
        "cd c\nmixseg d $X\n```\n"
        "<!-- ci: b, exits 1 -->\n```bash\nmixseg e\n```\n"
        "<!-- ci: c, train with --n 1 -->\n```bash\nmixseg new x\nmixseg train x\nmixseg f\n```\n"
    )
    assert readme.commands("c", [page]) == ["mixseg new x\nmixseg train x --n 1\nmixseg f"]
    assert readme.commands("a", [page]) == [
        'X="--lr 2"\npython -m a \\\n  --b 1 --n 1\ncd c\nmixseg d $X --n 1'
    ]
    assert readme.commands("a", [page], short=False) == [
        'X="--lr 2"\npython -m a \\\n  --b 1\ncd c\nmixseg d $X'
    ]
    assert readme.commands("b", [page]) == ["(\nmixseg e\n) && exit 1 || [ $? -eq 1 ]"]


@pytest.mark.parametrize(("command", "status"), [("false", 0), ("true", 1), ("sh -c 'exit 3'", 1)])
def test_only_the_expected_status_counts_as_success(
    readme: ModuleType, tmp_path: Path, command: str, status: int
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"<!-- ci: a, exits 1 -->\n```bash\n{command}\n```\n")
    script = "\n".join(readme.commands("a", [page]))
    assert subprocess.run(["bash", "-euo", "pipefail", "-c", script]).returncode == status
