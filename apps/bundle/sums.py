"""``SHA256SUMS``: what every file of a packed bundle must be."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from mixseg.files.provenance import sha256_of

#: Name of the list, at the top of the bundle's folder; its format is that of ``sha256sum``.
SUMS_NAME = "SHA256SUMS"

_OF_A_HUB = frozenset({"README.md", ".gitattributes"})
# What running a bundle, or keeping data in its default place, leaves beside the files that were
# packed.
_LEFT_BY_USE = frozenset({"eval", "data"})
_LINE = re.compile(r"(?P<hash>[0-9a-f]{64})  (?P<name>[^\x00-\x1f\\]+)")


def write_sums(folder: Path) -> Path:
    """Write the list of a folder's files, sorted by name; ``sha256sum -c SHA256SUMS`` reads it.

    Returns:
        The list's path. It does not list itself.

    Raises:
        ValueError: a file's name has a line break, another control character or a backslash.
    """
    target = folder / SUMS_NAME
    lines = []
    for name in _names(folder):
        line = f"{sha256_of(folder / name)}  {name}"
        if not _LINE.fullmatch(line):
            raise ValueError(f"the name {name!r} in '{folder}' cannot be listed: rename the file")
        lines.append(line)
    target.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    return target


def read_sums(text: str, source: str = SUMS_NAME) -> dict[str, str]:
    """Name → SHA-256 out of the text of a list.

    Raises:
        ValueError: a line is not in the format of ``sha256sum``; a name occurs twice, leaves the
            folder or is absolute.
    """
    sums: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"{source}, line {number}: {line!r} is not a sum and a name")
        name = match["name"]
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"{source}, line {number}: {name!r} lies outside the folder")
        if name in sums:
            raise ValueError(f"{source}, line {number}: {name!r} is listed twice")
        sums[name] = match["hash"]
    return sums


def check_sums(folder: Path, strict: bool = False) -> list[str]:
    """Compare a folder with its list.

    What a hub adds is passed over unless it is listed: ``README.md``, ``.gitattributes`` and
    ``.cache/huggingface`` at the top.

    Args:
        strict: name what using the bundle leaves there, too: the folders ``eval`` and ``data`` at
            the top, and ``__pycache__`` anywhere. Weights in ``eval`` are used before the packed
            ones, and compiled code is run in place of the code beside it.

    Returns:
        One line for each fault: a file that is missing, changed or not listed, or a list that
        cannot be read. Empty where the folder is what was packed.
    """
    path = folder / SUMS_NAME
    if not path.is_file():
        return [f"{SUMS_NAME} is missing: 'mixseg pack' did not make the folder, or it is cut"]
    try:
        listed = read_sums(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also what is not UTF-8
        return [str(error)]
    present = {}
    for name in _names(folder):
        if name not in listed:
            if not _is_passed_over(name, strict):
                present[name] = ""  # a fault whatever it holds, be it a link or gigabytes
        elif (folder / name).is_file():
            present[name] = sha256_of(folder / name)
    return compare_sums(listed, present)


def compare_sums(listed: Mapping[str, str], present: Mapping[str, str]) -> list[str]:
    """One line for each file that is missing, changed or not listed, sorted by name."""
    faults = []
    for name in sorted({*listed, *present}):
        if name not in present:
            faults.append(f"{name} is missing")
        elif name not in listed:
            faults.append(f"{name} is not listed in {SUMS_NAME}")
        elif listed[name] != present[name]:
            faults.append(
                f"{name} is not the file that was packed (sha256 {present[name][:12]}… instead of "
                f"{listed[name][:12]}…)"
            )
    return faults


def _names(folder: Path) -> list[str]:
    """Files below a folder, as sorted posix names; the list itself is left out."""
    names = []
    for place, folders, files in os.walk(folder):
        linked = [name for name in folders if os.path.islink(os.path.join(place, name))]
        # A link to a folder is not followed, but named: nothing beneath it is listed.
        for name in [*files, *linked]:
            names.append(Path(place, name).relative_to(folder).as_posix())
    return sorted(name for name in names if name != SUMS_NAME)


def _is_passed_over(name: str, strict: bool) -> bool:
    parts = PurePosixPath(name).parts
    if name in _OF_A_HUB or parts[:2] == (".cache", "huggingface"):
        return True
    return not strict and (parts[0] in _LEFT_BY_USE or "__pycache__" in parts[:-1])
