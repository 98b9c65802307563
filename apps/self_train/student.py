"""Who teaches and who learns in self-training, and what decides about the rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixseg.apps.bundle.find import bundle_name, find_bundle, refuse_changed
from mixseg.apps.self_train.cases import Selection, read_classes
from mixseg.apps.self_train.proposals import Trained
from mixseg.apps.self_train.rounds import Student, round_settings
from mixseg.configuration.loading import load
from mixseg.configuration.settings import settings_of
from mixseg.data.datalist import data_hash
from mixseg.files.provenance import sha256_of

#: Student for a teacher whose name begins so: the bundle, with its row of one branch.
_STUDENTS = {"acdc_lv_": "acdc_lv_confkd", "la_": "la_confkd"}
_ROW = "rows/single.yaml"

#: Settings that select the cases: the rounds train on all that the datalist of proposals names.
SELECTING = ("datalist", "num_full", "num_partial", "num_unlabeled")
#: Settings of the teacher that its student has, too, unless it is told otherwise.
_OF_CLASSES = ("source_classes", "target_classes", "class_names", "in_channels", "unlabeled_value")


def find_student(teacher: Path, student: str | None) -> tuple[Path, tuple[Path, ...]]:
    """The student's bundle and the files that are passed after its train.yaml.

    The bundle that was named, or the row of one branch of the same data's.
    """
    row = student is None
    if student is None:
        name = bundle_name(teacher)
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
            f"'{folder / 'configs' / 'train.yaml'}' has no setting 'noisy_as', by which it would "
            "take proposals: name another bundle with --student"
        )
    return folder, (folder / "configs" / _ROW,) if row else ()


def make_student(
    folder: Path,
    overlays: tuple[Path, ...],
    settings: Mapping[str, Any],
    teacher: Trained,
    selection: Selection,
    device: str | None,
) -> Student:
    """The student with its settings for a round.

    Args:
        folder: its bundle.
        overlays: configurations after its own.
        settings: of its train.yaml, with other values.
        teacher: whose classes it has.
        selection: the teacher's cases.
        device: where it is trained; None for CUDA where it is there.

    Raises:
        ValueError: ``seed`` or ``noisy_as`` cannot be what is given.
    """
    config = settings_of([folder / "configs" / "train.yaml", *overlays])
    taught = settings_of(teacher.files("train.yaml"))
    training = {n: taught[n] for n in _OF_CLASSES if n in taught and n in config}
    training = {n: v for n, v in training.items() if v != config[n]}
    training |= {n: v for n, v in settings.items() if n not in SELECTING}
    # All full masks; MONAI's command line takes no None.
    fixed = {"num_full": len({entry.patient_id for entry in selection.full})}
    fixed |= round_settings(settings)
    # Cross-entropy on full masks alone, in batches as large as the bundle's.
    sizes = [settings.get(name, config.get(name)) for name in ("batch_full", "batch_partial")]
    one_stream = "batch_partial" in fixed and all(isinstance(size, int) for size in sizes)
    if one_stream and "batch_full" not in settings:
        training["batch_full"] = sum(sizes)
    training |= {name: value for name, value in fixed.items() if name in config}
    if device is not None:
        training["device"] = device
    seed = training.pop("seed", config["seed"])
    if not isinstance(seed, int):
        raise ValueError(f"seed is {seed!r}; give a whole number with --seed")
    return Student(folder, overlays, training, seed)


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
        "teacher": [bundle_name(teacher.folder), digests(teacher.files("inference.yaml"))],
        "teacher's weights": sha256_of(teacher.weights),
        "teacher's settings": dict(teacher.settings),
        "student": [student.folder.resolve().name, digests(student.files("train.yaml"))],
        "student's settings": dict(student.training),
        "seed": student.seed,
        "cases": {
            "full": [entry.case_id for entry in selection.full],
            "proposed": [entry.case_id for entry in selection.proposed],
        },
        "data": data_hash(selection.datalist),
        "keep_scribbles": keep_scribbles,
    }
