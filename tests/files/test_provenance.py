"""Where a number comes from."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mixseg.files import provenance
from mixseg.files.provenance import environment


def test_environment_of_a_checkout() -> None:
    found = environment()
    assert found["hardware"]["cpu"]
    assert found["hardware"]["cpu_count"] >= 1
    assert found["versions"]["numpy"] == np.__version__
    root = Path(provenance.__file__).resolve().parents[1]
    if shutil.which("git") and (root / ".git").exists():
        head = subprocess.check_output(["git", "-C", str(root), "rev-parse", "HEAD"], text=True)
        assert found["git_commit"] == head.strip()
    else:
        assert found["git_commit"] is None


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_copy_outside_its_checkout_has_no_commit(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "installed.py").write_text("", encoding="utf-8")
    assert provenance._git_state(tmp_path / "installed.py") == (None, None)
