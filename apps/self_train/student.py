"""Who teaches and who learns in self-training, and what decides about the rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixseg.apps.bundle.find import bundle_name, find_bundle, refuse_changed
from mixseg.apps.self_train.cases import Selection, read_classes
from mixseg.apps.self_train.proposals import Teacher
from mixseg.configuration.loading import configurations, load
from mixseg.configuration.settings import read_settings, settings_in, settings_of
from mixseg.data.datalist import data_hash
from mixseg.files.provenance import sha256_of

#: Student for a teacher whose name begins so: the bundle, with its row of one branch.
_STUDENTS = {"acdc_lv_": "acdc_lv_confkd", "la_": "la_confkd"}
_ROW = Path("rows/single.yaml")

_COUNTS_AS = ("full", "partial")
#: Settings that select the cases: the rounds train on all that the datalist of proposals names.
SELECTING = ("datalist", "num_full", "num_partial", "num_unlabeled")
#: Settings of the teacher that its student has, too, unless it is told otherwise.
_OF_CLASSES = ("source_classes", "target_classes", "class_names", "in_channels", "unlabeled_value")


#: Settings of the student that have another name on the command line, or that the rounds decide.
_OWN_OPTIONS = {
    "bundle_root": "--student",
    "dataset_dir": "--data",
    "output_dir": "-o",
    "ckpt_dir": "-o",
    "device": "--device",
    "progress": "--quiet",
    "resume": "each round",
    **dict.fromkeys(SELECTING, "the teacher"),
}


@dataclass(frozen=True)
class Student:
    """The bundle that is trained anew in every round.

    Attributes:
        folder: the bundle.
        overlays: configurations to pass after train.yaml.
        training: settings of its train.yaml.
        seed: that the rounds' numbers are added to.
    """

    folder: Path
    overlays: tuple[Path, ...]
    training: Mapping[str, Any]
    seed: int

    @property
    def files(self) -> list[Path]:
        """Its train.yaml, and the overlays after it."""
        return [self.folder / "configs" / "train.yaml", *self.overlays]


def find_student(student: str | None, teacher: Teacher) -> tuple[Path, list[Path]]:
    """The folder of the bundle that learns, and the files that come with the choice.

    Args:
        student: its folder, zip or name; None for the row of one branch of the data's bundle.
        teacher: whose proposals it takes.

    Raises:
        ValueError: there is no such bundle, or it takes no proposals.
    """
    rows = [_ROW] if student is None else []
    if student is None:
        name = bundle_name(teacher.folder)
        found = [s for prefix, s in _STUDENTS.items() if name.startswith(prefix)]
        if not found:
            raise ValueError(
                f"no bundle is known that takes the proposals of '{name}': name one with --student"
            )
        student = found[0]
    folder = find_bundle(student)
    refuse_changed(folder)
    train = folder / "configs" / "train.yaml"
    if "noisy_as" not in load(train):
        raise ValueError(
            f"'{train}' has no setting 'noisy_as', which it needs to train on proposals: name "
            "another bundle with --student"
        )
    return folder, rows


def make_student(
    folder: Path,
    config: Sequence[Path],
    arguments: Sequence[str],
    teacher: Teacher,
    selection: Selection,
) -> Student:
    """The student with its settings for a round.

    Args:
        folder: its bundle.
        config: files of settings after its own, by their paths or their names in ``configs/``.
        arguments: settings of its train.yaml as typed, ``--name value``.
        teacher: whose classes it has, unless the settings name others.
        selection: the teacher's cases.

    Raises:
        ValueError: there is no such file or setting, or the student reads other classes than the
            teacher proposes.
    """
    overlays = tuple(configurations(folder, config))
    known = settings_of([folder / "configs" / "train.yaml", *overlays])
    owner = f"the student, {folder.name}"
    given = read_settings(arguments, settings_in(known), owner, _OWN_OPTIONS)
    training = _training(known, given, load(teacher.config("train.yaml")), selection)
    seed = training.pop("seed", known["seed"])
    if not isinstance(seed, int):
        raise ValueError(f"seed is {seed!r}; give a whole number with --seed")
    student = Student(folder, overlays, training, seed)
    classes = read_classes(student.files, training)
    if classes != selection.classes:
        raise ValueError(
            f"'{folder}' reads the classes {classes.target} of {classes.source}, the teacher "
            f"proposes {selection.classes.target} of {selection.classes.source}: give both the "
            "same --source_classes, --target_classes and --class_names"
        )
    return student


def _training(
    known: Mapping[str, Any],
    given: Mapping[str, Any],
    taught: Mapping[str, Any],
    selection: Selection,
) -> dict[str, Any]:
    """The student's settings that differ from its configuration.

    Args:
        known: its configuration.
        given: its settings with other values.
        taught: the teacher's configuration.
        selection: the teacher's cases.

    Raises:
        ValueError: ``noisy_as`` cannot be what is given.
    """
    # All full masks; MONAI's command line takes no None.
    fixed = {"num_full": len({entry.patient_id for entry in selection.full})}
    fixed |= round_settings(given)
    training = {n: taught[n] for n in _OF_CLASSES if n in taught and n in known}
    training = {n: v for n, v in training.items() if v != known[n]} | dict(given)
    if "batch_partial" in fixed:
        # Cross-entropy on full masks alone, in batches as large as the bundle's.
        sizes = [given.get(name, known.get(name)) for name in ("batch_full", "batch_partial")]
        if all(isinstance(size, int) for size in sizes) and "batch_full" not in given:
            training["batch_full"] = sum(sizes)
    return training | {name: value for name, value in fixed.items() if name in known}


def round_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a round's training: its cases have full masks or proposals, all of them.

    Args:
        given: the student's settings, of which ``noisy_as`` decides: ``"full"``, the default, puts
            all cases in one stream, ``"partial"`` leaves the proposals to that of partial labels.

    Raises:
        ValueError: ``noisy_as`` is something else.
    """
    noisy_as = given.get("noisy_as", "full")
    if noisy_as not in _COUNTS_AS:
        raise ValueError(f"--noisy_as is {noisy_as!r}: give {' or '.join(_COUNTS_AS)}")
    fixed = {"noisy_as": noisy_as, "num_partial": 0, "num_unlabeled": 0, "batch_unlabeled": 0}
    return fixed | ({"batch_partial": 0} if noisy_as == "full" else {})


def decisive_settings(
    teacher: Teacher, student: Student, selection: Selection, keep_scribbles: bool
) -> dict[str, Any]:
    """Everything that decides about the rounds' weights."""

    def digests(paths: Sequence[Path]) -> list[list[str]]:
        return [[path.name, sha256_of(path)] for path in paths]

    return {
        "teacher": [bundle_name(teacher.folder), digests([teacher.config("inference.yaml")])],
        "teacher's weights": sha256_of(teacher.weights),
        "teacher's settings": dict(teacher.settings),
        "student": [student.folder.resolve().name, digests(student.files)],
        "student's settings": dict(student.training),
        "seed": student.seed,
        "cases": {
            "full": [entry.case_id for entry in selection.full],
            "proposed": [entry.case_id for entry in selection.proposed],
        },
        "data": data_hash(selection.datalist),
        "keep_scribbles": keep_scribbles,
    }
