"""Zip files of bundles: written to the same bytes every time, unpacked without trust."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import tempfile
import unicodedata
import zipfile
import zlib
from collections import Counter
from pathlib import Path, PurePosixPath

from mixseg.apps.bundle.sums import SUMS_NAME, check_sums, compare_sums, read_sums
from mixseg.files.atomic import write_atomically
from mixseg.files.provenance import sha256_of

#: Largest sum of the sizes of the files in a zip that is unpacked.
MAX_BYTES = 4 * 2**30

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip can hold
_SHOWN = 10  # faults of a message
_LONGEST = 240  # bytes of a name that every system can hold, its folders included


class ArchiveError(ValueError):
    """A zip that is refused; the message names it and every reason."""


def write_zip(folder: Path, target: Path) -> str:
    """Write a folder to a zip that depends on its files' names and contents alone.

    Names are sorted, moments and permissions the same for all. Nothing is compressed: the bytes
    that deflate gives depend on the library, and weights hardly shrink.

    Args:
        folder: becomes the one folder at the top of the zip.
        target: the file; an existing one is replaced once the new one is complete.

    Returns:
        SHA-256 of the zip, which is also written beside it, see :func:`sum_file`.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder.parent).as_posix(): path for path in files}

    def write(file: object) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
            for name in sorted(names):
                info = zipfile.ZipInfo(name, _EPOCH)
                info.create_system = 3  # Unix, on whatever it is made
                info.external_attr = (stat.S_IFREG | 0o644) << 16
                archive.writestr(info, names[name].read_bytes())

    write_atomically(target, write)
    digest = sha256_of(target)
    line = f"{digest}  {target.name}\n"
    write_atomically(sum_file(target), lambda file: file.write(line.encode()))
    return digest


def sum_file(path: Path) -> Path:
    """Where the SHA-256 of a zip is kept: ``<zip>.sha256``, in the format of ``sha256sum``."""
    return path.with_name(f"{path.name}.sha256")


def unpack(zip_path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Path:
    """Unpack a zip of ``mixseg pack``; nothing is left of one that is refused.

    Args:
        zip_path: the file. Where its ``.sha256`` lies beside it, it must have that sum.
        folder: where the bundle's folder is put; created if missing.

    Returns:
        ``folder/<bundle>``. A folder of that name that already holds the same is left as it is.

    Raises:
        ArchiveError: it is not a zip, or has another sum; a name climbs out of the folder, is
            absolute, no portable name, a link, or collides with another; there is more than one
            folder at the top; files are missing, changed or not listed in SHA256SUMS.
        FileExistsError: another folder of the bundle's name is there.
    """
    source, parent = Path(zip_path), Path(folder)
    _check_outer_sum(source)
    try:
        with zipfile.ZipFile(source) as archive:
            members = _checked_members(source, archive)
            parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=parent, prefix=".unpacking") as temporary:
                made = _extract(source, archive, members, Path(temporary))
                target = parent / made.name
                if not target.exists():
                    os.replace(made, target)
                elif not _same(made, target):
                    reason = "holds something else: remove it or choose another folder"
                    raise FileExistsError(errno.EEXIST, reason, str(target))
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        message = f"'{source}' is not a sound zip file ({error}): download it again"
        raise ArchiveError(message) from error
    return target


def _check_outer_sum(source: Path) -> None:
    listed = sum_file(source)
    if not listed.is_file():
        return
    try:
        sums = read_sums(listed.read_text(encoding="utf-8"), listed.name)
    except ValueError as error:
        raise ArchiveError(f"'{listed}' cannot be read ({error}); download both again") from error
    if source.name in sums and sums[source.name] != (found := sha256_of(source)):
        raise ArchiveError(
            f"'{source}' does not match '{listed}' (sha256 {found[:12]}… instead of "
            f"{sums[source.name][:12]}…); download both again"
        )


