"""Kinds of cases: fully, partly or not labeled, and the labels that must be converted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mixseg.data.folder.classes import ClassMap
from mixseg.data.folder.contents import ImageFacts, LabelFacts, PairFacts
from mixseg.data.folder.pairs import Faults, Pair

#: What a case is recognized as.
Kind = Literal["full", "partial", "classes", "none"]
#: What it means that a mask lacks a class: the class is absent, or nobody looked for it.
MissingClasses = Literal["absent", "unannotated"]

KINDS: Mapping[Kind, str] = {
    "full": "full masks",
    "partial": "scribbles or partly labeled",
    "classes": "some classes annotated",
    "none": "no label",
}


@dataclass(frozen=True)
class Conversion:
    """A label file that a copy must replace.

    Attributes:
        source: the file, which stays as it is.
        table: value in the copy of each value of the file's label map.
        reason: why, as the report gives it.
        image: the image, on whose grid the copy lies.
        threshold: what was given for smoothed masks.
    """

    source: Path
    table: Mapping[int, int]
    reason: str
    image: Path
    threshold: float | None = None


@dataclass
class FolderCase:
    """A case as it enters the datalist.

    Attributes:
        pair: its files.
        patient: whom it belongs to.
        kind: what it was recognized as.
        image: what its image holds.
        voxels: voxels of each class index in its label (in its scribble if it has no label); the
            number of classes stands for unlabeled.
        annotated: the foreground classes that were annotated, where these are not all.
        conversions: by ``"label"`` and ``"scribble"``.
    """

    pair: Pair
    patient: str
    kind: Kind
    image: ImageFacts
    voxels: Mapping[int, int]
    annotated: list[int] | None = None
    conversions: dict[str, Conversion] = field(default_factory=dict)


def recognize_cases(
    facts: Sequence[PairFacts],
    classes: ClassMap,
    *,
    pattern: re.Pattern[str] | None,
    missing: MissingClasses,
    allow_unlabeled: bool,
    threshold: float | None,
    faults: Faults,
) -> tuple[list[FolderCase], int, list[int]]:
    """Determine the kind of each case from the values of its label, and what must be converted.

    Returns:
        The cases; the value for unlabeled voxels that the datalist states; and the values of
        unlabeled voxels that the files use.
    """
    used = _unlabeled_values(facts, classes)
    unlabeled = _datalist_value(facts, classes, used)
    cases = []
    for fact in facts:
        patient = _patient_of(fact.pair, pattern, faults)
        case = _recognize(fact, classes, patient, missing, allow_unlabeled, faults)
        if case is not None:
            _add_conversions(case, fact, classes, unlabeled, threshold)
            cases.append(case)
    return cases, unlabeled, used


def refuse_unlabeled(pair: Pair, faults: Faults) -> None:
    """Note that nobody labeled an image."""
    faults.add(
        pair.image,
        "the image has no label",
        "add its label, or give --allow-unlabeled if it is meant to have none",
    )


def _unlabeled_values(facts: Sequence[PairFacts], classes: ClassMap) -> list[int]:
    """The values of unlabeled voxels that the files use."""
    count = len(classes.names)
    used = {
        value
        for fact in facts
        for label, scribble in fact.labels
        for value, index in classes.indices(label.counts, scribble).items()
        if index == count
    }
    return sorted(used)


def _datalist_value(facts: Sequence[PairFacts], classes: ClassMap, used: Sequence[int]) -> int:
    """The value for unlabeled voxels that the datalist states.

    That of the files, where all of them use one and number the classes 0…C−1; else C, and the
    files are converted.
    """
    count = len(classes.names)
    if classes.codes != tuple(range(count)) or len(used) != 1:
        return count
    copied = any(label.dtype or label.reasons for fact in facts for label, _ in fact.labels)
    # Copies are uint8, and 0 means unlabeled in scribbles alone.
    return count if used[0] == 0 or (used[0] < 0 and copied) else used[0]


def _patient_of(pair: Pair, pattern: re.Pattern[str] | None, faults: Faults) -> str:
    """The patient whom a pattern finds in a case's name; without a pattern the case itself."""
    if pattern is None:
        return pair.case_id
    match = pattern.search(pair.name) or pattern.search(pair.case_id)
    if match is None or not match.group(1):
        faults.add(
            pair.image,
            f"--patient-pattern '{pattern.pattern}' finds no patient in '{pair.name}'",
            "fix the pattern",
        )
        return pair.case_id
    return match.group(1)


