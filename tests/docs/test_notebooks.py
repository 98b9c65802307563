"""The notebooks, executed from their first cell to their last, with shorter trainings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "docs" / "notebooks").glob("*.ipynb"))
LENGTH, SHORT = "EPOCHS, EPOCH_LENGTH = 4, 100", "EPOCHS, EPOCH_LENGTH = 1, 2"


def cells(notebook: Path) -> list[Any]:
    content = json.loads(notebook.read_text(encoding="utf-8"))
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


def program(notebook: Path) -> str:
    """The cells as one program: a line that begins with ! is a command."""
    lines = "\n".join("".join(cell["source"]) for cell in cells(notebook)).splitlines()
    assert lines.count(LENGTH) == 1
    run = "__import__('subprocess').run({!r}, shell=True, check=True)"
    own = [run.format(line[1:]) if line.startswith("!") else line for line in lines]
    return "\n".join(SHORT if line == LENGTH else line for line in own)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_without_outputs(notebook: Path) -> None:
    assert [cell["outputs"] for cell in cells(notebook) if cell["outputs"]] == []
    assert {cell["execution_count"] for cell in cells(notebook)} == {None}


@pytest.mark.nightly
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(notebook: Path, tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, "-c", program(notebook)],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert list(tmp_path.rglob("test/metrics.csv"))
