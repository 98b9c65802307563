"""Match images and labels of users' folders by their names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from mixseg.data.datalist import DatalistError, Split
from mixseg.data.file_checks import Fault
from mixseg.files.finding import find_images

#: Folders that a preparation writes; what lies in them is never taken for somebody's data.
COPIES = ("converted_labels", "converted_scribbles")

_LABEL = re.compile(
    r"(?:^|[_\-. ])(?:gt|masks?|segs?|segmentations?|labels?|labelmap|annotations?|manual)$", re.I
)
_SCRIBBLE = re.compile(r"(?:^|[_\-. ])scribbles?$", re.I)
_IMAGE = re.compile(r"(?:^|[_\-. ])(?:images?|img|scan|volume|0000)$", re.I)
#: As in ``volume-0.nii`` and ``segmentation-0.nii`` of LiTS.
_LABEL_PREFIX = re.compile(r"^(?:gt|masks?|segs?|segmentations?|labels?)[_\-. ](?=.*\d)", re.I)
_IMAGE_PREFIX = re.compile(r"^(?:images?|img|scan|volume)[_\-. ](?=.*\d)", re.I)


@dataclass(frozen=True)
class File:
    """An image: its path, the folders between the root and it, and its name's parts.

    ``channels`` are further files of it, one each of its other channels. Folders and stem are in
    the composed form of Unicode (NFC), which file systems may not keep.
    """

    path: Path
    parents: tuple[str, ...]
    stem: str
    suffix: str
    channels: tuple[Path, ...] = ()

    @property
    def name(self) -> str:
        """Path below the root, without the suffix."""
        return "/".join((*self.parents, self.stem))


@dataclass(frozen=True)
class Pair:
    """The files of one case.

    Attributes:
        case_id: unique among the cases.
        name: what a pattern for the patient is searched in: path below the root, without suffix.
        image: the scan.
        label: its label map, or the folder of a mask for each structure; None without one.
        scribble: its hand-drawn label map, None without one.
        split: where the layout itself says it; else None.
        channels: further files of the image, one each of its other channels.
    """

    case_id: str
    name: str
    image: Path
    label: Path | None = None
    scribble: Path | None = None
    split: Split | None = None
    channels: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Stated:
    """What is known of the classes beforehand.

    Attributes:
        names: of the classes, background first; None if nobody says.
        codes: value of each class in the files; None for 0, 1, 2, …
        unlabeled: values of unlabeled voxels; empty if nobody says.
    """

    names: tuple[str, ...] | None = None
    codes: tuple[int, ...] | None = None
    unlabeled: frozenset[int] = frozenset()


class Faults(list[Fault]):
    """What is found wrong, in the order in which it is found."""

    def add(
        self, path: Path, problem: str, fix: str, level: Literal["error", "note"] = "error"
    ) -> None:
        """One more, about a file that is not a case yet."""
        self.append(Fault(str(path), "", "", problem, fix, level))


@dataclass
class Layout:
    """What a folder holds: its cases, what it says of the classes, and what is wrong with it."""

    name: str
    root: Path
    pairs: list[Pair] = field(default_factory=list)
    stated: Stated = Stated()
    faults: Faults = field(default_factory=Faults)
    notes: list[str] = field(default_factory=list)


def find_files(folder: Path, notes: list[str] | None = None) -> list[File]:
    """Images below a folder, by path; hidden files and converted copies are left out."""
    findings = find_images(folder)
    if notes is not None:
        notes += [f"{path} is left out: {reason}" for path, reason in findings.left_out]
        if findings.hidden:
            notes.append(
                f"hidden files named as images, below {folder}: {findings.hidden} left out"
            )
    return [
        File(
            image.path,
            tuple(unicodedata.normalize("NFC", part) for part in image.parents),
            unicodedata.normalize("NFC", image.stem),
            image.suffix,
        )
        for image in findings.images
        if not set(COPIES) & set(image.parents)
    ]


_MODALITY = re.compile(
    r"^(?P<case>.+)[_\-](?P<channel>t1c|t1ce|t1gd|t1n|t1w?|t2f|t2w?|flair|dwi|adc|pd|swi|bold|ct|pet|"
    r"mr|mra)$",
    re.I,
)


def join_modalities(
    files: Sequence[File], channel: int | None, faults: Faults, notes: list[str]
) -> list[File]:
    """Files named after their modality (``a_t1``, ``a_flair``) as the channels of one image.

    Only where every image has such a name and some case has several, as in BraTS; they are
    channels in the order of the modalities' names.
    """
    matches = {file: _MODALITY.match(file.stem) for file in files if _role(file) == "image"}
    groups: dict[_Key, dict[str, File]] = {}
    for file, match in matches.items():
        if match is None:
            return list(files)
        case = groups.setdefault((file.parents, match["case"]), {})
        if match["channel"].lower() in case:
            return list(files)
        case[match["channel"].lower()] = file
    names = sorted({name for case in groups.values() for name in case})
    if len(names) < 2 or not any(len(case) > 1 for case in groups.values()):
        return list(files)
    listed = ", ".join(f"{i} {name}" for i, name in enumerate(names))
    if channel is not None and not 0 <= channel < len(names):
        raise DatalistError(f"--channel {channel}: there are {listed}")
    wanted = names if channel is None else [names[channel]]
    joined = [file for file in files if file not in matches]
    for (parents, stem), case in groups.items():
        if lacking := [name for name in wanted if name not in case]:
            first = next(iter(case.values()))
            problem = f"the case '{stem}' has no channel {', '.join(lacking)}"
            faults.add(first.path, problem, "add it, or choose one with --channel")
            joined.append(File(first.path, parents, stem, first.suffix))  # its label is no orphan
            continue
        first, *others = (case[name] for name in wanted)
        paths = tuple(file.path for file in others)
        joined.append(File(first.path, parents, stem, first.suffix, paths))
    notes.append(f"files of several modalities are the channels of one image: {listed}")
    return joined


_Key = tuple[tuple[str, ...], str]


def match_folders(
    images: Sequence[File], labels: Sequence[File], scribbles: Sequence[File], faults: Faults
) -> list[Pair]:
    """Cases of images and labels in folders of their own.

    A label belongs to the image of the same folder below the root and the same stem. What is left
    over is matched with or without a usual part of either name: ``a_mask`` or ``a`` to ``a`` or
    ``a_0000``, ``segmentation-0`` to ``volume-0``. Folders of labels named as an image, or beside
    the only image of a folder, hold a mask for each structure.
    """
    pairs: dict[_Key, Pair] = {}
    other_names: dict[_Key, _Key] = {}
    for file in images:
        key = (file.parents, file.stem)
        if key in pairs:
            _note_double(file.path, pairs[key].image, faults)
            continue
        pairs[key] = Pair("", file.name, file.path, channels=file.channels)
    for key in pairs:
        for name in _bare(key[1], _IMAGE, _IMAGE_PREFIX):
            other_names.setdefault((key[0], name), key)
    labels, folders = _structures(labels, pairs, other_names)
    for key, folder in folders.items():
        pairs[key] = _joined(pairs[key], "label", folder, faults)
    for kind, files in (("label", labels), ("scribble", scribbles)):
        left = []
        for file in files:
            role = "scribble" if _SCRIBBLE.search(file.stem) else kind
            if (key := (file.parents, file.stem)) in pairs:
                pairs[key] = _joined(pairs[key], role, file.path, faults)
            else:
                left.append((file, role))
        for file, role in left:
            found = _matching(file, role, pairs, other_names)
            if found is None:
                _note_orphan(file.path, role, faults)
            else:
                pairs[found] = _joined(pairs[found], role, file.path, faults)
    return list(pairs.values())


def _bare(stem: str, suffix: re.Pattern[str], prefix: re.Pattern[str]) -> list[str]:
    """A stem without a usual suffix, and without a usual prefix."""
    names = [suffix.sub("", stem), prefix.sub("", stem)]
    return [name for name in names if name != stem]


def _matching(
    file: File, role: str, pairs: Mapping[_Key, Pair], other_names: Mapping[_Key, _Key]
) -> _Key | None:
    """The image that a label of another name belongs to."""
    strip = _SCRIBBLE if role == "scribble" else _LABEL
    names = [(file.parents, name) for name in (file.stem, *_bare(file.stem, strip, _LABEL_PREFIX))]
    found = next((name for name in names if name in pairs), None)
    return found or next((other_names[name] for name in names if name in other_names), None)


def _structures(
    labels: Sequence[File], pairs: Mapping[_Key, Pair], other_names: Mapping[_Key, _Key]
) -> tuple[list[File], dict[_Key, Path]]:
    """Folders with a mask for each structure, and the labels that lie in none."""
    by_folder: dict[tuple[str, ...], list[File]] = {}
    for file in labels:
        by_folder.setdefault(file.parents, []).append(file)
    found: dict[_Key, Path] = {}
    taken: set[tuple[str, ...]] = set()
    for parents, files in by_folder.items():
        named = any(
            (file.parents, file.stem) in pairs or _matching(file, "label", pairs, other_names)
            for file in files
        )
        if not parents or named or len(files) < 2:
            continue
        owner = (parents[:-1], parents[-1])
        alone = [key for key in pairs if key[0] == parents]
        beside = [key for key in pairs if key[0] == parents[:-1]] if len(parents) > 1 else []
        key = owner if owner in pairs else other_names.get(owner)
        for others in (alone, beside):
            key = key or (others[0] if len(others) == 1 else None)
        if key is not None and key not in found:
            found[key] = files[0].path.parent
            taken.add(parents)
    return [file for file in labels if file.parents not in taken], found


def match_side_by_side(files: Sequence[File], faults: Faults) -> list[Pair]:
    """Cases of images and labels in one folder, told apart by the labels' suffixes.

    Of two files of one stem, a photograph (BMP, JPEG) is the image of a PNG mask.
    """
    files, folders = _structures_beside(files)
    groups: dict[_Key, list[File]] = {}
    roles = _roles(files)
    for file in files:
        groups.setdefault((file.parents, _base(file, roles[file])), []).append(file)
    _give_to_the_only_image(groups, roles)
    pairs: list[Pair] = []
    for group in groups.values():
        photographs = {f for f in group if f.suffix in (".bmp", ".jpg", ".jpeg")}
        if len(group) == 2 and len(photographs) == 1:
            mask = next(f for f in group if f not in photographs)
            if mask.suffix == ".png":
                roles[mask] = "label"
        images = [f for f in group if roles[f] == "image"]
        for file in images[1:]:
            _note_double(file.path, images[0].path, faults)
        if not images:
            for file in group:
                _note_orphan(file.path, roles[file], faults)
            continue
        pair = Pair("", images[0].name, images[0].path, channels=images[0].channels)
        for file in group:
            if roles[file] != "image":
                pair = _joined(pair, roles[file], file.path, faults)
        if images[0] in folders:
            pair = _joined(pair, "label", folders[images[0]], faults)
        pairs.append(pair)
    return pairs


def _structures_beside(files: Sequence[File]) -> tuple[list[File], dict[File, Path]]:
    """Folders named 'segmentations' or so, with several masks, beside the one image of a folder."""
    by_folder: dict[tuple[str, ...], list[File]] = {}
    for file in files:
        by_folder.setdefault(file.parents, []).append(file)
    found: dict[File, Path] = {}
    taken: set[tuple[str, ...]] = set()
    for parents, masks in by_folder.items():
        images = [f for f in by_folder.get(parents[:-1], []) if _role(f) == "image"]
        if parents and len(masks) > 1 and _LABEL.search(parents[-1]) and len(images) == 1:
            found[images[0]] = masks[0].path.parent
            taken.add(parents)
    return [file for file in files if file.parents not in taken], found


def _base(file: File, role: str) -> str:
    """The part of a stem that an image and its label share."""
    if role == "image":
        suffix, prefix = _IMAGE, _IMAGE_PREFIX
    else:
        suffix, prefix = (_SCRIBBLE if role == "scribble" else _LABEL), _LABEL_PREFIX
    return next(iter(_bare(file.stem, suffix, prefix)), file.stem)


def _roles(files: Sequence[File]) -> dict[File, str]:
    """What each file is: one that a label is named after is an image, whatever its own name.

    So ``p1_manual`` is the image of ``p1_manual_mask``, where there is no ``p1``.
    """
    roles = {file: _role(file) for file in files}
    images = {(f.parents, _base(f, "image")) for f in files if roles[f] == "image"}
    bases = {(f.parents, _base(f, roles[f])) for f in files if roles[f] != "image"}
    for file in files:
        own = (file.parents, _base(file, roles[file]))
        if roles[file] != "image" and (file.parents, file.stem) in bases and own not in images:
            roles[file] = "image"
    return roles


def without_faults(pairs: Iterable[Pair], faults: Iterable[Fault]) -> list[Pair]:
    """The pairs whose image is not at fault already, such as for a channel that it lacks."""
    named = {fault.file for fault in faults}
    return [pair for pair in pairs if str(pair.image) not in named]


def name_pairs(pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs with their case ids: the image's stem, with its folders where that is not unique.

    ``_0000`` and ``_image`` at the end of all the names are not part of them.
    """
    pairs = list(pairs)
    names = [pair.name for pair in pairs]
    if all(_IMAGE.search(name.rsplit("/", 1)[-1]) for name in names):
        heads = [name.rpartition("/") for name in names]
        names = [(head + sep + _IMAGE.sub("", stem)).rstrip("/") for head, sep, stem in heads]
    stems = [name.rsplit("/", 1)[-1] for name in names]
    if len(set(stems)) < len(stems) or "" in stems:
        stems = [name.replace("/", "_") for name in names]
    return [replace(pair, case_id=stem) for pair, stem in zip(pairs, stems, strict=True)]


