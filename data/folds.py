"""Cross-validation over the full masks of a datalist."""

from __future__ import annotations

import os

from mixseg.data.datalist import Datalist, Supervision, supervision_of

#: Patients with full masks that must be left to train on.
MIN_TRAINING_MASKS = 2


def full_patients(
    datalist: Datalist, dataset_dir: str | os.PathLike[str] | None = None
) -> list[str]:
    """The training patients whose labeled cases all have full masks, in the datalist's order."""
    resolved = datalist.resolve(dataset_dir)
    kinds: dict[str, set[Supervision]] = {}
    for entry in resolved.training:
        kind = supervision_of(entry, resolved.unlabeled)
        kinds.setdefault(entry.patient_id, set()).add(kind)
    return [patient for patient, found in kinds.items() if found - {"none"} == {"full"}]


def fold_datalist(
    datalist: Datalist,
    dataset_dir: str | os.PathLike[str] | None,
    folds: int,
    fold: int,
    num_full: int | None = None,
) -> Datalist:
    """One fold of a cross-validation: a part of the full masks is left to test, the rest trains.

    Every ``folds``-th of the patients with full masks belongs to a part, so that each of them is
    tested in one fold. All other training cases, the partially labeled and the unlabeled ones
    among them, train in every fold. There is no validation split: the few masks that a fold leaves
    would choose the weights by chance, and by the very cases that are tested.

    Args:
        datalist: the datalist, whose validation and test splits are left out.
        dataset_dir: folder that relative paths start from; None for the datalist's own.
        folds: number of folds.
        fold: which of them, from 0.
        num_full: patients with full masks that take part, the first ones; None for all. Those after
            them may train as partially labeled patients.

    Returns:
        A datalist with absolute paths.

    Raises:
        ValueError: too few patients with full masks for so many folds, or no such fold.
    """
    resolved = datalist.resolve(dataset_dir)
    patients = full_patients(resolved)
    patients = patients if num_full is None else patients[:num_full]
    largest_part = -(-len(patients) // folds) if folds > 0 else 0
    if folds < 2 or folds > len(patients) or len(patients) - largest_part < MIN_TRAINING_MASKS:
        most = len(patients) if len(patients) > MIN_TRAINING_MASKS else 0
        raise ValueError(
            f"{folds} folds of {len(patients)} patients with full masks: each fold tests at least "
            f"one of them and trains on {MIN_TRAINING_MASKS} or more; "
            + (f"give {most} folds" if most else "annotate at least three patients in full")
        )
    if not 0 <= fold < folds:
        raise ValueError(f"fold is {fold}, and there are the folds 0 to {folds - 1}")
    tested = set(patients[fold::folds])
    copy = resolved.model_copy(deep=True)
    copy.training = [entry for entry in resolved.training if entry.patient_id not in tested]
    copy.validation = []
    copy.test = [
        entry
        for entry in resolved.training
        if entry.patient_id in tested and supervision_of(entry, resolved.unlabeled) == "full"
    ]
    return copy
