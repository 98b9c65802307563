"""Layouts of users' folders: nnU-Net, dataset.json lists, plain folders."""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mixseg.data.datalist import DatalistError, Split
from mixseg.data.folder.pairs import (
    Faults,
    File,
    Layout,
    Pair,
    Stated,
    find_files,
    join_modalities,
    match_folders,
    match_side_by_side,
    name_pairs,
    without_faults,
)
from mixseg.files.documents import read_json
from mixseg.files.reading import IMAGE_SUFFIXES, PICTURE_SUFFIXES, split_suffix

_IMAGE_FOLDERS = ("images", "image", "imgs", "img", "imagesTr", "scans")
_LABEL_FOLDERS = (
    *("labels", "label", "masks", "mask", "labelsTr", "annotations"),
    *("segmentations", "segmentation", "gt"),
)
_CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")
_WHOLE = re.compile(r"-?[0-9]{1,9}")
#: How much of two names must be alike for one to be the other misspelt.
_ALIKE = 0.8
_MOST_NAMED = 10


def find_layout(
    images: Path, labels: Path | None, scribbles: Path | None, channel: int | None
) -> Layout:
    """The cases of a folder.

    Raises:
        DatalistError: a folder is missing, or a ``dataset.json`` cannot be read.
    """
    for path in (images, labels, scribbles):
        if path is not None and not path.exists():
            raise DatalistError(f"'{path}' does not exist; give the folder of your files")
        if path is not None and not path.is_dir() and (path.suffix != ".json" or path != images):
            raise DatalistError(f"'{path}' is not a folder")
    drawn = [] if scribbles is None else _needed_files(scribbles)
    root = images
    if images.name == "imagesTr" and labels in (None, images.parent / "labelsTr"):
        root, labels = images.parent, None
    if labels is None and not root.is_file() and (root / "imagesTr").is_dir():
        files = find_files(root / "imagesTr")
        named = {file.stem for file in find_files(root / "labelsTr")}
        # A number at the end is a channel unless labels bear it too: word_0002 is a case.
        numbered = all(_CHANNEL.match(file.stem) for file in files)
        if files and numbered and not any(file.stem in named for file in files):
            described = _read_json(root / "dataset.json")
            # Numbered cases look like channels; those of dataset.json decide.
            if not _listed_files_exist(root, described):
                return _nnunet(root, files, drawn, described, channel)
    if labels is None:
        file = root if root.is_file() else root / "dataset.json"
        described = _read_json(file)
        if isinstance(described.get("training"), list) and described["training"]:
            return _with_scribbles(_listed(file, described, channel), drawn)
        if root.is_file():
            raise DatalistError(f"{file} has no list 'training' of images and labels")
        images, labels = _subfolders(root) or (root, root)
        return _plain(root, images, labels, drawn, _json_labels(file, described), channel)
    beside = images != labels and images.parent == labels.parent
    root = images.parent if beside else images
    return _plain(root, images, labels, drawn, Stated(), channel)


def _subfolders(root: Path) -> tuple[Path, Path] | None:
    images = next((root / n for n in _IMAGE_FOLDERS if (root / n).is_dir()), None)
    labels = next((root / n for n in _LABEL_FOLDERS if (root / n).is_dir()), None)
    return None if images is None or labels is None else (images, labels)


def _needed_files(folder: Path, notes: list[str] | None = None) -> list[File]:
    left_out: list[str] = []
    files = find_files(folder, left_out)
    if not files:
        others = Counter(p.suffix for p in folder.rglob("*") if p.is_file() and p.suffix)
        seen = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(3))
        formats = ", ".join((*IMAGE_SUFFIXES, *PICTURE_SUFFIXES, "DICOM"))
        reason = f", but {seen}: convert them" if seen else ": it is empty"
        raise DatalistError(
            f"'{folder}' holds no image ({formats})"
            + (f": {'; '.join(left_out)}" if left_out else reason)
        )
    if notes is not None:
        notes += left_out
    return files


