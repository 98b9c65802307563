"""Splitting the cases of a folder by patient."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mixseg.data.datalist import SPLITS, DatalistError, Split
from mixseg.data.folder.cases import FolderCase
from mixseg.data.folder.pairs import Faults
from mixseg.files.documents import read_json

#: Percentages of training, validation and test; with few full masks all of them train.
DEFAULT_SPLIT = "auto"
_SHARES_OF_MANY = "70/10/20"
#: Patients with full masks from which on some of them can be kept for validation and test.
ENOUGH_MASKS = 10
#: Patients of a split: weights or scores of a single one are chance.
_LEAST = 2
_MOST_NAMED = 10
#: Patients that an automatic split leaves to train on; at ten masks one is left to test.
_LEAST_TRAINING = 7

_NUMBER = r"(\d+(?:\.\d+)?)"
_SHARES = re.compile(rf"^{_NUMBER}/{_NUMBER}/{_NUMBER}$")
_KEYS: Mapping[str, Split] = {
    "train": "training",
    "training": "training",
    "val": "validation",
    "validation": "validation",
    "test": "test",
}


@dataclass(frozen=True)
class SplitRule:
    """How to split: shares of the fully labeled patients, or names that a file lists.

    Attributes:
        validation: share, 0 to 1.
        test: share, 0 to 1.
        automatic: whether fewer than :data:`ENOUGH_MASKS` patients all train.
        source: the file; None for shares.
        names: case or patient ids of each split.
    """

    validation: float = 0.0
    test: float = 0.0
    automatic: bool = False
    source: Path | None = None
    names: Mapping[Split, Sequence[str]] | None = None


def parse_split(text: str) -> SplitRule:
    """Read ``auto``, ``70/10/20`` (percent for training, validation and test), or a file's name.

    ``auto`` is 70/10/20 from :data:`ENOUGH_MASKS` patients with full masks on, seven at least to
    train. Of fewer all train: cross-validation scores them better than one or two set aside.

    A file is an object with the lists ``train``, ``val`` and ``test``, or nnU-Net's
    ``splits_final.json``, a list of folds, whose number follows a colon: ``splits_final.json:2``.

    Raises:
        ValueError: percentages that do not add up to 100, or no validation.
        DatalistError: a file that cannot be read.
    """
    automatic = text.strip() == DEFAULT_SPLIT
    match = _SHARES.match(_SHARES_OF_MANY if automatic else text.strip())
    if match is None:
        return _read_file(text)
    train, validation, test = (float(number) for number in match.groups())
    if abs(train + validation + test - 100) > 1e-6:
        raise ValueError(
            f"--split {text}: the percentages add up to {train + validation + test:g}; give three "
            f"that add up to 100, such as {_SHARES_OF_MANY}"
        )
    if not train or not validation:
        raise ValueError(
            f"--split {text}: training and validation need a share (training/validation/test)"
        )
    return SplitRule(validation / 100, test / 100, automatic)


def split_by_patient(
    cases: Sequence[FolderCase], rule: SplitRule, seed: int, root: Path, faults: Faults
) -> dict[Split, list[FolderCase]]:
    """Deal the cases to the splits, those of a patient together.

    Validation and test take patients whose cases all have full masks: of these the shares are
    counted, at least two for each share above 0, and two are kept to train on. Where the layout
    itself names the cases of one, no others are drawn for it. An automatic rule leaves all to
    training where there are fewer than :data:`ENOUGH_MASKS`, and never fewer than seven: of ten
    patients two validate, since one alone would choose the weights, and one tests.
    """
    splits: dict[Split, list[FolderCase]] = {split: [] for split in SPLITS}
    patients: dict[str, list[FolderCase]] = {}
    for case in sorted(cases, key=lambda case: case.pair.case_id):
        patients.setdefault(case.patient, []).append(case)
    kinds = {case.kind for case in cases}
    if "full" not in kinds and (not rule.automatic or kinds == {"none"}):
        faults.add(
            root,
            f"none of the {len(cases)} cases has a full mask, which validation needs",
            "label a few cases completely; if they are, check --classes and --unlabeled; or "
            "leave out --split, to train without validation",
        )
        return splits
    given: dict[str, Split | None] = {case.pair.case_id: case.pair.split for case in cases}
    if rule.names is not None and rule.source is not None:
        given |= _given_by_file(cases, rule.names, rule.source, faults)
        patients = _in_order(patients, rule.names)
        _refuse_mixed(patients, given, rule.source, faults)
    else:
        names = sorted(patients)
        order = np.random.default_rng(seed).permutation(len(names))
        patients = {names[i]: patients[names[i]] for i in order}
        _draw(patients, given, rule, root, faults)
        given = {case_id: split or "training" for case_id, split in given.items()}
        _refuse_mixed(patients, given, root, faults)
    for case in (case for members in patients.values() for case in members):
        split = given[case.pair.case_id]
        if split is None:
            continue
        splits[split].append(case)
        if split != "training" and case.kind != "full":
            faults.add(
                case.pair.image,
                f"the {split} case has no full mask",
                "validation and test need complete masks; move the case to training",
            )
    return splits


def _draw(
    patients: Mapping[str, Sequence[FolderCase]],
    given: dict[str, Split | None],
    rule: SplitRule,
    root: Path,
    faults: Faults,
) -> None:
    """Choose patients for validation and test; the rest stays for training."""
    free = [
        members
        for members in patients.values()
        if all(case.kind == "full" and given[case.pair.case_id] is None for case in members)
    ]
    if rule.automatic and len(free) < ENOUGH_MASKS:
        return
    shares: dict[Split, float] = {"validation": rule.validation, "test": rule.test}
    numbers = {
        split: max(_LEAST, round(share * len(free)))
        for split, share in shares.items()
        if share and split not in given.values()
    }
    if rule.automatic and "test" in numbers:
        spare = len(free) - _LEAST_TRAINING - numbers.get("validation", 0)
        numbers["test"] = max(1, min(numbers["test"], spare))
    needed = sum(numbers.values()) + _LEAST
    if len(free) < needed:
        faults.add(
            root,
            f"{len(free)} patients have full masks only, but {needed} are needed, at least "
            f"two each for {', '.join(('training', *numbers))}",
            "leave out --split: all of them train, and cross-validation scores them",
        )
        return
    for split, number in numbers.items():
        for _ in range(number):
            for case in free.pop(0):
                given[case.pair.case_id] = split


def _refuse_mixed(
    patients: Mapping[str, Sequence[FolderCase]],
    given: Mapping[str, Split | None],
    source: Path,
    faults: Faults,
) -> None:
    for patient, members in patients.items():
        named = {given[case.pair.case_id] for case in members}
        found = [split for split in SPLITS if split in named]
        if len(found) > 1:
            faults.add(
                source,
                f"patient '{patient}' is in two splits, {' and '.join(found)} "
                f"({', '.join(case.pair.case_id for case in members)})",
                "keep all cases of a patient in one split",
            )


def _given_by_file(
    cases: Sequence[FolderCase],
    names: Mapping[Split, Sequence[str]],
    source: Path,
    faults: Faults,
) -> dict[str, Split | None]:
    found: dict[str, Split | None] = {}
    unknown: dict[Split, list[str]] = {}
    for split, listed in names.items():
        for name in listed:
            members = [c.pair.case_id for c in cases if name in (c.pair.case_id, c.patient)]
            if not members:
                unknown.setdefault(split, []).append(name)
            for case_id in members:
                if found.get(case_id, split) != split:
                    faults.add(
                        source,
                        f"'{name}' is in two splits, {found[case_id]} and {split}",
                        "keep it in one",
                    )
                found.setdefault(case_id, split)
    for split, strange in unknown.items():
        shown = ", ".join(f"'{name}'" for name in strange[:_MOST_NAMED])
        more = f" and {len(strange) - _MOST_NAMED} more" * (len(strange) > _MOST_NAMED)
        they = (
            "are neither cases nor patients" if strange[1:] else "is neither a case nor a patient"
        )
        problem = f"{shown}{more} of its {split} split {they} here"
        faults.add(source, problem, "fix the name or add the case")
    for split in ("training", "validation"):
        if not names.get(split):
            faults.add(source, f"its {split} split is empty", "name cases for it")
    return found


def _in_order(
    patients: Mapping[str, list[FolderCase]], names: Mapping[Split, Sequence[str]]
) -> dict[str, list[FolderCase]]:
    """The patients in the order of the file: Set-N follows it."""
    places = {name: i for i, name in enumerate(n for listed in names.values() for n in listed)}
    last = len(places)

    def place(patient: str) -> int:
        ids = [patient, *(case.pair.case_id for case in patients[patient])]
        return min(places.get(name, last) for name in ids)

    return {patient: patients[patient] for patient in sorted(patients, key=place)}


def _read_file(text: str) -> SplitRule:
    path, fold = Path(text), 0
    if not path.is_file():
        head, separator, tail = text.rpartition(":")
        if not separator or not re.fullmatch("[0-9]{1,6}", tail) or not Path(head).is_file():
            raise DatalistError(
                f"--split '{text}' is neither '{DEFAULT_SPLIT}' nor percentages such as "
                f"{_SHARES_OF_MANY} nor a file"
            )
        path, fold = Path(head), int(tail)
    try:
        content = read_json(path)
    except ValueError as error:
        raise DatalistError(str(error)) from error
    if not isinstance(content, list) and path != Path(text):
        raise DatalistError(f"{path} has no folds but one split: give it without ':{fold}'")
    if isinstance(content, list):
        if not fold < len(content):
            raise DatalistError(f"{path} has {len(content)} folds, none with number {fold}")
        content = content[fold]
    return SplitRule(source=path, names=_names(path, content))


def _names(path: Path, content: Any) -> dict[Split, list[str]]:
    known = isinstance(content, dict) and {k: v for k, v in content.items() if k in _KEYS}
    if not known or not all(isinstance(value, list) for value in known.values()):
        raise DatalistError(f"{path} needs the lists 'train', 'val' and 'test'")
    for key in content:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, 1)
            hint = f"; is '{near[0]}' meant?" if near else ""
            raise DatalistError(
                f"{path} has the list '{key}', which is not one of {', '.join(_KEYS)}{hint}"
            )
    if len({_KEYS[key] for key in known}) < len(known):
        raise DatalistError(
            f"{path} names a split twice ({', '.join(known)}): put its cases in one list"
        )
    return {
        _KEYS[key]: [unicodedata.normalize("NFC", str(name)) for name in value]
        for key, value in known.items()
    }
