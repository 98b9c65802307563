"""Where a bundle and its weights come from: a folder, a packed file, or a name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from monai.apps.utils import SUPPORTED_HASH_TYPES, HashCheckError, download_url

from mixseg.cli.archive import unpack
from mixseg.cli.checksums import SUMS_NAME, check_sums, sha256_of
from mixseg.handlers.weights import PLACES

__all__ = ["bundle_weights", "configurations", "find_bundle", "refuse_changed"]

#: Weights that a bundle may hold, in the order in which they are looked for, and the overlay in
#: configs/ that describes their network.
_WEIGHTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(PLACES, ()),
    "models/compact.pt": ("compact.yaml",),
}
_LARGE_FILES = ("large_files.yml", "large_files.yaml")


def find_bundle(name_or_path: str | os.PathLike[str]) -> Path:
    """The folder of a bundle.

    Args:
        name_or_path: the folder itself; a zip of ``mixseg pack``, which is unpacked once into the
            user's cache; or the name of a bundle below ./bundles or beside the installation.

    Raises:
        ValueError: there is no such bundle, or the zip is refused; says what there is.
        FileExistsError: the unpacked copy of the zip was changed since.
    """
    path = Path(name_or_path)
    if path.is_file():
        if path.suffix.lower() != ".zip":
            raise ValueError(
                f"'{path}' is no bundle: give its folder, a zip made by 'mixseg pack', or a name"
            )
        return _unpacked(path)
    if path.is_dir():
        if not _is_bundle(path):
            raise ValueError(_no_bundle(path))
        return path
    places = _named_places()
    if path.name == str(path):
        for place in places:
            if _is_bundle(place / path):
                return place / path
    found = dict.fromkeys(name for place in places for name in _bundles_in(place))
    known = f"known names: {', '.join(found)}" if found else "there is no folder 'bundles' here"
    raise ValueError(
        f"there is no bundle '{path}': give a bundle's folder, a zip made by 'mixseg pack', or a "
        f"name ({known})"
    )


def bundle_weights(folder: Path) -> tuple[Path, list[Path]]:
    """The weights of a bundle, and the overlays to pass after ``inference.yaml`` with them.

    eval/models/model.pt, which a training in the bundle's folder writes, is taken where it is,
    else models/model.pt, else models/compact.pt with configs/compact.yaml, else what
    ``large_files.yml`` names is fetched. A file that ``large_files.yml`` names must have the hash
    that it states there, whether it was fetched or found.

    Raises:
        ValueError: there are no weights, they cannot be fetched, or have another hash.
    """
    listed = _large_files(folder)
    for name, overlays in _WEIGHTS.items():
        path = folder / name
        if path.is_file():
            if name in listed:
                _check(path, listed[name])
            return path, _overlays(folder, overlays)
    for name, overlays in _WEIGHTS.items():
        if name in listed:
            _fetch(folder / name, listed[name])
            return folder / name, _overlays(folder, overlays)
    raise ValueError(
        f"'{folder}' has no weights: there is neither {' nor '.join(_WEIGHTS)}, and no "
        f"{_LARGE_FILES[0]} says where to fetch them; train them (python -m monai.bundle run "
        "training), or give a file with --checkpoint"
    )


def refuse_changed(folder: Path) -> None:
    """Refuse a packed bundle whose files are not those of its SHA256SUMS; others pass.

    Raises:
        ValueError: naming all files that are missing, changed or not listed.
    """
    if (folder / SUMS_NAME).is_file() and (faults := check_sums(folder)):
        lines = "".join(f"\n  {fault}" for fault in faults)
        raise ValueError(
            f"'{folder}' is not what was packed: download it again or, if the changes are yours, "
            f"delete its {SUMS_NAME}:{lines}"
        )


def _digest(path: Path, kind: str) -> str:
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _is_bundle(folder: Path) -> bool:
    return (folder / "configs" / "metadata.json").is_file()


def _bundles_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if _is_bundle(p)) if folder.is_dir() else []


def _named_places() -> list[Path]:
    """Folders whose subfolders can be called by name alone."""
    return [Path("bundles"), Path(__file__).resolve().parents[1] / "bundles"]


def _no_bundle(folder: Path) -> str:
    inside = _bundles_in(folder)
    mend = f"name one of {', '.join(inside)} in it" if inside else "give the folder that holds it"
    return f"'{folder}' is no bundle, it has no configs/metadata.json: {mend}"


def _unpacked(file: Path) -> Path:
    """The bundle out of a zip, unpacked once for each content of the file."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    # Unpacked anew for the comparison: what was changed there since is refused.
    folder = unpack(file, base / "mixseg" / "bundles" / sha256_of(file)[:16])
    if not _is_bundle(folder):
        raise ValueError(f"'{file}' holds no bundle: it has no {folder.name}/configs/metadata.json")
    return folder


def _overlays(folder: Path, names: tuple[str, ...]) -> list[Path]:
    paths = [folder / "configs" / name for name in names]
    for path in paths:
        if not path.is_file():
            raise ValueError(f"there is no '{path}', which describes the network of the weights")
    return paths


def _large_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Entries of large_files.yml by the path of their file."""
    for name in _LARGE_FILES:
        if (folder / name).is_file():
            content = yaml.safe_load((folder / name).read_text(encoding="utf-8")) or {}
            return {str(entry["path"]): entry for entry in content.get("large_files", ())}
    return {}


def _hash_of_entry(path: Path, entry: dict[str, Any]) -> tuple[str, str]:
    """Kind and value of an entry's hash, which it must have."""
    kind, value = str(entry.get("hash_type", "sha256")).lower(), entry.get("hash_val")
    if not value or kind not in SUPPORTED_HASH_TYPES:
        raise ValueError(
            f"{_LARGE_FILES[0]} states no hash for '{path}' that can be checked: it needs "
            f"hash_val, and hash_type out of {', '.join(SUPPORTED_HASH_TYPES)}"
        )
    return kind, str(value).lower()


def _check(path: Path, entry: dict[str, Any]) -> None:
    kind, value = _hash_of_entry(path, entry)
    found = _digest(path, kind)
    if found != value:
        raise ValueError(
            f"'{path}' is not the file that {_LARGE_FILES[0]} names ({kind} {found[:12]}… instead "
            f"of {value[:12]}…): delete it to have it fetched again, or, if you trained it, give "
            "it with --checkpoint"
        )


def _fetch(path: Path, entry: dict[str, Any]) -> None:
    kind, value = _hash_of_entry(path, entry)
    try:
        # Checked in a temporary folder; nothing is left at the path if it is another file.
        download_url(str(entry["url"]), path, value, kind)
    except HashCheckError as error:
        raise ValueError(
            f"what {entry['url']} sends is not the file that {_LARGE_FILES[0]} names: its {kind} "
            f"is not {value[:12]}…; nothing was kept, ask the bundle's authors"
        ) from error
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"'{path}' could not be fetched from {entry['url']} ({error}); offline, put the file "
            f"there yourself ({kind} {value})"
        ) from error
    if not path.is_file():
        raise ValueError(f"'{path}' could not be written: choose a folder that can be")


def configurations(folder: Path, given: Sequence[Path], option: str = "--config") -> list[Path]:
    """Configuration files by their paths, or by their names in the bundle's configs/.

    Raises:
        ValueError: there is neither; names the option that gave it.
    """
    paths = []
    for path in given:
        inside = folder / "configs" / path
        if not path.is_file() and not inside.is_file():
            raise ValueError(f"{option}: there is neither '{path}' nor '{inside}'")
        paths.append(path if path.is_file() else inside)
    return paths