def _give_to_the_only_image(
    groups: dict[tuple[tuple[str, ...], str], list[File]], roles: Mapping[File, str]
) -> None:
    """Labels named 'mask' or 'seg' alone belong to the one image of their folder."""
    for parents, base in [key for key in groups if not key[1]]:
        others = [key for key in groups if key[0] == parents and key[1]]
        nameless = groups[parents, base]
        if len(others) == 1 and all(roles[file] != "image" for file in nameless):
            groups[others[0]] += groups.pop((parents, base))


def _role(file: File) -> str:
    if _SCRIBBLE.search(file.stem):
        return "scribble"
    return "label" if _LABEL.search(file.stem) or _LABEL_PREFIX.search(file.stem) else "image"


def _joined(pair: Pair, role: str, path: Path, faults: Faults) -> Pair:
    first = pair.label if role == "label" else pair.scribble
    if first is not None:
        faults.add(
            path, f"'{pair.image}' has two {role}s, this file and '{first}'", "keep one of them"
        )
        return pair
    return replace(pair, label=path) if role == "label" else replace(pair, scribble=path)


def _note_double(path: Path, first: Path, faults: Faults) -> None:
    faults.add(
        path,
        f"the case is there twice, also as '{first}'",
        "keep one of the files, or rename one if they are two cases",
    )


def _note_orphan(path: Path, role: str, faults: Faults) -> None:
    faults.add(
        path,
        f"the {role} has no image",
        f"add its image, or remove the {role}; names match as a.nii.gz with a.nii.gz, "
        "a_mask.nii.gz, a_gt, a_seg or a_label",
    )
