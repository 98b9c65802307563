"""Zips are the same to the byte each time, and hostile or damaged ones leave nothing behind."""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from mixseg.apps.bundle import archive
from mixseg.apps.bundle.archive import ArchiveError, sum_file, unpack, write_zip
from mixseg.apps.bundle.sums import write_sums

FILES = {"toy/LICENSE": b"free", "toy/configs/train.yaml": b"lr: 1\n"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "source" / "toy"
    for name, content in FILES.items():
        target = path.parent / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    write_sums(path)
    return path


def listed(files: Mapping[str, bytes]) -> bytes:
    """The list of a bundle called toy."""
    lines = [
        f"{hashlib.sha256(content).hexdigest()}  {name.removeprefix('toy/')}\n"
        for name, content in sorted(files.items())
    ]
    return "".join(lines).encode()


def sha(text: str) -> str:
    """The digits that a message shows."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def make(path: Path, entries: list[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    """A zip with these members, in this order and under these very names."""
    with zipfile.ZipFile(path, "w") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *a, **k: None)  # two members of one name
        for name, content in entries:
            file.writestr(name, content)
    return path


def sound(
    more: list[tuple[str | zipfile.ZipInfo, bytes]],
) -> list[tuple[str | zipfile.ZipInfo, bytes]]:
    """The members of a sound zip, and more that are listed like the others."""
    named = {**FILES, **{n: c for n, c in more if isinstance(n, str)}}
    return [*FILES.items(), *more, ("toy/SHA256SUMS", listed(named))]


def test_a_zip_depends_on_names_and_contents_alone(folder: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "toy_v1.zip", tmp_path / "b" / "toy_v1.zip"
    digest = write_zip(folder, first)
    for path in folder.rglob("*"):
        os.utime(path, (0, 0))
        path.chmod(0o700)
    assert write_zip(folder, second) == digest
    assert first.read_bytes() == second.read_bytes()
    assert digest == hashlib.sha256(first.read_bytes()).hexdigest()
    assert sum_file(first).read_text() == f"{digest}  toy_v1.zip\n"
    with zipfile.ZipFile(first) as file:
        members = file.infolist()
    assert [m.filename for m in members] == [
        "toy/LICENSE",
        "toy/SHA256SUMS",
        "toy/configs/train.yaml",
    ]
    assert {m.date_time for m in members} == {(1980, 1, 1, 0, 0, 0)}
    assert {m.external_attr >> 16 for m in members} == {stat.S_IFREG | 0o644}
    assert {m.compress_type for m in members} == {zipfile.ZIP_STORED}


def test_what_was_packed_comes_out(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "toy_v1.zip"
    write_zip(folder, path)
    made = unpack(path, tmp_path / "new" / "place")
    assert made == tmp_path / "new" / "place" / "toy"
    found = {p.relative_to(made.parent).as_posix(): p.read_bytes() for p in made.rglob("*.*")}
    assert found == {"toy/configs/train.yaml": b"lr: 1\n"}
    assert (made / "LICENSE").read_bytes() == b"free"
    assert [p.name for p in made.parent.iterdir()] == ["toy"]


def test_unpacking_twice_keeps_what_is_there_and_refuses_another(
    folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "toy_v1.zip"
    write_zip(folder, path)
    made = unpack(path, tmp_path)
    (made / "eval").mkdir()
    assert unpack(path, tmp_path) == made
    assert (made / "eval").is_dir()
    (made / "LICENSE").write_text("not free")
    with pytest.raises(FileExistsError, match="holds something else: remove it") as caught:
        unpack(path, tmp_path)
    assert caught.value.filename == str(made)
    assert (made / "LICENSE").read_text() == "not free"


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def pipe(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFIFO | 0o644) << 16
    return info


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ([("../evil", b"")], "'../evil' climbs out of the folder"),
        ([("toy/../../evil", b"")], "'toy/../../evil' climbs out of the folder"),
        ([("toy\\..\\evil", b"")], r"'toy\\..\\evil' climbs out of the folder"),
        ([("/etc/evil", b"")], "'/etc/evil' is an absolute name"),
        ([("C:/evil", b"")], "'C:/evil' is an absolute name"),
        ([("\\\\host\\evil", b"")], r"'\\\\host\\evil' is an absolute name"),
        ([(link("toy/evil"), b"/etc")], "'toy/evil' is a link"),
        ([(pipe("toy/evil"), b"")], "'toy/evil' is not a file or folder"),
        ([("toy/license", b"")], "'toy/license' collides with another name"),
        ([("toy/LICENSE", b"x")], "'toy/LICENSE' collides with another name"),
        ([("toy/\u00e9", b""), ("toy/e\u0301", b"")], "'toy/\u00e9' collides with another name"),
        ([("toy/LICENSE/x", b"")], "'toy/LICENSE' is a file and the folder of 'toy/LICENSE/x'"),
        ([("toy/a:b", b"")], "'toy/a:b' is not a name that every system can hold"),
        ([("toy//a", b"")], "'toy//a' is not a name that every system can hold"),
        ([("toy/./a", b"")], "'toy/./a' is not a name that every system can hold"),
        ([("toy/a.", b"")], "'toy/a.' is not a name that every system can hold"),
        ([("toy/" + "d/" * 1500 + "x", b"")], "d/d/'… is longer than 240 bytes"),
        ([("toy/" + "x" * 300, b"")], "xxx'… is longer than 240 bytes"),
        ([("other/a", b"")], "it holds 2 things at its top, a bundle is one folder"),
    ],
)
def test_a_hostile_zip_is_refused(
    tmp_path: Path, more: list[tuple[str | zipfile.ZipInfo, bytes]], fault: str
) -> None:
    path = make(tmp_path / "toy_v1.zip", sound(more))
    place = tmp_path / "deep" / "place"
    with pytest.raises(
        ArchiveError, match=re.escape(f"'{path}' is refused, nothing was")
    ) as caught:
        unpack(path, place)
    assert fault in str(caught.value)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["toy_v1.zip"]


def test_a_name_that_python_would_cut_is_judged_whole(tmp_path: Path) -> None:
    path = make(tmp_path / "toy_v1.zip", sound([("toy/a@.py", b"")]))
    path.write_bytes(path.read_bytes().replace(b"toy/a@.py", b"toy/a\0.py"))
    with pytest.raises(ArchiveError, match=r"'toy/a\\x00\.py' is not a name"):
        unpack(path, tmp_path)


@pytest.mark.parametrize(
    ("entries", "fault"),
    [
        (
            [("toy/LICENSE", b"FREE"), *sound([])[1:]],
            "LICENSE is not the file that was packed "
            f"(sha256 {sha('FREE')}… instead of {sha('free')}…)",
        ),
        (sound([])[1:], "LICENSE is missing"),
        ([("toy/torch.py", b"evil"), *sound([])], "torch.py is not listed in SHA256SUMS"),
        (
            [("toy/a/__pycache__/b.pyc", b"evil"), *sound([])],
            "a/__pycache__/b.pyc is not listed in SHA256SUMS",
        ),
        ([*FILES.items()], "it holds no SHA256SUMS, hence was not made by 'mixseg pack'"),
        ([*FILES.items(), ("toy/SHA256SUMS", b"\xff\xfe")], "can't decode byte 0xff"),
        ([], "it holds 0 things at its top"),
    ],
    ids=["changed", "missing", "more", "compiled", "no list", "no text", "empty"],
)
def test_a_zip_with_other_contents_is_refused(
    tmp_path: Path, entries: list[tuple[str | zipfile.ZipInfo, bytes]], fault: str
) -> None:
    path = make(tmp_path / "toy_v1.zip", entries)
    with pytest.raises(ArchiveError, match=re.escape(fault)):
        unpack(path, tmp_path / "place")
    assert list((tmp_path / "place").glob("*")) == []


def test_no_zip_at_all_and_one_that_was_cut(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "toy_v1.zip"
    path.write_bytes(b"<html>Not Found</html>")
    with pytest.raises(ArchiveError, match=r"is not a sound zip file \(File is not a zip file\)"):
        unpack(path, tmp_path / "place")
    write_zip(folder, path)
    sum_file(path).unlink()
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(ArchiveError, match="not a sound zip file"):
        unpack(path, tmp_path / "place")
    # A bit flipped in the contents: the CRC of the zip itself.
    path.write_bytes(whole.replace(b"lr: 1", b"lr: 9"))
    with pytest.raises(ArchiveError, match=r"not a sound zip file \(Bad CRC-32 for file"):
        unpack(path, tmp_path / "place")


def test_the_sum_beside_the_zip_is_compared(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "toy_v1.zip"
    write_zip(folder, path)
    # All within is sound, but it is another zip than the one whose sum was published.
    make(path, sound([("toy/more", b"")]))
    with pytest.raises(ArchiveError, match=r"does not match '.*toy_v1\.zip\.sha256'"):
        unpack(path, tmp_path / "place")
    for content in (b"\xff\xfe", b"no sum\n"):
        sum_file(path).write_bytes(content)
        with pytest.raises(ArchiveError, match=r"toy_v1\.zip\.sha256' cannot be read .*again"):
            unpack(path, tmp_path / "place")
    sum_file(path).unlink()
    assert unpack(path, tmp_path / "place").name == "toy"


def test_a_zip_that_would_fill_the_disk_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", 2**30)
    path = make(tmp_path / "toy_v1.zip", sound([("toy/big", b"x")]))
    # The stated size of the last member before the list, in the directory at the end.
    content = path.read_bytes()
    place = content.rindex(b"toy/big") - 46 + 24
    path.write_bytes(content[:place] + (2**31).to_bytes(4, "little") + content[place + 4 :])
    with pytest.raises(ArchiveError, match="unpacked it would fill more than 1 GiB"):
        unpack(path, tmp_path / "place")


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "toy_v1.zip", sound([]))
    content = bytearray(path.read_bytes())
    place = content.rindex(b"PK\x01\x02") + 8  # flags of a member in the directory
    content[place] |= 1
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="'toy/SHA256SUMS' is encrypted"):
        unpack(path, tmp_path / "place")
    assert zipfile.is_zipfile(io.BytesIO(content))