def _plain(
    root: Path,
    images: Path,
    labels: Path,
    drawn: list[File],
    stated: Stated,
    channel: int | None,
) -> Layout:
    notes: list[str] = []
    faults = Faults()
    found = _needed_files(images, notes)
    if images.resolve() == labels.resolve() and (layout := _bids(root, found, stated, notes)):
        return _with_scribbles(layout, drawn)
    files = join_modalities(found, channel, faults, notes)
    if images.resolve() == labels.resolve():
        layout = Layout("images and labels side by side", root, [], stated, faults, notes)
        pairs = match_side_by_side(files, faults)
        if all(pair.label is None and pair.scribble is None for pair in pairs) and not drawn:
            faults.clear()
            faults.add(
                images,
                "no file in it is named as a label",
                "name labels such as a_mask.nii.gz beside a.nii.gz, or give their folder: "
                "mixseg prepare folder IMAGES LABELS; masks of one structure each go into a "
                "folder 'segmentations' beside the image",
            )
            return layout
        layout.pairs = name_pairs(without_faults(pairs, faults))
        return _with_scribbles(layout, drawn)
    pairs = match_folders(files, _needed_files(labels, notes), drawn, faults)
    pairs = name_pairs(without_faults(pairs, faults))
    return Layout("images and labels in folders", root, pairs, stated, faults, notes)


_SUBJECT = re.compile(r"^sub-[A-Za-z0-9]+")
_BIDS_LABEL = re.compile(r"_(?:dseg|mask|seg|label|roi|lesion)(?:-manual)?$")
_ENTITY = re.compile(r"(?:^|_)(sub|ses|run|acq|rec|echo|dir)-([A-Za-z0-9]+)")


def _bids(root: Path, files: Sequence[File], stated: Stated, notes: list[str]) -> Layout | None:
    """BIDS: scans below ``sub-…/``, label maps (``_dseg``, ``_mask``) mostly below derivatives/.

    A label belongs to the scan of the same subject, session and run; where there are several, to
    the one whose suffix (``T1w``) its name holds.
    """
    labels = [f for f in files if _SUBJECT.match(f.stem) and _BIDS_LABEL.search(f.stem)]
    scans = [
        f
        for f in files
        if f not in labels and _SUBJECT.match(f.stem) and "derivatives" not in f.parents
    ]
    if not labels or not scans or not all(_SUBJECT.match(f.stem) for f in files):
        return None
    layout = Layout("BIDS", root, stated=stated, notes=notes)
    others = [file.path.name for file in files if file not in labels and file not in scans]
    if others:
        notes.append(
            f"files below derivatives that are not named as labels: {len(others)}, left out, such "
            f"as {others[0]}"
        )
    taken: dict[File, Path] = {}
    for label in labels:
        own = dict(_ENTITY.findall(label.stem))
        candidates = [
            scan
            for scan in scans
            if all(own.get(key) == value for key, value in _ENTITY.findall(scan.stem))
        ]
        named = [s for s in candidates if s.stem.rpartition("_")[2] in re.split("[_-]", label.stem)]
        found = candidates if len(candidates) == 1 else named
        if len(found) != 1:
            listed = ", ".join(scan.path.name for scan in candidates) or "none"
            layout.faults.add(
                label.path,
                f"its scan cannot be told; of its subject and session there are: {listed}",
                "name the scan's suffix in it (such as _space-T1w_), or give the folders of "
                "images and labels",
            )
        elif found[0] in taken:
            problem = f"'{found[0].path}' has two labels, this file and '{taken[found[0]]}'"
            layout.faults.add(label.path, problem, "keep one of them")
        else:
            taken[found[0]] = label.path
    pairs = [Pair("", scan.name, scan.path, label) for scan, label in taken.items()]
    layout.pairs = name_pairs(pairs)
    left = [scan.path.name for scan in scans if scan not in taken]
    if left:
        notes.append(f"{len(left)} scans without a label are left out, such as {left[0]}")
    return layout


def _with_scribbles(layout: Layout, drawn: Sequence[File]) -> Layout:
    """Add scribbles of a folder to cases that are found otherwise: by case id."""
    if drawn:
        images = [File(pair.image, (), pair.case_id, "") for pair in layout.pairs]
        files = [replace(file, parents=()) for file in drawn]
        matched = match_folders(images, [], files, layout.faults)
        by_image = {pair.image: pair.scribble for pair in matched}
        layout.pairs = [replace(p, scribble=p.scribble or by_image[p.image]) for p in layout.pairs]
    return layout


def _nnunet(
    root: Path,
    files: Sequence[File],
    drawn: list[File],
    described: Mapping[str, Any],
    channel: int | None,
) -> Layout:
    layout = Layout("nnU-Net", root, stated=_json_labels(root / "dataset.json", described))
    names = described.get("channel_names", described.get("modality", {}))
    images = _one_channel(layout, files, names, channel)
    pairs = match_folders(images, find_files(root / "labelsTr"), drawn, layout.faults)
    test_images = find_files(root / "imagesTs")
    test_labels = find_files(root / "labelsTs")
    if test_labels:
        images = _one_channel(layout, test_images, names, channel)
        held_out = match_folders(images, test_labels, [], layout.faults)
        pairs += [replace(p, split="test") for p in held_out if p.label is not None]
    unlabeled = len(test_images) - sum(pair.split == "test" for pair in pairs)
    if unlabeled:
        layout.notes.append(
            f"{unlabeled} files of '{root / 'imagesTs'}' have no label and are left out: "
            "images to predict, not to train on"
        )
    layout.pairs = name_pairs(without_faults(pairs, layout.faults))
    return layout


