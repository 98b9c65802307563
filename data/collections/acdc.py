"""ACDC (Bernard et al., IEEE TMI 2018): a datalist from the folder as it was downloaded."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Literal

import numpy as np

from mixseg.data.collections.base import (
    Collection,
    Prepared,
    find_file,
    listed_faults,
    read_split_file,
    save_datalist,
    split_sizes,
)
from mixseg.data.datalist import DATALIST_NAME, Datalist, DatalistError, Entry

ACDC_CLASSES = ("background", "RV", "myocardium", "LV")

_FRAME = re.compile(r"^(?P<case>(?P<patient>patient\d+)_frame\d+)\.nii(?:\.gz)?$")
#: What lies beside the frames: their masks, and the whole cine series.
_BESIDE = re.compile(r"^patient\d+_(?:frame\d+_gt|4d)\.nii(?:\.gz)?$")


class ACDC(Collection):
    """The Automated Cardiac Diagnosis Challenge: short-axis cine MRI."""

    name = "acdc"
    title = "ACDC"
    hint = (
        "For ACDC, as downloaded:   mixseg prepare acdc <folder with patientXXX> "
        "--output {folder}/datalist.json"
    )

    def datalist(self, source: Path, seed: int = 0) -> Datalist | None:
        """:func:`prepare_acdc`."""
        return None if acdc_layout(source) is None else prepare_acdc(source, seed)

    def prepare(
        self, source: Path, *, output: Path | None = None, seed: int = 0, overwrite: bool = False
    ) -> Prepared:
        """Split ACDC by patient (80/5/15, stratified by pathology); nothing is copied.

        Example: mixseg prepare acdc ACDC/database

        Args:
            source: Folder with patientXXX/, or with image/, label/, split.json.
            output: Datalist to write; default: SOURCE/datalist.json.
            seed: Seed of the split (official layout).
            overwrite: Overwrite an existing file.
        """
        datalist = prepare_acdc(source, seed)
        path = source / DATALIST_NAME if output is None else output
        return Prepared(datalist, source, (save_datalist(datalist, path, overwrite),))

    def instead_of_folder(self, source: Path) -> bool:
        """Both layouts: what they hold is known."""
        return acdc_layout(source) is not None

    def leaves_out(self, name: str) -> bool:
        """Masks and cine series of the official folders."""
        return _BESIDE.match(name) is not None


def acdc_layout(source: str | os.PathLike[str]) -> Literal["official", "folders"] | None:
    """The ACDC layout of a folder.

    Returns:
        ``"folders"`` for ``image/``, ``label/``, ``split.json`` with ``patientXXX_frameYY`` files,
        ``"official"`` for ``patientXXX/patientXXX_frameYY.nii(.gz)``, None for neither.
    """
    source = Path(source)
    if (source / "split.json").is_file() and (source / "image").is_dir():
        names = (p.name for p in (source / "image").iterdir())
        return "folders" if any(_FRAME.match(name) for name in names) else None
    return "official" if _patient_folders(source) else None


def prepare_acdc(source: str | os.PathLike[str], seed: int = 0) -> Datalist:
    """Build the datalist of an ACDC folder; nothing is written or copied.

    Official layout: ``patientXXX/`` with ``patientXXX_frameYY.nii(.gz)``, the mask ``…_gt``,
    optionally a hand-drawn ``…_scribble``, and ``Info.cfg``; the patients may lie under
    ``training/`` and ``testing/``. Files ``…_4d`` are ignored. Patients are split 80/5/15 (in
    proportion for other numbers), seeded and stratified by the ``Group`` in ``Info.cfg``, so that
    ``training`` deals the groups in turn. Patients under ``testing/`` always belong to ``test``:
    the challenge's test patients never enter training.

    Prepared layout: ``image/``, ``label/``, optionally ``scribble/``, each with
    ``patientXXX_frameYY.nii(.gz)``, and ``split.json`` with ordered lists of patients ``train``,
    ``val``, ``test``.

    Args:
        source: the folder.
        seed: seed of the split (official layout only; ``split.json`` fixes the other).

    Returns:
        Datalist with the classes background, RV, myocardium, LV, paths relative to ``source`` and
        ``base_dir`` set to it.

    Raises:
        DatalistError: no patients, masks missing, patients of ``split.json`` without files.
    """
    source = Path(source).resolve()
    if not source.is_dir():
        raise DatalistError(
            f"'{source}' is not a folder: give the one with patient001/, patient002/ …"
        )
    layout = acdc_layout(source)
    if layout is None:
        raise DatalistError(
            f"no ACDC patients found in '{source}': expected folders patientXXX/ with "
            "patientXXX_frameYY.nii.gz (also under training/ or testing/), or image/, label/ and "
            "split.json"
        )
    splits = _read_folders(source) if layout == "folders" else _read_official(source, seed)
    datalist = Datalist(
        classes=list(ACDC_CLASSES),
        unlabeled=len(ACDC_CLASSES),
        training=splits[0],
        validation=splits[1],
        test=splits[2],
    )
    return datalist.with_base_dir(source)


def deal_groups(groups: dict[str, list[str]]) -> list[str]:
    """One order of all members in which every prefix holds the groups in proportion.

    The i-th of a group's n members stands at (i + 1/2) / n, ties in the order of the group names,
    so groups of equal size are dealt in turn.
    """
    placed = [
        ((i + 0.5) / len(members), name, member)
        for name, members in groups.items()
        for i, member in enumerate(members)
    ]
    return [member for _, _, member in sorted(placed)]


def _patient_folders(source: Path) -> list[Path]:
    """Folders patientXXX up to two levels below ``source``, by name."""
    found = [
        folder
        for pattern in ("patient*", "*/patient*", "*/*/patient*")
        for folder in source.glob(pattern)
        if folder.is_dir() and any(_FRAME.match(p.name) for p in folder.iterdir())
    ]
    return sorted(found, key=lambda folder: folder.name)


def _read_official(source: Path, seed: int) -> tuple[list[Entry], list[Entry], list[Entry]]:
    patients: dict[str, list[Entry]] = {}
    groups: dict[str, list[str]] = {}
    held_out: list[str] = []
    ungrouped: list[str] = []
    faults: list[str] = []
    for folder in _patient_folders(source):
        if folder.name in patients:
            faults.append(f"{folder}: the patient is found twice below {source}")
            continue
        entries = []
        for image in sorted(folder.iterdir()):
            match = _FRAME.match(image.name)
            if match is None:
                continue
            label = find_file(folder, match["case"] + "_gt")
            if label is None:
                faults.append(f"{image}: its mask {match['case']}_gt.nii.gz is missing")
                continue
            scribble = find_file(folder, match["case"] + "_scribble")
            entry = _entry(source, match, image, label, scribble)
            entry.groups = _groups(folder, image) or None
            entries.append(entry)
        patients[folder.name] = entries
        group = _info(folder).get("Group", "")
        if not group:
            ungrouped.append(folder.name)
        below = folder.relative_to(source).parts[:-1]
        testing = any(part.lower() == "testing" for part in below)
        (held_out if testing else groups.setdefault(group, [])).append(folder.name)
    if faults:
        raise DatalistError(listed_faults(f"the ACDC folder '{source}'", faults))

    if ungrouped:
        warnings.warn(
            f"Info.cfg is missing or names no Group for {len(ungrouped)} patients of '{source}', "
            f"which are split as one group: {', '.join(ungrouped)}",
            stacklevel=3,
        )
    rng = np.random.default_rng(seed)
    dealt = deal_groups(
        {g: [str(name) for name in rng.permutation(groups[g])] for g in sorted(groups)}
    )
    if held_out and not dealt:
        raise DatalistError(
            f"'{source}' holds only the challenge's testing/ patients; training/ is needed"
        )
    train, validation, _ = split_sizes(len(dealt))
    parts = (
        dealt[:train],
        dealt[train : train + validation],
        dealt[train + validation :] + held_out,
    )
    training, val, test = ([e for name in part for e in patients[name]] for part in parts)
    return training, val, test


def _read_folders(source: Path) -> tuple[list[Entry], list[Entry], list[Entry]]:
    split_file = source / "split.json"
    splits = read_split_file(split_file)

    frames: dict[str, list[re.Match[str]]] = {}
    for image in sorted((source / "image").iterdir()):
        match = _FRAME.match(image.name)
        if match is not None:
            frames.setdefault(match["patient"], []).append(match)

    faults: list[str] = []
    result: list[list[Entry]] = []
    for key in ("train", "val", "test"):
        entries: list[Entry] = []
        for patient in splits[key]:
            if patient not in frames:
                faults.append(f"{split_file}: '{patient}' of '{key}' has no file in image/")
            for match in frames.get(patient, []):
                label = find_file(source / "label", match["case"])
                if label is None:
                    faults.append(
                        f"{source / 'image' / match.string}: its mask label/{match.string} "
                        "is missing"
                    )
                    continue
                scribble = find_file(source / "scribble", match["case"])
                image = source / "image" / match.string
                entries.append(_entry(source, match, image, label, scribble))
        result.append(entries)
    if faults:
        raise DatalistError(listed_faults(f"the ACDC folder '{source}'", faults))
    unused = sorted(set(frames) - {p for key in ("train", "val", "test") for p in splits[key]})
    if unused:
        warnings.warn(
            f"{split_file} names no split for {len(unused)} patients, which are left out: "
            f"{', '.join(unused)}",
            stacklevel=3,
        )
    return result[0], result[1], result[2]


def _entry(
    source: Path, match: re.Match[str], image: Path, label: Path, scribble: Path | None
) -> Entry:
    return Entry(
        image=image.relative_to(source).as_posix(),
        label=label.relative_to(source).as_posix(),
        scribble=None if scribble is None else scribble.relative_to(source).as_posix(),
        supervision="full",
        case_id=match["case"],
        patient_id=match["patient"],
    )


def _info(folder: Path) -> dict[str, str]:
    """What Info.cfg says of the patient, without what is empty."""
    info = folder / "Info.cfg"
    text = info.read_text(encoding="utf-8", errors="replace") if info.is_file() else ""
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs if value.strip()}


def _groups(folder: Path, image: Path) -> dict[str, str]:
    """The frame's phase and the patient's disease, where Info.cfg names them."""
    info = _info(folder)
    frame = int(image.name.partition("_frame")[2].partition(".")[0])
    phases = [phase for phase in ("ED", "ES") if info.get(phase, "").lstrip("0") == str(frame)]
    groups = {"phase": phases[0]} if phases else {}
    return groups | ({"disease": info["Group"]} if "Group" in info else {})
