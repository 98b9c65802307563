"""Where a bundle and its weights come from: a folder, a packed file, or a name."""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from mixseg.apps.bundle.archive import unpack
from mixseg.apps.bundle.sums import SUMS_NAME, check_sums
from mixseg.configuration.loading import load
from mixseg.configuration.record import bundle_name as bundle_name
from mixseg.configuration.record import is_run
from mixseg.files.atomic import ensure_writable
from mixseg.files.provenance import sha256_of

logger = logging.getLogger(__name__)

#: What holds the packages and ``bundles/``: the checkout, or the installed ``mixseg``.
ROOT = Path(__file__).resolve().parents[2]

# MONAI Label takes bundles with these words for interactive ones, or for other tasks.
_MEANINGFUL = ("deepedit", "deepgrow", "detection", "classification")


def find_bundle(name_or_path: str | os.PathLike[str]) -> Path:
    """The folder of a bundle.

    Args:
        name_or_path: the folder itself; a zip of ``mixseg pack``, which is unpacked once into the
            user's cache; or the name of a bundle below ./bundles or beside the installation.

    Raises:
        ValueError: there is no such bundle, its metadata.json is broken, or the zip is refused.
        FileExistsError: the unpacked copy of the zip was changed since.
    """
    path = Path(name_or_path)
    if path.is_file():
        if path.suffix.lower() != ".zip":
            raise ValueError(
                f"'{path}' is not a bundle: give its folder, a zip made by 'mixseg pack', or a name"
            )
        return _unpacked(path)
    if path.is_dir():
        if not _is_bundle(path):
            inside = ", ".join(_bundles_in(path))
            fix = f"name one of {inside} in it" if inside else "give the folder that holds it"
            raise ValueError(f"'{path}' is not a bundle, it has no configs/metadata.json: {fix}")
        load(path / "configs" / "metadata.json")  # names what is broken in it
        return path
    places = [Path("bundles"), ROOT / "bundles"]  # of bundles that are called by name alone
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


def find_trained(name_or_path: str | os.PathLike[str]) -> Path:
    """The folder whose configuration belongs to a bundle's weights.

    That is the bundle's own, or the run in its ``eval`` where it was trained there: weights and
    settings are then that run's.

    Raises:
        ValueError: there is no such bundle, or it was changed since it was packed.
        FileExistsError: see :func:`find_bundle`.
    """
    folder = find_bundle(name_or_path)
    refuse_changed(folder)
    run = folder / "eval"
    return run if is_run(run) and (run / "models" / "model.pt").is_file() else folder


def refuse_changed(folder: Path) -> None:
    """Refuse a packed bundle whose files are not those of its SHA256SUMS; others pass.

    Of a bundle from elsewhere it is logged once that a bundle is code: not of those of mixseg, and
    not of one that :func:`remember` was given.

    Raises:
        ValueError: naming all files that are missing, changed or not listed.
    """
    if (folder / SUMS_NAME).is_file() and (faults := check_sums(folder)):
        lines = "".join(f"\n  {fault}" for fault in faults)
        raise ValueError(
            f"'{folder}' is not what was packed: download it again or, if the changes are yours, "
            f"delete its {SUMS_NAME}:{lines}"
        )
    if folder.resolve().parent == ROOT / "bundles" or _record(folder).is_file():
        return
    logger.warning(
        "'%s' does not come with mixseg, and a bundle is code: it runs with your rights. Run it "
        "only if you trust its source; 'mixseg verify' checks it without running it. This note is "
        "shown once",
        folder,
    )
    remember(folder)


def remember(folder: Path) -> None:
    """Do not note again of a bundle, as it is now, that it comes from elsewhere."""
    record = _record(folder)
    with suppress(OSError):  # of a home folder that cannot be written
        record.parent.mkdir(parents=True, exist_ok=True)
        record.touch()


def _record(folder: Path) -> Path:
    """A file that is there where the bundle is known; another one for any other content."""
    digest = hashlib.sha256()
    for path in (*sorted((folder / "configs").glob("*.*")), folder / SUMS_NAME):
        if path.is_file():
            digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    return _cache() / "known" / digest.hexdigest()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mixseg"


def _is_bundle(folder: Path) -> bool:
    return (folder / "configs" / "metadata.json").is_file()


def _bundles_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if _is_bundle(p)) if folder.is_dir() else []


def _unpacked(file: Path) -> Path:
    """The bundle out of a zip, unpacked once for each content of the file."""
    place = _cache() / "bundles" / sha256_of(file)[:16]
    try:
        ensure_writable([place])
    except OSError as error:
        place = Path(tempfile.mkdtemp(prefix="mixseg-"))
        atexit.register(shutil.rmtree, place, ignore_errors=True)
        logger.warning(
            "%s: '%s' is unpacked into '%s' for this time; set XDG_CACHE_HOME to a folder that can "
            "be written to keep it",
            str(error).partition(":")[0],
            file,
            place,
        )
    # Unpacked anew for the comparison: what was changed there since is refused.
    folder = unpack(file, place)
    if not _is_bundle(folder):
        raise ValueError(f"'{file}' holds no bundle: it has no {folder.name}/configs/metadata.json")
    load(folder / "configs" / "metadata.json")
    return folder


def is_packed(bundle: Path) -> bool:
    """Whether the folder comes out of a zip of ``mixseg pack``."""
    return (bundle / SUMS_NAME).is_file() or (bundle / "mixseg").is_dir()


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
