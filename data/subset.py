"""Set-N: which training patients keep their full masks and which become partially labeled."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any, Literal, get_args

from mixseg.data.datalist import (
    SPLITS,
    Datalist,
    DatalistError,
    Entry,
    Split,
    Supervision,
    supervision_of,
)

WeakLabel = Literal["erosion", "drawn"]
NoisyAs = Literal["full", "partial", "noisy"]


def select_cases(
    datalist: Datalist,
    dataset_dir: str | os.PathLike[str] | None = None,
    num_full: int | None = None,
    num_partial: int | None = None,
    weak_label: WeakLabel = "erosion",
    *,
    num_noisy: int | None = 0,
    num_unlabeled: int | None = 0,
    noisy_as: NoisyAs | None = None,
) -> list[dict[str, Any]]:
    """The training cases of Set-N: N fully labeled patients, the next ones partially labeled.

    Patients are taken in the order of their first entry in ``training``. The first ``num_full``
    patients whose cases are all ``full`` stay so. Of the remaining patients, the next
    ``num_partial`` become ``partial``, all their cases together, and of those after them that are
    fully labeled the next ``num_noisy`` are used with masks made wrong on purpose. Of what then
    remains, patients without a label included, the next ``num_unlabeled`` become ``none``: their
    labels are not handed out, so nothing can open them. The rest is dropped. The papers' Set-N is
    ``num_full=N, num_partial=5*N``; a semi-supervised method sees the same scans with
    ``num_partial=0, num_unlabeled=5*N``.

    Args:
        datalist: the datalist.
        dataset_dir: folder that relative paths start from; None for the datalist's own.
        num_full: patients that stay fully labeled; None for every patient that is.
        num_partial: patients used as partially labeled; None for all that remain.
        weak_label: what a full case gives when it is used as partial: ``"erosion"`` keeps its mask
            in ``label``, to be eroded into a scribble by a transform; ``"drawn"`` puts its
            hand-drawn ``scribble`` there. Cases that are partial already keep their label (or
            their scribble, with ``"drawn"`` or where that is all they have).
        num_noisy: patients whose full masks a transform shall distort; None for all that remain.
        num_unlabeled: patients used without labels; None for all that remain.
        noisy_as: what cases of supervision ``noisy`` (masks that a network proposed) count as,
            ``"full"``, ``"partial"`` or ``"noisy"``, all of them beside the numbers above; None
            leaves them out. The ``num_noisy`` count as the same, with None as ``"noisy"``.

    Returns:
        One dictionary per case, in the order of ``training``, with ``image``, ``label`` (absolute
        paths), ``supervision`` (``"full"``, ``"partial"``, ``"noisy"`` or ``"none"``, then without
        ``label``), ``case_id``, ``patient_id`` and ``erode``: True exactly where ``label`` is a
        full mask that a transform must still erode. ``distort`` is there, and True, where it is one
        that a transform must still make wrong; ``annotated_classes`` where the entry has it;
        ``complete``, and True, where the label of a partial case is known to bear a seed of a
        class in every slice that holds it: the entry says so, or the case is to be eroded, which
        leaves a seed of every class of every slice.

    Raises:
        ValueError: a number is negative, no labeled case is left, or a number exceeds what is
            there; an unknown ``weak_label`` or ``noisy_as``; a case without the ``scribble`` that
            ``"drawn"`` needs.
    """
    if weak_label not in get_args(WeakLabel):
        raise ValueError(f"weak_label is '{weak_label}'; use one of {list(get_args(WeakLabel))}")
    if noisy_as not in (None, *get_args(NoisyAs)):
        raise ValueError(f"noisy_as is '{noisy_as}'; use null or one of {list(get_args(NoisyAs))}")
    for name, number in (
        ("num_full", num_full),
        ("num_partial", num_partial),
        ("num_noisy", num_noisy),
        ("num_unlabeled", num_unlabeled),
    ):
        if number is not None and number < 0:
            raise ValueError(f"{name} is {number}; it counts patients and cannot be negative")
    resolved = datalist.resolve(dataset_dir)
    cases = [(entry, supervision_of(entry, resolved.unlabeled)) for entry in resolved.training]
    noisy = [entry for entry, kind in cases if kind == "noisy"]
    if num_full == num_partial == num_noisy == 0 and not (noisy and noisy_as):
        raise ValueError(
            "num_full, num_partial and num_noisy are all 0: no training case has a label"
        )
    cases = [(entry, kind) for entry, kind in cases if kind != "noisy"]
    roles = _roles(cases, num_full, num_partial, num_noisy, num_unlabeled)
    if not {"full", "partial", "noisy"} & set(roles.values()) and not (noisy and noisy_as):
        raise ValueError("the training split has no case with a full or partial label")

    selected: list[dict[str, Any]] = []
    without: list[str] = []
    for entry, kind in cases:
        role = roles.get(entry.patient_id)
        if role == "none":
            selected.append(_item(entry, None, "none"))
        elif role is None or kind == "none":
            continue
        elif role == "full":
            selected.append(_item(entry, entry.label, "full"))
        elif role == "noisy":
            selected.append(_item(entry, entry.label, noisy_as or "noisy") | {"distort": True})
        elif kind == "partial":
            drawn = weak_label == "drawn" or entry.label is None
            label = entry.scribble if drawn and entry.scribble else entry.label
            selected.append(_item(entry, label, "partial"))
        elif weak_label == "erosion":
            selected.append(_item(entry, entry.label, "partial", erode=True))
        elif entry.scribble is not None:
            selected.append(_item(entry, entry.scribble, "partial"))
        else:
            without.append(entry.case_id)
    if without:
        raise ValueError(
            f"weak_label is 'drawn', but {len(without)} of the partially labeled cases have no "
            f"'scribble' in the datalist: {', '.join(without)}"
        )
    if noisy_as:
        selected += [_item(entry, entry.label, noisy_as) for entry in noisy]
    return selected


def _roles(
    cases: list[tuple[Entry, Supervision]],
    num_full: int | None,
    num_partial: int | None,
    num_noisy: int | None,
    num_unlabeled: int | None,
) -> dict[str, Supervision]:
    """Patient → what its cases are used as; patients that are not used are absent."""
    patients: dict[str, set[Supervision]] = {}
    for entry, kind in cases:
        patients.setdefault(entry.patient_id, set()).add(kind)
    labeled = {p: kinds - {"none"} for p, kinds in patients.items() if kinds != {"none"}}
    complete = [patient for patient, kinds in labeled.items() if kinds == {"full"}]
    roles: dict[str, Supervision] = {}

    if num_full is not None and num_full > len(complete):
        raise ValueError(
            f"num_full is {num_full}, but the training split has {len(complete)} fully labeled "
            f"patients ({len(labeled)} labeled in all)"
        )
    roles |= dict.fromkeys(complete if num_full is None else complete[:num_full], "full")

    def take(
        name: str, number: int | None, pool: Collection[str], what: str, after: str
    ) -> list[str]:
        rest = [patient for patient in pool if patient not in roles]
        if number is not None and number > len(rest):
            raise ValueError(
                f"{name} is {number}, but only {len(rest)} of the {len(pool)} {what} remain "
                f"after {after}"
            )
        return rest if number is None else rest[:number]

    after = f"{len(roles)} are kept fully labeled"
    taken = take("num_partial", num_partial, labeled, "labeled training patients", after)
    roles |= dict.fromkeys(taken, "partial")
    what = "fully labeled training patients"
    taken = take("num_noisy", num_noisy, complete, what, _counts(roles))
    roles |= dict.fromkeys(taken, "noisy")
    taken = take("num_unlabeled", num_unlabeled, patients, "training patients", _counts(roles))
    return roles | dict.fromkeys(taken, "none")


def _counts(roles: dict[str, Supervision]) -> str:
    """``3 full and 15 partial ones``; full and partial are named in any case."""
    given = list(roles.values())
    numbers = [f"{given.count(kind)} {kind}" for kind in ("full", "partial")]
    if "noisy" in given:
        numbers.append(f"{given.count('noisy')} noisy")
    return f"{', '.join(numbers[:-1])} and {numbers[-1]} ones"


def split_cases(
    datalist: Datalist,
    dataset_dir: str | os.PathLike[str] | None = None,
    split: Split = "validation",
) -> list[dict[str, Any]]:
    """The cases of one split as they are, for validation and test.

    Args:
        datalist: the datalist.
        dataset_dir: folder that relative paths start from; None for the datalist's own.
        split: ``"training"``, ``"validation"`` or ``"test"``.

    Returns:
        Dictionaries as :func:`select_cases` returns them (``erode`` is False); ``label`` is absent
        where there is none and for supervision ``none``.

    Raises:
        DatalistError: there is no such split; names those that there are.
    """
    if split not in SPLITS:
        there = ", ".join(f"{name} ({len(getattr(datalist, name))} cases)" for name in SPLITS)
        raise DatalistError(f"there is no split '{split}', only {there}: give one with --split")
    resolved = datalist.resolve(dataset_dir)
    items = []
    for entry in getattr(resolved, split):
        kind = supervision_of(entry, resolved.unlabeled)
        label = None if kind == "none" else entry.label or entry.scribble
        items.append(_item(entry, label, kind))
    return items


def _item(
    entry: Entry, label: str | None, supervision: Supervision, *, erode: bool = False
) -> dict[str, Any]:
    """The dictionary that the transforms receive for one case."""
    item: dict[str, Any] = {"image": entry.image_files if entry.channels else entry.image}
    if label is not None:
        item["label"] = label
    item |= {
        "supervision": supervision,
        "case_id": entry.case_id,
        "patient_id": entry.patient_id,
        "erode": erode,
    }
    if entry.annotated_classes is not None:
        item["annotated_classes"] = list(entry.annotated_classes)
    if erode or (entry.complete and supervision == "partial"):
        item["complete"] = True
    return item
