"""Left atrium (2018 challenge; Xiong et al., Medical Image Analysis 2021): layouts and splits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from mixseg.data.collections.base import (
    NIFTI_SUFFIXES,
    find_file,
    listed_faults,
    split_entries,
    split_sizes,
)
from mixseg.data.datalist import Datalist, DatalistError, Split

LA_CLASSES = ("background", "LA")

_SUFFIXES = (".nrrd", ".nii.gz", ".nii", ".mha")


@dataclass(frozen=True)
class Scan:
    """A whole scan and its mask; ``held_out`` for those of the challenge's Testing Set."""

    case_id: str
    image: Path
    label: Path
    held_out: bool


def la_layout(source: str | os.PathLike[str]) -> Literal["official", "folders"] | None:
    """The left-atrium layout of a folder.

    Returns:
        ``"folders"`` for ``image/``, ``label/`` and ``split.json`` (whose files are not named as
        ACDC's), ``"official"`` for ``<id>/lgemri.nrrd`` up to three levels below, None for neither.
    """
    source = Path(source)
    if (source / "split.json").is_file() and (source / "image").is_dir():
        found = any(p.name.endswith((".nii", ".nii.gz")) for p in (source / "image").iterdir())
        return "folders" if found else None
    return "official" if _scan_folders(source) else None


def prepare_la(source: str | os.PathLike[str]) -> Datalist:
    """Build the datalist of cropped scans; nothing is written, copied or opened.

    Args:
        source: folder with ``image/<id>.nii.gz``, ``label/<id>.nii.gz`` and ``split.json`` (ordered
            lists ``train``, ``val`` and ``test`` of ids).

    Returns:
        Datalist with the classes background and LA, paths relative to ``source`` and ``base_dir``
        set to it.

    Raises:
        DatalistError: another layout, or files that ``split.json`` names and that are missing.
    """
    source = Path(source).resolve()
    if not source.is_dir():
        raise DatalistError(
            f"'{source}' is not a folder: give the one with the scans as they were downloaded"
        )
    layout = la_layout(source)
    if layout == "official":
        raise DatalistError(whole_scans(source))
    if layout is None:
        raise DatalistError(_no_scans(source))
    parts = split_entries(source, "LA", NIFTI_SUFFIXES)
    datalist = Datalist(classes=list(LA_CLASSES), unlabeled=len(LA_CLASSES), **parts)
    return datalist.with_base_dir(source)


def find_scans(source: Path) -> list[Scan]:
    """The scans of the official layout, sorted by name.

    Raises:
        DatalistError: no scan; a scan without mask, or a mask without scan; a name found twice.
    """
    if not source.is_dir():
        raise DatalistError(
            f"'{source}' is not a folder: give the one with the scans as they were downloaded"
        )
    scans: dict[str, Scan] = {}
    faults: list[str] = []
    for folder in _scan_folders(source):
        image, label = (find_file(folder, stem, _SUFFIXES) for stem in ("lgemri", "laendo"))
        if folder.name in scans:
            faults.append(f"{folder}: the scan '{folder.name}' is found twice below {source}")
        elif image is None or label is None:
            what = "scan lgemri.nrrd" if image is None else "mask laendo.nrrd"
            faults.append(f"{folder}: its {what} is missing")
        else:
            below = folder.relative_to(source).parts[:-1]
            held_out = any(part.lower().startswith("testing") for part in below)
            scans[folder.name] = Scan(folder.name, image, label, held_out)
    if faults:
        raise DatalistError(listed_faults(f"the LA folder '{source}'", faults))
    if not scans:
        raise DatalistError(_no_scans(source))
    return list(scans.values())


def split_scans(scans: Sequence[Scan], seed: int) -> dict[Split, list[Scan]]:
    """80/5/15 by scan, seeded; scans that are held out always belong to ``test``.

    Raises:
        DatalistError: too few scans for three splits.
    """
    drawn = [scan for scan in scans if not scan.held_out]
    train, validation, _ = split_sizes(len(drawn), "scans outside the Testing Set")
    order = [drawn[i] for i in np.random.default_rng(seed).permutation(len(drawn))]
    return {
        "training": order[:train],
        "validation": order[train : train + validation],
        "test": order[train + validation :] + [scan for scan in scans if scan.held_out],
    }


def _scan_folders(source: Path) -> list[Path]:
    """Folders with a scan or a mask, up to three levels below ``source``, by name and path."""
    found = {
        file.parent
        for depth in range(1, 4)
        for stem in ("lgemri", "laendo")
        for file in source.glob("*/" * depth + f"{stem}.*")
        if file.name.lower().endswith(_SUFFIXES)
    }
    return sorted(found, key=lambda folder: (folder.name, str(folder)))


def whole_scans(source: Path) -> str:
    """What is said of the challenge's own folder where no folder for its crops is named."""
    return (
        f"'{source}' holds whole scans, which are cropped into a folder of their own: "
        f"mixseg prepare la {source} OUTPUT"
    )


def _no_scans(source: Path) -> str:
    """What is said of a folder without a layout that is known here."""
    return (
        f"no left-atrium scans found in '{source}': expected folders <id>/ with lgemri.nrrd and "
        "laendo.nrrd (also under 'Training Set/'), or image/, label/ and split.json"
    )
