"""Who teaches and who learns in self-training, and what decides about the rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixseg.apps.bundle.find import find_bundle, refuse_changed
from mixseg.apps.self_train.cases import (
    BOTH_FILES,
    Selection,
    read_classes,
    read_selection,
    trained_branch,
)
from mixseg.apps.self_train.proposals import Trained, proposing
from mixseg.apps.self_train.rounds import Student, round_knobs
from mixseg.configuration.loading import load
from mixseg.configuration.settings import read_settings, settings_in
from mixseg.data.datalist import data_hash
from mixseg.files.provenance import sha256_of

#: Student for a teacher whose name begins so: the bundle, with its row of one branch.
_STUDENTS = {"acdc_lv_": "acdc_lv_confkd", "la_": "la_confkd"}
_ROW = "rows/single.yaml"


#: Knobs that select the cases: the rounds train on all that the datalist of proposals names.
_SELECTING = ("datalist", "num_full", "num_partial", "num_unlabeled")


def find_student(teacher: Path, student: str | None) -> tuple[Path, tuple[Path, ...]]:
    """The student's bundle and the files that are passed after its train.yaml.

    The bundle that was named, or the row of one branch of the same data's.
    """
    row = student is None
    if student is None:
        name = teacher.resolve().name
        found = [s for prefix, s in _STUDENTS.items() if name.startswith(prefix)]
        if not found:
            raise ValueError(
                f"no bundle is known that takes the proposals of '{name}': name one with --student"
            )
        student = found[0]
    folder = find_bundle(student)
    refuse_changed(folder)
    if "noisy_as" not in load(folder / "configs" / "train.yaml"):
        raise ValueError(
            f"'{folder / 'configs' / 'train.yaml'}' has no knob 'noisy_as', with which proposals "
            "are trained on: name another bundle with --student"
        )
    return folder, (folder / "configs" / _ROW,) if row else ()


def own_knobs(texts: Sequence[str], teacher: Trained, given: Mapping[str, str]) -> dict[str, Any]:
    """The knobs that ``--teacher-knob`` gives; ``given`` are those of other options."""
    words = [f"--{text}" for text in texts]
    if bare := [text for text in texts if "=" not in text]:
        raise ValueError(f"--teacher-knob {bare[0]}: write NAME=VALUE")
    configs = [load(teacher.folder / "configs" / n) for n in ("train.yaml", "inference.yaml")]
    return read_settings(words, settings_in(*configs), BOTH_FILES, given)


def make_teacher(
    source: Trained,
    own: Mapping[str, Any],
    shared: Mapping[str, Any],
    dataset_dir: Path,
    branch: str | None,
) -> tuple[Trained, Selection]:
    """The teacher with its knobs, and the cases that it was trained on, without proposals."""
    knobs = {name: value for name, value in shared.items() if name != "noisy_as"} | dict(own)
    selection = read_selection(source.files("train.yaml"), knobs, dataset_dir)
    # The method's weights on the command line are the student's.
    return proposing(source, knobs, branch, method=own), selection


def make_student(
    folder: Path,
    overlays: tuple[Path, ...],
    knobs: Mapping[str, Any],
    selection: Selection,
    device: str | None,
) -> Student:
    """The student with its knobs for a round."""
    files = [folder / "configs" / "train.yaml", *overlays]
    config: dict[str, Any] = {}
    for path in files:
        config |= load(path)
    training = {n: v for n, v in knobs.items() if n in config and n not in _SELECTING}
    # All full masks; MONAI's command line takes no None.
    fixed = {"num_full": len({entry.patient_id for entry in selection.full})}
    fixed |= round_knobs(knobs)
    # Cross-entropy on full masks alone, in batches as large as the bundle's.
    sizes = [knobs.get(name, config.get(name)) for name in ("batch_full", "batch_partial")]
    one_stream = "batch_partial" in fixed and all(isinstance(size, int) for size in sizes)
    if one_stream and "batch_full" not in knobs:
        training["batch_full"] = sum(sizes)
    training |= {name: value for name, value in fixed.items() if name in config}
    if device is not None:
        training["device"] = device
    inference = load(folder / "configs" / "inference.yaml")
    branch = trained_branch(files, training)
    inferred = {name: value for name, value in knobs.items() if name in inference}
    if "branch" in inference:
        inferred["branch"] = branch
    seed = training.pop("seed", config["seed"])
    if not isinstance(seed, int):
        raise ValueError(f"seed is {seed!r}; give a whole number with --seed")
    return Student(folder, overlays, training, inferred, branch, seed)


def refuse_other_classes(student: Student, selection: Selection) -> None:
    """Raise ValueError where the student reads other classes than the teacher proposes."""
    classes = read_classes(student.files("train.yaml"), student.training)
    if classes != selection.classes:
        raise ValueError(
            f"'{student.folder}' reads the classes {classes.target} of {classes.source}, the "
            f"teacher proposes {selection.classes.target} of {selection.classes.source}: give "
            "both the same --source_classes, --target_classes and --class_names"
        )


def decisive_settings(
    teacher: Trained, student: Student, selection: Selection, keep_scribbles: bool
) -> dict[str, Any]:
    """Everything that decides about the rounds' weights."""

    def digests(paths: Sequence[Path]) -> list[list[str]]:
        return [[path.name, sha256_of(path)] for path in paths]

    return {
        "teacher": [teacher.folder.resolve().name, digests(teacher.files("inference.yaml"))],
        "teacher's weights": sha256_of(teacher.weights),
        "teacher's knobs": dict(teacher.knobs),
        "student": [student.folder.resolve().name, digests(student.files("train.yaml"))],
        "student's knobs": [dict(student.training), dict(student.inference)],
        "seed": student.seed,
        "cases": {
            "full": [entry.case_id for entry in selection.full],
            "proposed": [entry.case_id for entry in selection.proposed],
        },
        "data": data_hash(selection.datalist),
        "keep_scribbles": keep_scribbles,
    }
