"""Which image belongs to which label: files of people's folders, matched by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mixseg.data.datalist import Split
from mixseg.data.file_checks import Fault
from mixseg.files.reading import split_suffix

__all__ = [
    "COPIES",
    "File",
    "Layout",
    "Pair",
    "Stated",
    "file_fault",
    "find_files",
    "match_folders",
    "match_side_by_side",
    "name_pairs",
]

#: Folders that a preparation writes; what lies in them is never taken for somebody's data.
COPIES = ("converted_labels", "converted_scribbles")

_LABEL = re.compile(
    r"(?:^|[_\-. ])(?:gt|masks?|segs?|segmentations?|labels?|labelmap|annotations?|manual)$", re.I
)
_SCRIBBLE = re.compile(r"(?:^|[_\-. ])scribbles?$", re.I)
_IMAGE = re.compile(r"(?:^|[_\-. ])(?:images?|img|scan|volume|0000)$", re.I)


@dataclass(frozen=True)
class File:
    """An image file: its path, the folders between the root and it, and its name's parts."""

    path: Path
    parents: tuple[str, ...]
    stem: str
    suffix: str

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
        label: its label map, None without one.
        scribble: its hand-drawn label map, None without one.
        split: where the layout itself says it; else None.
    """

    case_id: str
    name: str
    image: Path
    label: Path | None = None
    scribble: Path | None = None
    split: Split | None = None


@dataclass(frozen=True)
class Stated:
    """What is known of the classes beforehand.

    Attributes:
        names: of the classes, background first; None if nobody says.
        codes: value of each class in the files; None for 0, 1, 2, …
        unlabeled: value of unlabelled voxels; None if nobody says.
    """

    names: tuple[str, ...] | None = None
    codes: tuple[int, ...] | None = None
    unlabeled: int | None = None


@dataclass
class Layout:
    """What a folder holds: its cases, what it says of the classes, and what is wrong with it."""

    name: str
    root: Path
    pairs: list[Pair] = field(default_factory=list)
    stated: Stated = Stated()
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def file_fault(path: Path, problem: str, mend: str) -> Fault:
    """An error about a file that is no case yet."""
    return Fault(str(path), "", "", problem, mend)


def find_files(folder: Path) -> list[File]:
    """Image files below a folder, by path; hidden files and converted copies are left out."""
    found = []
    for path in sorted(folder.rglob("*")):
        parents = path.relative_to(folder).parts[:-1]
        hidden = any(part.startswith(".") or part in COPIES for part in (*parents, path.name))
        parts = None if hidden else split_suffix(path.name)
        if parts is not None and path.is_file():
            found.append(File(path, parents, *parts))
    return found


def match_folders(
    images: Sequence[File], labels: Sequence[File], scribbles: Sequence[File]
) -> tuple[list[Pair], list[Fault]]:
    """Cases of images and labels in folders of their own.

    A label belongs to the image of the same folder below the root and the same stem, with or
    without a usual suffix of either (``a_mask`` or ``a`` to ``a`` or ``a_0000``).
    """
    faults: list[Fault] = []
    pairs: dict[tuple[tuple[str, ...], str], Pair] = {}
    other_names: dict[tuple[tuple[str, ...], str], tuple[tuple[str, ...], str]] = {}
    for file in images:
        key = (file.parents, file.stem)
        if key in pairs:
            faults.append(_double(file.path, pairs[key].image))
            continue
        pairs[key] = Pair("", file.name, file.path)
        other_names.setdefault((file.parents, _IMAGE.sub("", file.stem)), key)
    for kind, files in (("label", labels), ("scribble", scribbles)):
        for file in files:
            role = "scribble" if _SCRIBBLE.search(file.stem) else kind
            strip = _SCRIBBLE if role == "scribble" else _LABEL
            names = ((file.parents, file.stem), (file.parents, strip.sub("", file.stem)))
            found = next((n for n in names if n in pairs), None)
            found = found or next((other_names[n] for n in names if n in other_names), None)
            if found is None:
                faults.append(_orphan(file.path, role))
            else:
                pairs[found] = _joined(pairs[found], role, file.path, faults)
    return list(pairs.values()), faults


def match_side_by_side(files: Sequence[File]) -> tuple[list[Pair], list[Fault]]:
    """Cases of images and labels in one folder, told apart by the labels' suffixes.

    Of two files of one stem, a photograph (BMP, JPEG) is the image of a PNG mask.
    """
    groups: dict[tuple[tuple[str, ...], str], list[File]] = {}
    roles = {file: _role(file) for file in files}
    for file in files:
        strip = {"label": _LABEL, "scribble": _SCRIBBLE, "image": _IMAGE}[roles[file]]
        groups.setdefault((file.parents, strip.sub("", file.stem)), []).append(file)
    _give_to_the_only_image(groups, roles)
    pairs: list[Pair] = []
    faults: list[Fault] = []
    for group in groups.values():
        photographs = {f for f in group if f.suffix in (".bmp", ".jpg", ".jpeg")}
        if len(group) == 2 and len(photographs) == 1:
            mask = next(f for f in group if f not in photographs)
            if mask.suffix == ".png":
                roles[mask] = "label"
        images = [f for f in group if roles[f] == "image"]
        faults += [_double(f.path, images[0].path) for f in images[1:]]
        if not images:
            faults += [_orphan(f.path, roles[f]) for f in group]
            continue
        pair = Pair("", images[0].name, images[0].path)
        for file in group:
            if roles[file] != "image":
                pair = _joined(pair, roles[file], file.path, faults)
        pairs.append(pair)
    return pairs, faults


def name_pairs(pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs with their case ids: the image's stem, with its folders where that is not unique.

    ``_0000`` and ``_image`` at the end of all the names are no part of them.
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
    return "label" if _LABEL.search(file.stem) else "image"


def _joined(pair: Pair, role: str, path: Path, faults: list[Fault]) -> Pair:
    first = pair.label if role == "label" else pair.scribble
    if first is not None:
        faults.append(
            file_fault(
                path,
                f"'{pair.image}' has two {role}s, this file and '{first}'",
                "keep one of them",
            )
        )
        return pair
    return replace(pair, label=path) if role == "label" else replace(pair, scribble=path)


def _double(path: Path, first: Path) -> Fault:
    return file_fault(
        path,
        f"the case is there twice, also as '{first}'",
        "keep one of the files, or rename one if they are two cases",
    )


def _orphan(path: Path, role: str) -> Fault:
    return file_fault(
        path,
        f"the {role} has no image",
        f"add its image, or remove the {role}; names match as a.nii.gz with a.nii.gz, "
        "a_mask.nii.gz, a_gt, a_seg or a_label",
    )
