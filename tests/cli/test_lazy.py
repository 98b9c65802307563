"""Commands are listed without importing them, and called as they are."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from rich.markup import render
from typer.main import get_command
from typer.testing import CliRunner

from mixseg.cli.main import app
from mixseg.cli.prepare import prepare_app

GROUP: Any = get_command(app)
NAMES = list(GROUP.lazy)
PREPARE: Any = get_command(prepare_app)


@pytest.mark.parametrize(
    ("group", "name"), [*((GROUP, n) for n in NAMES), *((PREPARE, n) for n in PREPARE.lazy)]
)
def test_the_list_says_of_each_command_what_its_own_help_begins_with(group: Any, name: str) -> None:
    listed = group.lazy[name]
    command = group.get_command(None, name)
    assert command.name == name
    assert listed.help == command.help.split("\n\n")[0].replace("\n", " ")
    assert bool(command.context_settings.get("ignore_unknown_options")) == listed.takes_settings


@pytest.mark.parametrize(
    ("group", "name"), [*((GROUP, n) for n in NAMES), *((PREPARE, n) for n in PREPARE.lazy)]
)
def test_no_word_of_a_help_is_lost_as_markup(group: Any, name: str) -> None:
    """Rich takes ``[dicom]`` for a style and shows nothing."""
    command = group.get_command(None, name)
    texts = [command.help, *(getattr(one, "help", None) for one in command.params)]
    for text in filter(None, texts):
        shown = render(text)
        assert not shown.spans
        assert shown.plain == text.replace("\\[", "[")


@pytest.mark.parametrize(
    ("words", "names"), [(["--help"], NAMES), (["prepare", "-h"], list(PREPARE.lazy))]
)
def test_help_imports_no_torch_and_names_every_command(words: list[str], names: list[str]) -> None:
    script = (
        "import sys\n"
        "from mixseg.cli.main import app\n"
        f"try:\n    app({words})\n"
        "finally:\n    print(sorted({'torch', 'monai', 'ignite'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    for name in names:
        assert f" {name} " in done.stdout


def test_an_unknown_command_is_refused() -> None:
    result = CliRunner().invoke(app, ["trian"])
    assert result.exit_code == 2
    assert "No such command 'trian'" in result.output


def test_a_command_that_moved_says_where_it_is() -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["compare", "run"])
    assert result.exit_code == 2
    assert "'compare' is now 'python -m benchmarks.compare', in the repository" in result.output


def test_a_group_of_commands_offers_no_shell_completion_of_its_own() -> None:
    result = CliRunner().invoke(app, ["prepare", "--help"])
    assert result.exit_code == 0
    assert "acdc" in result.output
    assert "completion" not in result.output