def _one_channel(
    layout: Layout, files: Sequence[File], names: Mapping[str, str], channel: int | None
) -> list[File]:
    """One file per case, named without its channel."""
    by_channel: dict[int, dict[str, File]] = {}
    for file in files:
        match = _CHANNEL.match(file.stem)
        if match is None:
            layout.faults.add(
                file.path,
                "the name has no channel suffix such as _0000",
                f"rename it to {file.stem}_0000{file.suffix}",
            )
            continue
        parts = by_channel.setdefault(int(match["channel"]), {})
        if match["case"] in parts:
            layout.faults.add(
                file.path,
                f"the case is there twice, also as '{parts[match['case']].path}'",
                "keep one of the files",
            )
        parts.setdefault(match["case"], replace(file, stem=match["case"]))
    several = channel is None and len(by_channel) > 1
    wanted = sorted(by_channel) if several else [min(by_channel, default=0)]
    wanted = wanted if channel is None else [channel]
    if several:
        listed = ", ".join(f"{c} ({names.get(str(c), 'unnamed')})" for c in wanted)
        layout.notes.append(
            f"the cases have {len(wanted)} channels, which are one image: {listed}; --channel "
            "takes one of them alone"
        )
    joined = []
    cases = {case: file for parts in by_channel.values() for case, file in parts.items()}
    for case, file in cases.items():
        channels = [by_channel.get(number, {}).get(case) for number in wanted]
        lacking = [n for n, part in zip(wanted, channels, strict=True) if part is None]
        for number in lacking:
            layout.faults.add(
                file.path,
                f"the case has no channel {number:04d}",
                f"add {case}_{number:04d}{file.suffix}, or choose another one with --channel",
            )
        found = [part for part in channels if part is not None]
        if lacking:
            joined.append(file)  # its label is no orphan
        else:
            joined.append(replace(found[0], channels=tuple(part.path for part in found[1:])))
    return joined


def _listed_files_exist(root: Path, described: Mapping[str, Any]) -> bool:
    """Whether a dataset.json lists its training images, under the names that they have."""
    entries = described.get("training")
    if not isinstance(entries, list) or not entries or not isinstance(entries[0], Mapping):
        return False
    image = entries[0].get("image")
    if not image or not isinstance(image, (str, list)):
        return False
    return os.path.exists(root / _native(image[0] if isinstance(image, list) else image))


def _native(path: object) -> str:
    """A path of a list, which may have been written on Windows."""
    text = str(path)
    return text.replace("\\", "/") if "/" not in text else text


def _listed(file: Path, described: Mapping[str, Any], channel: int | None) -> Layout:
    """A MONAI or Medical Segmentation Decathlon list."""
    root = file.parent
    layout = Layout(f"the lists of {file.name}", root, stated=_json_labels(file, described))
    keys: tuple[tuple[str, Split | None], ...] = (
        ("training", None),
        ("validation", "validation"),
        ("test", "test"),
        ("testing", "test"),
    )
    pairs = []
    unlabeled = 0
    nameless: list[str] = []
    misspelt: dict[str, list[str]] = {}
    for key, split in keys:
        entries = described.get(key) or []
        if not isinstance(entries, list):
            layout.faults.add(file, f"its '{key}' is not a list", "correct it")
            continue
        for place, entry in enumerate(entries):
            item = {"image": entry} if isinstance(entry, (str, list)) else entry
            if not isinstance(item, Mapping) or not item.get("image"):
                nameless.append(f"{key}[{place}]")
                continue
            if near := _misspelt("label", item):
                misspelt.setdefault(near, []).append(f"{key}[{place}]")
                continue
            if split is not None and not item.get("label"):
                unlabeled += 1
                continue
            pair = _listed_pair(layout, root, item, channel)
            if pair is not None:
                pairs.append(replace(pair, split=split))
    if nameless:
        problem = f"{_shown(nameless)} names no 'image'"
        layout.faults.add(file, problem, "add the file of the image")
    for near, places in misspelt.items():
        problem = f"{_shown(places)} has the key '{near}', but no 'label'"
        layout.faults.add(file, problem, "rename it")
    if unlabeled:
        layout.notes.append(
            f"{unlabeled} images of {file.name} that it names for validation or test have no "
            "label and are left out: images to predict, not to train on"
        )
    if any(isinstance(e, Mapping) and "fold" in e for e in described.get("training") or []):
        layout.notes.append(f"the folds of {file.name} are not followed; see --split")
    seen: dict[Path, Pair] = {}
    for pair in pairs:
        if pair.image in seen:
            layout.faults.add(pair.image, f"{file.name} lists the image twice", "remove one entry")
        seen.setdefault(pair.image, pair)
    layout.pairs = name_pairs(seen.values())
    return layout


