"""A datalist from a user's own folder: inspected and reported first, then written."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mixseg.data.datalist import DatalistError, Split
from mixseg.data.file_checks import describe_faults
from mixseg.data.folder.cases import FolderCase, MissingClasses, recognize_cases, refuse_unlabeled
from mixseg.data.folder.classes import ClassMap, decide_classes
from mixseg.data.folder.contents import PairFacts, read_pairs
from mixseg.data.folder.layouts import find_layout
from mixseg.data.folder.pairs import Faults, Layout, Stated
from mixseg.data.folder.split import DEFAULT_SPLIT, SplitRule, parse_split, split_by_patient
from mixseg.data.folds import MIN_TRAINING_MASKS


@dataclass(frozen=True)
class FolderOptions:
    """Options of a folder that its files do not show.

    Attributes:
        labels: folder of the labels; None to find them in the folder of the images.
        scribbles: folder of hand-drawn labels, beside or instead of the labels.
        classes: names, background first; None for those of ``dataset.json`` or by number.
        values: the value of each class in the files; None for 0, 1, 2, …
        unlabeled: the values of unlabeled voxels; None where none is, or where ``dataset.json``
            names it (``ignore``). 0 is taken in ``scribbles`` alone.
        threshold: labels are gray pictures of one class, whose voxels have at least this value.
        missing_classes: what it means that a mask lacks a class: ``"absent"``, there is none of
            it, or ``"unannotated"``, nobody looked for it.
        allow_unlabeled: take images without a label (supervision ``none``).
        channel: which file of a case is its image where it has several.
        patient_pattern: regular expression whose first group is the patient, searched in an
            image's path below its folder; None where each case is a patient of its own.
        split: ``"auto"``, ``"70/10/20"``, percent of the fully labeled patients, or a file with
            names (:func:`mixseg.data.folder.split.parse_split`).
        seed: of the split.
    """

    labels: str | os.PathLike[str] | None = None
    scribbles: str | os.PathLike[str] | None = None
    classes: Sequence[str] | None = None
    values: Sequence[int] | None = None
    unlabeled: int | Sequence[int] | None = None
    threshold: float | None = None
    missing_classes: MissingClasses = "absent"
    allow_unlabeled: bool = False
    channel: int | None = None
    patient_pattern: str | None = None
    split: str = DEFAULT_SPLIT
    seed: int = 0


@dataclass
class FolderReport:
    """What a folder holds and what would be written; nothing is written yet.

    Attributes:
        layout: what it was taken for.
        root: the folder of images and labels.
        classes: the meaning of the labels' values; None where that cannot be told.
        unlabeled: value of unlabeled voxels in the datalist.
        values: values of unlabeled voxels in the files.
        splits: the cases of each split, in the datalist's order.
        faults: what must be fixed first.
        notes: what is repaired, left out, or worth a look.
        cases: all that could be recognized.
    """

    layout: str
    root: Path
    classes: ClassMap | None = None
    unlabeled: int = 0
    values: list[int] = field(default_factory=list)
    splits: dict[Split, list[FolderCase]] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    notes: list[str] = field(default_factory=list)
    cases: list[FolderCase] = field(default_factory=list)

    @property
    def uses(self) -> list[str]:
        """What the cases are for, in sentences, where that may not be what one expects."""
        sentences = []
        if self.splits and not self.splits["validation"]:
            full = len({case.patient for case in self.cases if case.kind == "full"})
            masks = f"{_count(full, 'patient')} with full masks" if full else "no full mask"
            score = "Nothing can be scored: label at least three patients completely"
            if full > MIN_TRAINING_MASKS:
                score = (
                    "To score them, test each mask once by cross-validation: mixseg train BUNDLE "
                    f"--folds {min(full, 5)}"
                )
            sentences.append(
                f"{masks}: too few to set any aside for validation. A training keeps its last "
                f"weights. {score}"
            )
        elif self.splits and len({case.patient for case in self.splits["test"]}) == 1:
            sentences.append(
                "one patient tests, and its score alone says little. To test each of the training "
                "masks once, too: mixseg train BUNDLE --folds 5"
            )
        if without := sum(case.kind == "none" for case in self.cases):
            sentences.append(
                f"{_count(without, 'case')} without a label: in the datalist for methods that "
                "learn from images alone (num_unlabeled) and for 'mixseg self-train', which "
                "proposes their masks; other methods leave them out"
            )
        return sentences

    def check(self) -> None:
        """Refuse a folder with faults.

        Raises:
            DatalistError: lists all of them, each with its file and the fix.
        """
        if self.faults:
            plural = "faults" if len(self.faults) > 1 else "fault"
            lines = "\n".join(f"  {line}" for line in describe_faults(self.faults))
            raise DatalistError(
                f"{len(self.faults)} {plural} in '{self.root}'; nothing is written:\n{lines}"
            )


def inspect_folder(
    images: str | os.PathLike[str],
    options: FolderOptions | None = None,
    progress: bool = False,
) -> FolderReport:
    """Read a folder's files once and find out what each case is; nothing is written.

    Args:
        images: folder of the images, root of a data set (nnU-Net, Medical Segmentation Decathlon,
            ``images/`` and ``labels/``), or a ``dataset.json``.
        options: what a person says of it.
        progress: show a progress bar on standard error.

    Raises:
        DatalistError: no folder, no image, or a ``dataset.json`` or split file that cannot be read.
        ValueError: options that contradict each other.
    """
    given = options or FolderOptions()
    rule = parse_split(given.split)
    pattern = _patient_pattern(given.patient_pattern)
    labels, scribbles = (
        None if path is None else Path(path).resolve() for path in (given.labels, given.scribbles)
    )
    if given.threshold is not None and given.unlabeled is not None and scribbles is None:
        raise ValueError(
            "--threshold makes every voxel of a label background or the class, and leaves none for "
            "--unlabeled: give one of them"
        )
    layout = find_layout(Path(images).resolve(), labels, scribbles, given.channel)
    report = FolderReport(layout.name, layout.root, faults=layout.faults, notes=layout.notes)
    said = _stated(given, layout)
    facts = read_pairs(layout.pairs, progress, given.threshold, said)
    if not facts:
        if not report.faults:
            report.faults.add(layout.root, "it holds no case", "add some")
        return report
    report.faults += [fault for fact in facts for fault in fact.faults]
    report.notes += describe_faults([note for fact in facts for note in fact.notes])
    _check_ids(facts, report.faults)
    report.classes = decide_classes(facts, said, layout.root, report.faults)
    if report.classes is None:
        if not given.allow_unlabeled:
            for pair in (pair for pair in layout.pairs if not (pair.label or pair.scribble)):
                refuse_unlabeled(pair, report.faults)
        return report
    report.cases, report.unlabeled, report.values = recognize_cases(
        facts,
        report.classes,
        pattern=pattern,
        missing=given.missing_classes,
        allow_unlabeled=given.allow_unlabeled,
        threshold=given.threshold,
        faults=report.faults,
    )
    _check_kinds(report.cases, report.faults)
    _join_equal_images(report.cases, report.notes)
    if report.cases:
        report.splits = split_by_patient(report.cases, rule, given.seed, layout.root, report.faults)
    _add_notes(report, given, rule)
    return report


def _patient_pattern(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ValueError(
            f"--patient-pattern '{text}' is not a regular expression: {error}"
        ) from error
    if not pattern.groups:
        raise ValueError(
            f"--patient-pattern '{text}' has no group: put the patient in parentheses, such as "
            r"'(patient\d+)'"
        )
    return pattern


def _stated(given: FolderOptions, layout: Layout) -> Stated:
    """The options, and what they leave open from the layout's own description."""
    names = None if given.classes is None else tuple(given.classes)
    codes = None if given.values is None else tuple(int(value) for value in given.values)
    known = layout.stated
    if codes is None and (names is None or len(names) == len(known.names or ())):
        codes = known.codes
    if names is None and (codes is None or codes == known.codes):
        names = known.names
    unlabeled = known.unlabeled
    if given.unlabeled is not None:
        values = given.unlabeled
        unlabeled = frozenset([values] if isinstance(values, int) else map(int, values))
    return Stated(names, codes, unlabeled)


