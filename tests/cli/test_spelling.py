"""How options are written."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from mixseg.cli.main import app
from mixseg.cli.spelling import present_spelling

OPTIONS = {
    "--output": False, "-o": False, "--weights": False, "--overwrite": True, "--dry-run": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "present"),
    [
        ("a --dry_run -o b", "a --dry-run -o b"),
        ("--checkpoint m.pt --output=b", "--weights m.pt --output=b"),
        ("--num_full 3 --lr -1e-3", "--num_full 3 --lr -1e-3"),  # settings of a bundle
        ("--weights -odd --overwrite", "--weights -odd --overwrite"),
        ("-- --dry_run -odd", "-- --dry_run -odd"),
    ],
)
def test_options_in_their_present_spelling(typed: str, present: str) -> None:
    assert present_spelling(typed.split(), OPTIONS) == present.split()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("--force", "'--force' is now --overwrite"),
        ("--overlay none", "the command needs no '--overlay': it takes a run's folder"),
        ("--output_dir=b", "'--output_dir' is now --output"),
        ("a -output b", "'-output' begins with one dash: write --output"),
        ("--overwrite -lr 1", "'-lr' begins with one dash: write --lr"),
    ],
)
def test_what_is_written_otherwise_now_is_said(typed: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        present_spelling(typed.split(), OPTIONS)


def test_commands_refuse_names_of_before() -> None:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["phantom", "x", "--force"])
    assert result.exit_code == 2
    assert "'--force' is now --overwrite" in result.output
    result = CliRunner(env={"COLUMNS": "200"}).invoke(
        app, ["propose", "b", "--dataset_dir", "x", "-o", "y"]
    )
    assert result.exit_code == 2
    assert "'--dataset_dir' is now --data" in result.output


@pytest.mark.parametrize("command", ["train", "predict", "pack", "new"])
def test_help_by_one_letter_names_switches_and_imports_no_torch(command: str) -> None:
    script = (
        "import sys\n"
        "from mixseg.cli.main import app\n"
        f"try:\n    app(['{command}', '-h'])\n"
        "finally:\n    print(sorted({'torch', 'monai', 'nibabel', 'scipy'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--output" in done.stdout
    assert "<bool>" not in done.stdout.lower()
