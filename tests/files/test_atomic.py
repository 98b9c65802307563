"""Atomic writing and the check of output folders."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from mixseg.files import atomic
from mixseg.files.atomic import ensure_writable, strict_json, write_atomically, write_bytes_atomic


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.bin"
    write_atomically(path, lambda file: file.write(b"one"))
    assert path.read_bytes() == b"one"
    write_atomically(path, lambda file: file.write(b"two"))
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


@pytest.mark.parametrize("error", [RuntimeError("zip writer failed"), OSError(28, "No space left")])
def test_failure_keeps_the_old_file(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def fail(file: BinaryIO) -> None:
        file.write(b"half of the n")
        raise error

    with pytest.raises(OSError, match="could not be written") as caught:
        write_atomically(path, fail)
    assert str(caught.value) == (f"{path} could not be written, its last version is kept: {error}")
    assert caught.value.__cause__ is error
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are forked")
def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    """However often a run is killed while it writes, its half-written file does not stay."""
    path = tmp_path / "file.bin"
    for _ in range(2):
        process = os.fork()
        if process == 0:
            write_atomically(path, lambda file: (file.write(b"half of the n"), os._exit(9)))
        os.waitpid(process, 0)
        assert len(list(tmp_path.iterdir())) == 1
    write_atomically(path, lambda file: file.write(b"new"))
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]
    assert path.read_bytes() == b"new"


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    """The second begins and ends while the first still writes: both contents were whole."""
    path = tmp_path / "file.bin"

    def slow(file: BinaryIO) -> None:
        file.write(b"first ")
        write_atomically(path, lambda other: other.write(b"second"))
        assert path.read_bytes() == b"second"
        file.write(b"writer")

    write_atomically(path, slow)
    assert path.read_bytes() == b"first writer"
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


def test_planted_links_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither at the file's own name, nor at the temporary one where somebody could guess it."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"content")
    path = tmp_path / "run" / "file.bin"
    path.parent.mkdir()
    path.symlink_to(precious)
    write_atomically(path, lambda file: file.write(b"new"))
    assert not path.is_symlink()
    assert path.read_bytes() == b"new"
    monkeypatch.setattr(atomic, "_COUNTER", iter([7]))
    guessed = path.with_name(f".file.bin.{atomic._HOST}-{os.getpid()}-7.tmp")
    guessed.symlink_to(precious)
    with pytest.raises(OSError, match="could not be written"):
        write_atomically(path, lambda file: file.write(b"newer"))
    assert path.read_bytes() == b"new"
    assert precious.read_bytes() == b"content"


def test_new_content_is_complete_before_the_name_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the moment of the rename, the temporary file in the same folder is whole."""
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    seen: list[tuple[bytes, bytes]] = []
    replace = os.replace

    def watch(source: Path, target: Path) -> None:
        assert Path(source).parent == Path(target).parent
        seen.append((Path(source).read_bytes(), Path(target).read_bytes()))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watch)
    write_atomically(path, lambda file: file.write(b"new"))
    assert seen == [(b"new", b"old")]


def test_ensure_writable_creates_folders_and_leaves_nothing(tmp_path: Path) -> None:
    folders = [tmp_path / "a" / "b", str(tmp_path / "c")]
    ensure_writable(folders)
    for folder in map(Path, folders):
        assert folder.is_dir()
        assert list(folder.iterdir()) == []


def test_ensure_writable_names_the_folder(tmp_path: Path) -> None:
    """A file in the way of a folder: also fails for a superuser, whom permissions do not stop."""
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "eval"
    message = (
        f"{folder} cannot be written (Not a directory): "
        "choose another folder with --output_dir and --ckpt_dir"
    )
    with pytest.raises(OSError, match=f"^{re.escape(message)}$"):
        ensure_writable([tmp_path / "fine", folder])


def test_ensure_writable_without_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(atomic.tempfile, "TemporaryFile", refuse)
    message = (
        f"{tmp_path} cannot be written (Permission denied): "
        "choose another folder with --output_dir and --ckpt_dir"
    )
    with pytest.raises(OSError, match=f"^{re.escape(message)}$"):
        ensure_writable([tmp_path])


def test_strict_json_of_awkward_values() -> None:
    text = strict_json(
        {1: float("nan"), "i": -np.inf, "a": np.array([1.0, np.nan]), "s": {2, 1}, "b": np.True_}
    )
    expected = {"1": None, "i": None, "a": [1.0, None], "s": [1, 2], "b": True}
    assert json.loads(text, parse_constant=str) == expected
    assert text.endswith("}\n")


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    write_bytes_atomic(path, b"old")

    def fail(*arguments: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_bytes_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["summary.json"]