def _check_ids(facts: Sequence[PairFacts], faults: Faults) -> None:
    first: dict[str, Path] = {}
    for fact in facts:
        other = first.setdefault(fact.pair.case_id, fact.pair.image)
        if other != fact.pair.image:
            problem = f"the case '{fact.pair.case_id}' is there twice, also as '{other}'"
            faults.add(fact.pair.image, problem, "rename one of the files")


def _check_kinds(cases: Sequence[FolderCase], faults: Faults) -> None:
    """Note images of another kind than most: no network takes both."""
    kinds = Counter((len(case.image.shape), case.image.channels) for case in cases)
    for case in cases:
        own, usual = (len(case.image.shape), case.image.channels), kinds.most_common(1)[0][0]
        if own != usual:
            faults.add(
                case.pair.image,
                f"the image is {own[0]}D with {own[1]} channels, most others are {usual[0]}D with "
                f"{usual[1]}",
                "convert it, or prepare each kind by itself; "
                "of a series in time, store one frame per file",
            )


def _join_equal_images(cases: Sequence[FolderCase], notes: list[str]) -> None:
    """Let patients with the same image count as one, so that no split parts them."""
    groups: dict[str, list[FolderCase]] = {}
    for case in cases:
        groups.setdefault(case.image.digest, []).append(case)
    one: dict[str, str] = {}
    for members in groups.values():
        first, *others = members
        for other in others:
            notes.append(
                f"{other.pair.image}: the image is voxel for voxel that of case "
                f"'{first.pair.case_id}' ({first.pair.image}); both stay in one split as one "
                "patient: if one is a copy, remove it"
            )
            old, new = (one.get(case.patient, case.patient) for case in (other, first))
            one |= {name: new for name in (*one, old) if one.get(name, name) == old}
    for case in cases:
        case.patient = one.get(case.patient, case.patient)


