"""The pages: their commands, their references to tests, and the site's configuration."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml
from monai.bundle import ConfigParser

from mixseg.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "benchmarks" / "compare" / "README.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]
#: Names on the command line that are not settings of a bundle.
OTHERS = {"config_file"}
#: Collections that a page adds by a package of its reader's.
ADDED = ["prepare", "toys"]
Tool = Callable[[str], ModuleType]


def page_id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def commands(text: str) -> list[list[str]]:
    """The words of each command in a Markdown text: lines of bash blocks, inline code."""
    fences = re.findall(r"^ *```(\S*)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    blocks = [code for language, code in fences if language in ("", "bash")]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines += re.findall(r"`([^`\n]+)`", prose)
    found = []
    for line in lines:
        for part in re.split(r"&&|\||;", line):
            try:
                words = shlex.split(part, comments=True)
            except ValueError:  # an apostrophe in a piece of prose
                continue
            if words:
                found.append(words)
    return found


def settings() -> set[str]:
    found = set(OTHERS)
    for path in ROOT.glob("bundles/*/configs/*.yaml"):
        found |= {name.lstrip("+") for name in yaml.safe_load(path.read_text(encoding="utf-8"))}
    return found


def command_of(words: list[str]) -> Any:
    """The command of a line that begins with mixseg, or None if a word names none."""
    command: Any = typer.main.get_command(app)
    for word in words[1:]:
        if not isinstance(command, typer.core.TyperGroup) or word.startswith("-"):
            break
        command = command.get_command(typer.Context(command), word)
        if command is None:
            return None
    return command


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_name_what_exists(page: Path) -> None:
    wrong = []
    known = settings()
    text = page.read_text(encoding="utf-8")
    # Overlays that the page itself gives.
    written = re.findall(r"`(configs/\S+)`:\n\n```yaml", text)
    for words in commands(text):
        program = words[0].rsplit("/", 1)[-1]
        line = " ".join(words)
        if program == "mixseg" and len(words) > 1:
            command = command_of(words)
            if words[1:3] == ADDED:
                continue
            if command is None:
                wrong.append(f"no such command: {line}")
                continue
            options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
            open_ended = command.context_settings.get("ignore_unknown_options", False)
            for word in words[1:]:
                name = word.split("=")[0]
                if not name.startswith("--") or name in options or name == "--help":
                    continue
                if not (open_ended and name[2:].replace("-", "_") in known):
                    wrong.append(f"no option {name}: {line}")
        elif "monai.bundle" in words and "run" in words:
            for word in words:
                name = re.split("[#=]", word[2:])[0]
                if word.startswith("--") and name not in known and "torchrun" not in words:
                    wrong.append(f"no setting {word}: {line}")
            for file in re.findall(r"configs/\w+\.(?:yaml|json)", line):
                if file not in written and not list(ROOT.glob(f"bundles/*/{file}")):
                    wrong.append(f"no file {file}: {line}")
        elif program.startswith("python") and words[-1] != program:
            script = words[1]
            if script.endswith(".py") and not (ROOT / script).is_file():
                wrong.append(f"no file {script}: {line}")
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_tests_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text(encoding="utf-8"))
    for file, function in named:
        assert (ROOT / file).is_file(), file
        source = (ROOT / file).read_text(encoding="utf-8")
        assert not function or f"\ndef {function}(" in source, f"{file}::{function}"


def test_the_page_on_reproducibility_names_its_tests() -> None:
    page = (ROOT / "docs" / "reproducibility.md").read_text(encoding="utf-8")
    promises = page.split("|---|---|---|\n", 1)[1].split("\n\n", 1)[0].splitlines()
    assert len(promises) > 10
    assert [row for row in promises if "`tests/" not in row] == []


def test_method_pages_run_the_rows_of_the_page_on_public_data(tool: Tool) -> None:
    table = (ROOT / "docs" / "public_data.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([\w+ -]+?) \| (`--.+?`|nothing) \|$", table, re.MULTILINE))
    methods = tool("draw_methods").METHODS
    names = {
        "Lower bound": "lower_bound",
        "Single": "single",
        "Decoupled": "decoupled",
        "KL": "kl",
        "KL+Ent": "confkd",
        "Upper bound of Set-3": "upper_bound",
    }
    assert set(names) <= set(rows)
    home = ROOT / "bundles" / "acdc_lv_confkd"
    for row, page in names.items():
        words = [] if rows[row] == "nothing" else rows[row].strip("`").split()
        wanted = dict(zip(words[::2], words[1::2], strict=True))
        text = (ROOT / "docs" / "methods" / f"{page}.md").read_text(encoding="utf-8")
        first = next(line for line in commands(text) if "training" in line)
        given = dict(zip(first[5::2], first[6::2], strict=True))
        named = yaml.safe_load(given.pop("--config_file"))
        files = [home / file for file in ([named] if isinstance(named, str) else named)]
        for name in ("--dataset_dir", "--output_dir", "--ckpt_dir"):
            del given[name]
        if page != "upper_bound":
            assert given.pop("--num_full") == "3"
        # A page may use a file of the row, which sets what that page gives as words.
        assert meaning(files, given) == meaning([home / "configs" / "train.yaml"], wanted), page
        drawn = {f"--{name}": str(value) for name, value in methods[page][1].items()}
        assert drawn.items() <= wanted.items(), page


def meaning(configs: list[Path], settings: dict[str, str]) -> dict[str, Any]:
    """Which terms, branches, patients and batches a training has."""
    parser = ConfigParser()
    parser.read_config([str(config) for config in configs])
    parser.update({name.lstrip("-"): yaml.safe_load(value) for name, value in settings.items()})
    objective = parser.get_parsed_content("objective")
    counts = ("num_full", "num_partial", "num_unlabeled", "batch_full", "batch_partial")
    found = {name: parser.get_parsed_content(name) for name in counts}
    weights, branches = objective.weights, objective.branches
    if not found["num_partial"]:  # without such a case its terms are never computed
        weights = {name: weight for name, weight in weights.items() if name == "ce_full"}
        branches = {"full": branches["full"]}
    # A network of one branch does with main what one of two does with the teacher alone.
    branches = {kind: {"main": "teacher"}.get(b, b) for kind, b in branches.items()}
    return {**found, "weights": weights, "branches": branches}


def test_each_method_has_an_equation_a_figure_and_a_command() -> None:
    for page in (ROOT / "docs" / "methods").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        if page.name != "index.md":
            assert "\\tag{" in text, page
            assert f"(../figures/methods/{page.stem}.svg)" in text, page
            assert re.search("<!-- ci: (methods|wbc)", text), page  # on hearts, or on pictures


def test_pins_of_the_site_are_exact() -> None:
    lines = (ROOT / "requirements-docs.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith(("#", "-r"))]
    assert {"mkdocs", "mkdocs-material"} <= {pin.split("==")[0] for pin in pins}
    assert [pin for pin in pins if not re.fullmatch(r"[\w-]+==[\d.]+", pin)] == []