def _checked_members(source: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files of a zip, after every name has been judged.

    Raises:
        ArchiveError: naming all faults at once.
    """
    members = archive.infolist()
    faults = [fault for member in members if (fault := _fault_of(member))]
    faults += _collisions([m.filename for m in members])
    tops = {member.filename.partition("/")[0] for member in members}
    if not faults and len(tops) != 1:
        faults.append(f"it holds {len(tops)} things at its top, a bundle is one folder")
    if sum(member.file_size for member in members) > MAX_BYTES:
        faults.append(f"unpacked it would fill more than {MAX_BYTES // 2**30} GiB")
    files = [member for member in members if not member.is_dir()]
    if not faults and f"{next(iter(tops))}/{SUMS_NAME}" not in {m.filename for m in files}:
        faults.append(f"it holds no {SUMS_NAME}, hence was not made by 'mixseg pack'")
    if faults:
        raise ArchiveError(_refusal(source, faults))
    return files


def _fault_of(member: zipfile.ZipInfo) -> str | None:
    """Why a member is refused by its name or kind."""
    if len(member.orig_filename.encode()) > _LONGEST:
        return f"{member.orig_filename[:40]!r}… is longer than {_LONGEST} bytes"
    # As stored: Python cuts a name at a zero byte and turns the system's separator into '/'.
    name, kind = member.orig_filename, stat.S_IFMT(member.external_attr >> 16)
    parts = PurePosixPath(name).parts
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        return f"{name!r} is an absolute name"
    if ".." in re.split(r"[/\\]", name):
        return f"{name!r} climbs out of the folder"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR) > member.is_dir():
        what = "a link" if kind == stat.S_IFLNK else "not a file or folder"
        return f"{name!r} is {what}"
    if (
        not parts
        or "/".join(parts) != name.removesuffix("/")
        or re.search(r'[\x00-\x1f\\:*?"<>|]', name)
        or any(part.endswith((".", " ")) for part in parts)
    ):
        return f"{name!r} is not a name that every system can hold"
    if member.flag_bits & 0x1:
        return f"{name!r} is encrypted"
    return None


def _collisions(names: list[str]) -> list[str]:
    """Names that are one where case or accents are folded, and files that are folders too."""

    def folded(name: str) -> str:
        return unicodedata.normalize("NFC", name.casefold()).rstrip("/")

    counts = Counter(map(folded, names))
    faults = [f"{name!r} collides with another name" for name in names if counts[folded(name)] > 1]
    files = {folded(name): name for name in names if not name.endswith("/")}
    for name in names:
        for parent in PurePosixPath(folded(name)).parents:
            if str(parent) in files:
                faults.append(f"{files[str(parent)]!r} is a file and the folder of {name!r}")
    return list(dict.fromkeys(faults))


def _extract(
    source: Path, archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], folder: Path
) -> Path:
    """Write the files and compare each with the list.

    Raises:
        ArchiveError: naming the files that are missing, changed or not listed.
    """
    top = folder / members[0].filename.partition("/")[0]
    present = {}
    for member in members:
        path = folder / member.filename
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with archive.open(member) as packed, path.open("xb") as file:
            for block in iter(lambda stream=packed: stream.read(1 << 20), b""):  # type: ignore[misc]
                digest.update(block)
                file.write(block)
        present[path.relative_to(top).as_posix()] = digest.hexdigest()
    del present[SUMS_NAME]
    try:
        listed = read_sums((top / SUMS_NAME).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArchiveError(_refusal(source, [str(error)])) from error
    if faults := compare_sums(listed, present):
        raise ArchiveError(_refusal(source, faults))
    return top


def _same(made: Path, there: Path) -> bool:
    """Whether a folder holds what was just unpacked, apart from what using it leaves there."""
    own = there / SUMS_NAME
    listed = own.is_file() and own.read_bytes() == (made / SUMS_NAME).read_bytes()
    return listed and not check_sums(there)


def _refusal(source: Path, faults: list[str]) -> str:
    lines = [f"  {fault}" for fault in faults[:_SHOWN]]
    if len(faults) > _SHOWN:
        lines.append(f"  … and {len(faults) - _SHOWN} more")
    advice = "nothing was unpacked, download it again or ask who made it"
    return "\n".join([f"'{source}' is refused, {advice}:", *lines])