def _add_notes(report: FolderReport, given: FolderOptions, rule: SplitRule) -> None:
    """What is repaired, assumed or left out."""
    classes = report.classes
    assert classes is not None
    reasons: dict[str, list[str]] = {}
    for case in report.cases:
        for conversion in case.conversions.values():
            reasons.setdefault(conversion.reason, []).append(conversion.source.name)
    for reason, names in reasons.items():
        report.notes.append(
            f"{_count(len(names), 'label file')} converted into copies ({reason}), such as "
            f"{names[0]}"
        )
    series = [case.pair.case_id for case in report.cases if case.pair.image.is_dir()]
    if series:
        report.notes.append(
            f"{_count(len(series), 'image')} read from a folder of DICOM slices: {_some(series)}"
        )
    full = [case for case in report.cases if case.kind == "full"]
    for index, name in enumerate(classes.names[1:], start=1):
        without = [case.pair.case_id for case in full if index not in case.voxels]
        if without and given.missing_classes == "absent":
            report.notes.append(
                f"{len(without)} of {_count(len(full), 'full mask')} hold no '{name}' "
                f"({_some(without)}): taken as absent from these images. If it was not annotated "
                "there: --missing-classes unannotated"
            )
    named = {case.pair.case_id for split in report.splits.values() for case in split}
    left = [case.pair.case_id for case in report.cases if case.pair.case_id not in named]
    if left and rule.names is not None and report.splits:
        report.notes.append(
            f"{_count(len(left), 'case')} not named by {rule.source} and left out: {_some(left)}"
        )
    heads = Counter(case.pair.case_id.rpartition("_")[0] for case in report.cases)
    if (
        given.patient_pattern is None
        and 1 < len(heads) <= 0.75 * len(report.cases)
        and "" not in heads
        and min(heads.values()) > 1
    ):
        report.notes.append(
            f"{len(report.cases)} cases have names with {len(heads)} beginnings such as "
            f"'{next(iter(heads))}': if these are patients, --patient-pattern '([^/]+)_[^_]+$' "
            "keeps the cases of each together"
        )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