def _recognize(
    facts: PairFacts,
    classes: ClassMap,
    patient: str,
    missing: MissingClasses,
    allow_unlabeled: bool,
    faults: Faults,
) -> FolderCase | None:
    """A case; None where something is wrong with it."""
    pair, count = facts.pair, len(classes.names)
    if facts.faults or facts.image is None:
        return None
    before = len(faults)
    for label, scribble in facts.labels:
        classes.check_values(label, scribble, faults)
    if len(faults) > before:
        return None
    if facts.scribble is not None:
        _check_scribble(facts.scribble, classes, faults)
    voxels = _voxels(facts, classes)
    kind: Kind = "full"
    annotated: list[int] | None = None
    empty = False
    if facts.label is None:
        kind = "none" if facts.scribble is None else "partial"
    elif count in voxels:
        empty = len(voxels) == 1
        kind = "none" if empty and facts.scribble is None else "partial"
    elif missing == "unannotated" and set(range(1, count)) - set(voxels):
        annotated = [index for index in range(1, count) if index in voxels] or None
        empty = annotated is None
        kind = "none" if empty else "classes"
    if empty and facts.label is not None and not allow_unlabeled:
        faults.add(
            facts.label.path,
            "the label holds no labeled voxel",
            "remove it, or give --allow-unlabeled to use the case as one without a label",
        )
    if kind == "none" and facts.label is None and not allow_unlabeled:
        refuse_unlabeled(pair, faults)
    if len(faults) > before:
        return None
    return FolderCase(pair, patient, kind, facts.image, voxels, annotated)


def _voxels(facts: PairFacts, classes: ClassMap) -> dict[int, int]:
    """Voxels of each class in the label, or in the scribble where there is no label."""
    voxels: dict[int, int] = {}
    for label, scribble in facts.labels[:1]:
        for value, index in classes.indices(label.counts, scribble).items():
            if index is not None:
                voxels[index] = voxels.get(index, 0) + label.counts[value]
    return voxels


def _check_scribble(scribble: LabelFacts, classes: ClassMap, faults: Faults) -> None:
    count = len(classes.names)
    indices = set(classes.indices(scribble.counts, scribble=True).values())
    if count not in indices:
        faults.add(
            scribble.path,
            "the scribble has no unlabeled voxel",
            "if 0 means untouched there, give --unlabeled 0; a full mask belongs with the labels",
        )
    elif indices == {count}:
        faults.add(
            scribble.path, "the scribble has no labeled voxel", "draw one, or remove the file"
        )


def _add_conversions(
    case: FolderCase,
    facts: PairFacts,
    classes: ClassMap,
    unlabeled: int,
    threshold: float | None,
) -> None:
    """Note which of a case's labels need a copy, and why."""
    count = len(classes.names)
    for role, label in (("label", facts.label), ("scribble", facts.scribble)):
        if label is None or (role == "label" and case.kind == "none"):
            continue
        indices = classes.indices(label.counts, role == "scribble")
        table = {v: unlabeled if i == count else int(i or 0) for v, i in indices.items()}
        reasons = []
        if any(indices[v] != count and v != new for v, new in table.items()):
            pairs = zip(classes.codes, range(count), strict=True)
            reasons.append("values " + ", ".join(f"{v}→{i}" for v, i in pairs))
        if moved := sorted(v for v, i in indices.items() if i == count and v != unlabeled):
            reasons.append(f"unlabeled {', '.join(map(str, moved))}→{unlabeled}")
        if label.dtype:
            reasons.append(f"{label.dtype}→uint8")
        reasons += label.reasons
        if label.table is not None:
            table = {value: table[code] for value, code in label.table.items() if code in table}
        if reasons:
            limit = threshold if role == "label" else None
            case.conversions[role] = Conversion(
                label.path, table, "; ".join(reasons), facts.pair.image, limit
            )
