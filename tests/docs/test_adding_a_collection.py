"""The page on adding a collection, executed as it stands, in a package beside this one."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mixseg.data import Datalist

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding_a_collection.md"


def block(language: str) -> str:
    """The page's only block in a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    return str(found)


@pytest.mark.slow
def test_the_collection_of_another_package_is_prepared(tmp_path: Path) -> None:
    site, data = tmp_path / "site", tmp_path / "TOYS"
    (site / "toys-1.dist-info").mkdir(parents=True)
    (site / "toys.py").write_text(block("python"))
    group, point = re.findall(r'"(.+?)"', block("toml"))
    (site / "toys-1.dist-info" / "entry_points.txt").write_text(f"[{group}]\ntoys = {point}\n")
    (site / "toys-1.dist-info" / "METADATA").write_text("Name: toys\nVersion: 1\n")
    data.mkdir()
    for number in range(4):
        for name in (f"case{number}.nii.gz", f"case{number}_mask.nii.gz"):
            (data / name).touch()
    command = Path(sys.executable).with_name("mixseg")
    words = shlex.split(block("bash").replace("TOYS", str(data)))
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run([command, *words[1:]], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    datalist = Datalist.load(data / "datalist.json")
    assert [entry.case_id for entry in datalist.training] == ["case0", "case1"]
    assert [entry.label for entry in datalist.test] == ["case3_mask.nii.gz"]
