"""Checks of a bundle's files: names, sizes, hashes, the model card, tests; nothing is run.

Each check takes the bundle's folder and returns what is wrong, one line a fault.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from monai.apps.utils import SUPPORTED_HASH_TYPES
from packaging.version import InvalidVersion, Version

from mixseg.apps.bundle.sums import check_sums
from mixseg.apps.pack.checks.configs import is_packed
from mixseg.configuration.loading import load
from mixseg.files.provenance import sha256_of

#: Largest file of weights that is kept in git.
MAX_BYTES = 20 * 2**20

_LARGE_FILES = ("large_files.yml", "large_files.yaml", "large_files.json")
# MONAI Label takes bundles with these words for interactive ones, or for other tasks.
_MEANINGFUL = ("deepedit", "deepgrow", "detection", "classification")
_LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)[^)]*\)")
_BLOCK = re.compile(r"<!-- begin:(\w+) -->\n(.*?)<!-- end:\1 -->", re.DOTALL)


class NotChecked(Exception):
    """A check that does not apply here, or lacks what it needs; the message says why."""


def repository_of(bundle: Path) -> Path | None:
    """The checkout whose ``bundles`` folder the bundle lies in."""
    parent = bundle.resolve().parent
    inside = parent.name == "bundles" and (parent.parent / "pyproject.toml").is_file()
    return parent.parent if inside else None


def check_name(bundle: Path) -> list[str]:
    """The folder's name works in a URL, in MONAI's index and in MONAI Label."""
    name = bundle.resolve().name
    faults = []
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]*", name):
        faults.append(f"the name '{name}' may hold letters, digits and _ alone: rename the folder")
    if "_v" in name:
        # monai.bundle.scripts._get_all_bundles_info cuts names at the first "_v" and what follows.
        faults.append(f"the name '{name}' holds '_v', where MONAI looks for the version")
    faults += [
        f"the name '{name}' holds '{word}', to which MONAI Label gives a meaning"
        for word in _MEANINGFUL
        if word in name.lower()
    ]
    return faults


def check_version(bundle: Path) -> list[str]:
    """The version is one, and has an entry in the changelog."""
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    number, faults = str(metadata["version"]), []
    try:
        Version(number)
    except InvalidVersion:
        faults.append(f"'{number}' is no version: write it like 0.1.0")
    if number not in metadata["changelog"]:
        faults.append(f"version {number} has no entry in the changelog")
    return faults


def check_checksums(bundle: Path) -> list[str]:
    """A packed bundle holds what was packed."""
    if not is_packed(bundle):
        raise NotChecked("not a packed bundle")
    return check_sums(bundle)


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
    path = bundle / "models" / "compact.pt"
    if not path.is_file():
        raise NotChecked("no models/compact.pt: only weights that are kept in git have a limit")
    size = path.stat().st_size
    if size <= MAX_BYTES:
        return []
    return [
        f"models/compact.pt has {size / 2**20:.1f} MB, more than {MAX_BYTES // 2**20}: train a "
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


def check_figures(bundle: Path) -> list[str]:
    """The model card's tables are what ``benchmarks/tables.py`` makes of the result files now.

    The scores of metadata.json occur in these tables, as they are or in percent.
    """
    root = repository_of(bundle)
    if root is None or not (root / "benchmarks" / "tables.py").is_file():
        raise NotChecked("not in a checkout of mixseg, where the result files are")
    card = bundle.resolve() / "docs" / "README.md"
    text = card.read_text(encoding="utf-8")
    blocks = _BLOCK.findall(text)
    if not blocks:
        raise NotChecked("docs/README.md has no table that benchmarks/tables.py writes")
    try:
        rendered = _tables(root).render(card)
    except ValueError as error:
        return [str(error)]
    faults = []
    if rendered != text:
        now = dict(_BLOCK.findall(rendered))
        old = [name for name, block in blocks if now.get(name) != block]
        faults.append(
            f"docs/README.md: {', '.join(old)} is not what the result files say: run python "
            "benchmarks/tables.py"
        )
    shown = [float(n) for _, block in blocks for n in re.findall(r"(?<![\w.])\d+\.\d+", block)]
    metrics = load(bundle / "configs" / "metadata.json").get("eval_metrics", {})
    for name, value in _numbers(metrics):
        if not any(_rounded_to(value, n) or _rounded_to(100 * value, n) for n in shown):
            faults.append(f"metadata.json: eval_metrics#{name} {value} is in no table of the card")
    return faults


def check_tests(bundle: Path) -> list[str]:
    """A bundle of the repository is named in a test."""
    root, name = repository_of(bundle), bundle.resolve().name
    if root is None or not (root / "tests").is_dir():
        raise NotChecked("not in a checkout with tests")
    named = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
    for path in sorted((root / "tests").rglob("*.py")):
        if named.search(path.read_text(encoding="utf-8")):
            return []
    return [f"no file below tests/ names {name}: write one that trains it and asserts the result"]


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
        yield f"{name}: hash_val is no SHA-256 in lower-case hexadecimal"
    elif (bundle / name).is_file() and (found := sha256_of(bundle / name)) != value:
        yield f"{name}: the file has another hash (sha256 {found[:12]}… instead of {value[:12]}…)"


def _tables(root: Path) -> Any:
    """The module ``benchmarks/tables.py`` of a checkout."""
    path = root / "benchmarks" / "tables.py"
    spec = importlib.util.spec_from_file_location("_mixseg_tables", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    known = set(sys.modules)
    sys.path.insert(0, str(path.parent))  # as when it is run as a script
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
        # Modules beside it have common names, and another checkout has its own.
        for name in set(sys.modules) - known:
            if Path(getattr(sys.modules[name], "__file__", None) or "").parent == path.parent:
                del sys.modules[name]
    return module


def _numbers(content: Any, place: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _numbers(value, f"{place}#{key}" if place else str(key))
    elif isinstance(content, int | float) and not isinstance(content, bool):
        yield place, float(content)


def _rounded_to(value: float, shown: float) -> bool:
    """Whether ``shown``, which has a digit or more behind the point, is ``value`` rounded."""
    digits = len(repr(shown).partition(".")[2])
    return abs(value - shown) <= 0.5 * 10.0**-digits + 1e-9
