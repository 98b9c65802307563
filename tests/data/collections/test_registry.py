"""Collections that another package makes known."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mixseg.cli import prepare
from mixseg.cli.main import app
from mixseg.data import Datalist, Entry, find_datalist, list_images
from mixseg.data.collections import ENTRY_POINTS, Collection, Prepared, collections, registry
from mixseg.data.collections.base import read_split_file
from mixseg.data.datalist import DatalistError


class Toys(Collection):
    """Folders with a file toys.txt."""

    name = "toys"
    title = "toys"
    hint = "For toys:   mixseg prepare toys {folder}"

    def datalist(self, source: Path, seed: int = 0) -> Datalist | None:
        if not (source / "toys.txt").is_file():
            return None
        training = [Entry(image="a.nii.gz", case_id="a")]
        return Datalist(classes=["background", "toy"], unlabeled=2, training=training)

    def prepare(self, source: Path, *, seed: int = 0, overwrite: bool = False) -> Prepared:
        """Prepare toys.

        Args:
            source: Folder with toys.txt.
            seed: Seed of the split.
            overwrite: Overwrite an existing
                file.
        """
        datalist = self.datalist(source, seed)
        if datalist is None:
            raise ValueError(f"'{source}' holds no toys")
        datalist.save(source / f"list{seed}.json")
        return Prepared(datalist, source, (source / f"list{seed}.json",))

    def leaves_out(self, name: str) -> bool:
        return name.endswith("_toy.nii")


@pytest.fixture
def _registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    point = EntryPoint("toys", f"{__name__}:Toys", ENTRY_POINTS)
    monkeypatch.setattr(EntryPoint, "load", lambda self: Toys)
    for module in (registry, prepare):
        monkeypatch.setattr(
            module, "entry_points", lambda group: [point] if group == ENTRY_POINTS else []
        )
    collections.cache_clear()
    yield
    collections.cache_clear()


@pytest.mark.usefixtures("_registered")
def test_a_collection_of_another_package_is_found_and_listed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"For toys:   mixseg prepare toys {tmp_path}\n"):
        find_datalist(tmp_path)
    (tmp_path / "toys.txt").touch()
    assert find_datalist(tmp_path).classes == ["background", "toy"]
    for name in ("a.nii", "a_toy.nii"):
        (tmp_path / name).touch()
    assert [item["case_id"] for item in list_images(tmp_path)] == ["a"]


@pytest.mark.usefixtures("_registered")
def test_its_prepare_is_a_command(tmp_path: Path) -> None:
    listed = CliRunner().invoke(app, ["prepare", "--help"]).output
    assert " toys " in listed
    shown = CliRunner().invoke(app, ["prepare", "toys", "--help"]).output
    for text in ("Prepare toys.", "Folder with toys.txt.", "Overwrite an existing file."):
        assert text in shown
    assert "Args" not in shown
    failed = CliRunner().invoke(app, ["prepare", "toys", str(tmp_path)])
    assert failed.exit_code == 1
    assert f"'{tmp_path}' holds no toys" in failed.output
    (tmp_path / "toys.txt").touch()
    done = CliRunner().invoke(app, ["prepare", "toys", str(tmp_path), "--seed", "3"])
    assert done.exit_code == 0
    assert Datalist.load(tmp_path / "list3.json").training[0].case_id == "a"


def test_a_list_that_stands_twice_in_a_split_loses_no_case(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text('{"train": ["a"], "train": ["b"], "val": ["c"], "test": ["d"]}')
    with pytest.raises(DatalistError, match=r"split\.json has the key 'train' twice"):
        read_split_file(path)
