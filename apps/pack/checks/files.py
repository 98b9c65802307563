"""Checks of a bundle's files: names, sizes, hashes, the model card, tests; nothing is run.

Each check takes the bundle's folder and returns what is wrong, one line a fault.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path, PurePosixPath
from typing import Any

from monai.apps.utils import SUPPORTED_HASH_TYPES
from packaging.version import InvalidVersion, Version

from mixseg.apps.bundle.find import is_packed
from mixseg.apps.bundle.sums import check_sums
from mixseg.configuration.loading import load
from mixseg.files.provenance import sha256_of
from mixseg.files.weights import read_weights

#: Largest file of weights that is kept in git.
MAX_BYTES = 20 * 2**20

_LARGE_FILES = ("large_files.yml", "large_files.yaml", "large_files.json")
_LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)[^)]*\)")


class NotChecked(Exception):
    """A check that does not apply here, or lacks what it needs; the message says why."""


def repository_of(bundle: Path) -> Path | None:
    """The checkout whose ``bundles`` folder the bundle lies in."""
    parent = bundle.resolve().parent
    inside = parent.name == "bundles" and (parent.parent / "pyproject.toml").is_file()
    return parent.parent if inside else None


def check_version(bundle: Path) -> list[str]:
    """The version is one, and has an entry in the changelog."""
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    number, faults = str(metadata["version"]), []
    try:
        Version(number)
    except InvalidVersion:
        faults.append(f"'{number}' is not a version: write it like 0.1.0")
    if number not in metadata["changelog"]:
        faults.append(f"version {number} has no entry in the changelog")
    return faults


def check_checksums(bundle: Path) -> list[str]:
    """A packed bundle holds what was packed."""
    if not is_packed(bundle):
        raise NotChecked("not a packed bundle")
    return check_sums(bundle, strict=True)


def check_compiled(bundle: Path) -> list[str]:
    """There is no compiled code, which Python runs in place of the code beside it."""
    return [
        f"{path.relative_to(bundle).as_posix()} is compiled code, which nobody can read: delete it"
        for path in sorted(bundle.rglob("*"))
        if path.suffix in (".pyc", ".pyo", ".so", ".pyd")
    ]


def check_hidden_modules(bundle: Path) -> list[str]:
    """No file hides a module of Python or of a package from what is run in the bundle's folder."""
    own = {"mixseg"} if is_packed(bundle) else set()
    known = {*sys.stdlib_module_names, *packages_distributions()} - own
    places = [*bundle.glob("*.py"), *(path.parent for path in bundle.glob("*/__init__.py"))]
    return [
        f"{place.name} hides the module {place.stem} from what is run in this folder: rename it, "
        "or delete it"
        for place in sorted(places)
        if place.stem in known
    ]


def check_weight_values(bundle: Path) -> list[str]:
    """Weights can be read without running anything, and are finite numbers."""
    found = sorted(bundle.glob("**/models/*.pt"))
    if not found:
        raise NotChecked("no weights in models/")
    faults = []
    for path in found:
        try:
            read_weights(path)
        except ValueError as error:
            faults.append(str(error))
    return faults


def check_large_files(bundle: Path) -> list[str]:
    """``large_files.yml`` says what to fetch, where to put it and which SHA-256 it has."""
    found = [bundle / name for name in _LARGE_FILES if (bundle / name).is_file()]
    if not found:
        raise NotChecked("the bundle has no large_files.yml")
    if len(found) > 1:
        return [f"{' and '.join(p.name for p in found)}: MONAI reads one of them, keep one"]
    name = found[0].name
    entries = load(found[0]).get("large_files")
    if not isinstance(entries, list) or not entries:
        return [f"{name} has no list 'large_files'"]
    return [f"{name}, {fault}" for entry in entries for fault in _large_file_faults(bundle, entry)]


def check_sizes(bundle: Path) -> list[str]:
    """Weights that are kept in git are small."""
    path = bundle / "models" / "model.pt"
    if repository_of(bundle) is None or not path.is_file():
        raise NotChecked("only weights in models/ of a repository's bundle have a limit")
    size = path.stat().st_size
    if size <= MAX_BYTES:
        return []
    return [
        f"models/model.pt has {size / 2**20:.1f} MB, more than {MAX_BYTES // 2**20}: train a "
        "smaller network, or publish the file and name it in large_files.yml"
    ]


def check_links(bundle: Path) -> list[str]:
    """Files that the model card links to are there, in a packed bundle within its folder."""
    docs = (bundle / "docs").resolve()
    faults = []
    for link in _LINK.findall((docs / "README.md").read_text(encoding="utf-8")):
        target = (docs / link).resolve()
        if not target.exists():
            faults.append(f"docs/README.md links to '{link}', which is not there")
        elif is_packed(bundle) and not target.is_relative_to(docs.parent):
            faults.append(f"docs/README.md links to '{link}', outside the bundle")
    return faults


def _large_file_faults(bundle: Path, entry: Any) -> Iterator[str]:
    if not isinstance(entry, dict) or not entry.get("path") or not entry.get("url"):
        yield f"{entry!r}: an entry has path, url, hash_val and hash_type"
        return
    name = str(entry["path"])
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        yield f"{name}: lies outside the bundle"
    if not str(entry["url"]).startswith("https://"):
        yield f"{name}: the url does not begin with https://"
    # Which hash is meant by default has changed between MONAI's versions.
    kind, value = entry.get("hash_type"), str(entry.get("hash_val", ""))
    if kind != "sha256":
        known = kind in SUPPORTED_HASH_TYPES
        yield f"{name}: hash_type must be sha256, not {kind if known else repr(kind)}"
    elif not re.fullmatch(r"[0-9a-f]{64}", value):
        yield f"{name}: hash_val is not a SHA-256 in lower-case hexadecimal"
    elif (bundle / name).is_file() and (found := sha256_of(bundle / name)) != value:
        yield f"{name}: the file has another hash (sha256 {found[:12]}… instead of {value[:12]}…)"
