"""The page on adding a data collection: its class, taken from the page, prepares a folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mixseg.data import Datalist
from mixseg.data.collections import Collection

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding_a_collection.md"


@pytest.fixture
def kidneys() -> Collection:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    names: dict[str, type[Collection]] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return names["Kidneys"]()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    split = {"train": ["a", "b"], "val": ["c"], "test": ["d"]}
    for kind in ("image", "label"):
        (tmp_path / kind).mkdir()
        for name in "abcd":
            (tmp_path / kind / f"{name}.nii.gz").touch()
    (tmp_path / "split.json").write_text(json.dumps(split))
    return tmp_path


def test_the_class_of_the_page_prepares_a_folder(kidneys: Collection, folder: Path) -> None:
    prepared = kidneys.prepare(folder)
    assert prepared.written == (folder / "datalist.json",)
    datalist = Datalist.load(folder / "datalist.json")
    assert datalist.classes == ["background", "kidney"]
    assert [entry.image for entry in datalist.training] == ["image/a.nii.gz", "image/b.nii.gz"]
    assert [entry.label for entry in datalist.test] == ["label/d.nii.gz"]
    with pytest.raises(ValueError, match="exists"):
        kidneys.prepare(folder)


def test_it_leaves_other_folders_alone(kidneys: Collection, tmp_path: Path) -> None:
    assert kidneys.datalist(tmp_path) is None
    with pytest.raises(ValueError, match=r"has no split\.json"):
        kidneys.prepare(tmp_path)