def _listed_pair(
    layout: Layout, root: Path, item: Mapping[str, Any], channel: int | None
) -> Pair | None:
    image = item["image"]
    images = image if isinstance(image, list) else [image]
    if channel is not None:
        if not 0 <= channel < len(images):
            problem = f"the case has {len(images)} channels, none with number {channel}"
            layout.faults.add(root / str(images[0]), problem, "fix --channel")
            return None
        images = [images[channel]]
    paths = [root / _native(each) for each in images]
    if item.get("label"):
        paths.append(root / _native(item["label"]))
    missing = [path for path in paths if not os.path.exists(path)]
    for path in missing:
        layout.faults.add(path, "the file is missing", "fix the list or add it")
    if missing:
        return None
    # Without '..' and '.', and with links as they are.
    absolute = [Path(os.path.abspath(each)) for each in paths]
    path, channels, label = absolute[0], absolute[1 : len(images)], absolute[len(images) :]
    below = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    parts = split_suffix(below.name)
    if parts is None:
        layout.faults.add(path, "the format is not known", "convert the file")
        return None
    name = (below.parent / parts[0]).as_posix()
    return Pair("", name, path, label[0] if label else None, channels=tuple(channels))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except ValueError as error:
        raise DatalistError(str(error)) from error
    if not isinstance(content, dict):
        raise DatalistError(f"{path} is not a dataset.json: an object with 'labels' is expected")
    if not isinstance(content.get("training", []), list):
        raise DatalistError(f"{path}: its 'training' is not a list: fix it")
    for key in ("training", "labels"):
        if near := _misspelt(key, content):
            raise DatalistError(f"{path} has the key '{near}', but no '{key}': rename it")
    return content


def _shown(places: Sequence[str]) -> str:
    more = f" and {len(places) - _MOST_NAMED} more" * (len(places) > _MOST_NAMED)
    return ", ".join(places[:_MOST_NAMED]) + more


def _misspelt(key: str, content: Mapping[str, Any]) -> str:
    """A key that stands for one that is absent, by its letters; empty where there is none."""
    if key in content:
        return ""
    near = [name for name in content if name.strip().lower() == key]
    return next(iter(near or difflib.get_close_matches(key, content, 1, _ALIKE)), "")


def _class_number(raw: Any) -> int | None:
    """A value of a label map, None for anything else than a whole number."""
    if isinstance(raw, str) and _WHOLE.fullmatch(raw):
        return int(raw)
    is_whole = isinstance(raw, (int, float)) and not isinstance(raw, bool) and raw % 1 == 0
    return int(raw) if is_whole else None


def _json_labels(path: Path, described: Mapping[str, Any]) -> Stated:
    """Classes of a dataset.json: ``{name: value}`` (nnU-Net) or ``{value: name}`` (MSD)."""
    raw = described.get("labels")
    if not raw:
        return Stated()
    if not isinstance(raw, Mapping):
        raise DatalistError(f"{path}: 'labels' is not an object such as {{\"liver\": 1}}: fix it")
    by_value = all(_WHOLE.fullmatch(key) for key in raw)
    pairs = [(_class_number(k), v) if by_value else (_class_number(v), k) for k, v in raw.items()]
    whole = [(v, name) for v, name in pairs if v is not None and isinstance(name, str)]
    if len(whole) < len(pairs):
        raise DatalistError(
            f"{path}: 'labels' has values that are not class numbers, or classes without a name "
            f"({raw}); regions of several classes are not read here: name one value for each class"
        )
    if len({value for value, _ in whole}) < len(whole):
        raise DatalistError(f"{path}: 'labels' names a value twice ({raw}); fix it")
    unlabeled = frozenset(value for value, name in whole if name.lower() == "ignore")
    classes = sorted((value, name) for value, name in whole if name.lower() != "ignore")
    if not any(value == 0 for value, _ in classes):
        classes.insert(0, (0, "background"))
    return Stated(tuple(name for _, name in classes), tuple(v for v, _ in classes), unlabeled)
