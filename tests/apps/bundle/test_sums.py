"""``SHA256SUMS``: written as ``sha256sum`` does, and every change of a folder is named."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mixseg.apps.bundle.sums import check_sums, read_sums, write_sums
from mixseg.files.provenance import sha256_of

# FIPS 180-4, examples of SHA-256: the message "abc", and the empty message.
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    (path / "models").mkdir(parents=True)
    (path / "models" / "model.pt").write_bytes(b"abc")
    (path / "LICENSE").write_bytes(b"")
    write_sums(path)
    return path


def test_the_list_is_that_of_sha256sum(folder: Path) -> None:
    text = (folder / "SHA256SUMS").read_text()
    assert text == f"{EMPTY}  LICENSE\n{ABC}  models/model.pt\n"
    assert sha256_of(folder / "models" / "model.pt") == ABC
    if shutil.which("sha256sum"):
        done = subprocess.run(
            ["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True
        )
        assert done.stdout == "LICENSE: OK\nmodels/model.pt: OK\n"
    before = text
    write_sums(folder)  # the list is not part of itself
    assert (folder / "SHA256SUMS").read_text() == before


def test_an_untouched_folder_has_no_faults(folder: Path) -> None:
    assert check_sums(folder) == []


def test_what_use_leaves_behind_is_no_fault(folder: Path) -> None:
    for name in ("eval/mask.nii.gz", "data/a.nii.gz", "mixseg/data/__pycache__/a.cpython-311.pyc"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"x")
    (folder / "README.md").write_text("a hub's copy of the card")
    assert check_sums(folder) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            lambda f: (f / "models" / "model.pt").write_bytes(b""),
            "models/model.pt is not the file that was packed "
            f"(sha256 {EMPTY[:12]}… instead of {ABC[:12]}…)",
        ),
        (lambda f: (f / "LICENSE").unlink(), "LICENSE is missing"),
        (
            lambda f: (f / "torch.py").write_text("raise SystemExit"),
            "torch.py is not listed in SHA256SUMS",
        ),
        (
            lambda f: (f / "models" / "eval").write_text(""),
            "models/eval is not listed in SHA256SUMS",
        ),
        (
            lambda f: (f / "linked").symlink_to(f / "models"),
            "linked is not listed in SHA256SUMS",
        ),
        (
            lambda f: (f / "SHA256SUMS").unlink(),
            "SHA256SUMS is missing: 'mixseg pack' did not make the folder, or it is cut",
        ),
        (
            lambda f: (f / "SHA256SUMS").write_bytes(b"abc  LICENSE\n"),
            "SHA256SUMS, line 1: 'abc  LICENSE' is not a sum and a name",
        ),
    ],
    ids=["changed", "missing", "more", "same name elsewhere", "link", "no list", "no sums"],
)
def test_a_change_is_named(folder: Path, change: Callable[[Path], object], fault: str) -> None:
    change(folder)
    assert check_sums(folder) == [fault]


def test_a_listed_file_below_a_folder_of_outputs_counts(folder: Path) -> None:
    (folder / "eval").mkdir()
    (folder / "eval" / "kept.txt").write_text("abc")
    write_sums(folder)
    (folder / "eval" / "kept.txt").unlink()
    (folder / "eval" / "mask.nii.gz").write_text("")
    assert check_sums(folder) == ["eval/kept.txt is missing"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../x", "lies outside the folder"),
        ("a/../../x", "lies outside the folder"),
        ("/etc/passwd", "lies outside the folder"),
        ("a\\b", "is not a sum and a name"),
    ],
)
def test_names_outside_the_folder_are_refused(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"SHA256SUMS, line 2: .* {why}"):
        read_sums(f"{EMPTY}  LICENSE\n{ABC}  {name}\n")


def test_a_name_that_is_listed_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="line 2: 'LICENSE' is listed twice"):
        read_sums(f"{EMPTY}  LICENSE\n{ABC}  LICENSE\n")


def test_a_name_that_cannot_be_listed(folder: Path) -> None:
    (folder / "two\nlines").write_text("")
    with pytest.raises(ValueError, match=r"the name 'two\\nlines' in .* cannot be listed"):
        write_sums(folder)
