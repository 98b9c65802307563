"""All that is decided before the first round: who teaches, on which cases, and who learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser

from mixseg.apps.bundle.find import bundle_name, find_bundle, find_trained, refuse_changed
from mixseg.apps.bundle.weights import bundle_weights
from mixseg.apps.bundle.workflow import data_settings
from mixseg.configuration.loading import cause_of, configurations, load, read_parser
from mixseg.configuration.settings import read_settings, settings_in, settings_of
from mixseg.data.datalist import Datalist, Entry, data_hash
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
class Teacher:
    """Model that proposes: a run, or a bundle with weights.

    Attributes:
        settings: entries of inference.yaml that are replaced.
    """

    folder: Path
    weights: Path
    settings: Mapping[str, Any] = field(default_factory=dict)

    def config(self, name: str) -> Path:
        """A configuration file of the folder."""
        return self.folder / "configs" / name


@dataclass(frozen=True)
class Classes:
    """How a bundle reads label files.

    Attributes:
        target: values in the files of the classes that the bundle predicts, in their order; an
            entry may be a list of values that are one class for the bundle.
        source: number of classes in the files, background included.
        unlabeled: value of unlabeled voxels in the files.
    """

    target: tuple[int | tuple[int, ...], ...]
    source: int
    unlabeled: int

    @property
    def values(self) -> np.ndarray:
        """(C,) uint8: the value in label files of each predicted class, background first."""
        return np.array([0, *(t if isinstance(t, int) else t[0] for t in self.target)], np.uint8)


@dataclass(frozen=True)
class Selection:
    """Training cases of a run, by what the run knew of them.

    Attributes:
        datalist: all splits, with absolute paths.
        full: training cases whose full masks the run has seen.
        proposed: the other ones it has seen, partially labeled or without a label.
        scribbles: case id of a proposed case → its file of partial labels, where it has one. A
            full mask that the run erodes is none.
        classes: of the bundle.
    """

    datalist: Datalist
    full: tuple[Entry, ...]
    proposed: tuple[Entry, ...]
    scribbles: dict[str, str]
    classes: Classes


@dataclass(frozen=True)
class Student:
    """The bundle that is trained anew in every round.

    Attributes:
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


@dataclass(frozen=True)
class Plan:
    """All that decides about the rounds' weights."""

    teacher: Teacher
    student: Student
    selection: Selection
    keep_scribbles: bool

    @property
    def decisive(self) -> dict[str, Any]:
        """The plan as ``settings.json`` keeps it: files and weights by their hashes."""

        def digests(paths: Sequence[Path]) -> list[list[str]]:
            return [[path.name, sha256_of(path)] for path in paths]

        teacher, student, selection = self.teacher, self.student, self.selection
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
            "keep_scribbles": self.keep_scribbles,
        }


def plan_rounds(
    teacher: str,
    student: str | None,
    *,
    data: Path,
    branch: str | None,
    weights: Path | None,
    config: Sequence[Path],
    arguments: Sequence[str],
    keep_scribbles: bool,
) -> Plan:
    """Find everything that a self-training needs; nothing is written.

    Arguments are as of ``mixseg self-train``.

    Raises:
        ValueError: there is no such bundle, file or setting, or teacher, student and data do not
            fit together.
    """
    source = find_teacher(teacher, weights, branch)
    rows = [_ROW] if student is None else []
    folder = _student_folder(student, source)
    selection = read_selection(source.config("train.yaml"), data)
    learner = _make_student(folder, [*rows, *config], arguments, source, selection)
    return Plan(source, learner, selection, keep_scribbles)


def find_teacher(run: str, weights: Path | None = None, branch: str | None = None) -> Teacher:
    """A run by its folder, or a bundle by its folder, zip or name, with its weights.

    Args:
        branch: that predicts; None for the one that the method predicts with.

    Raises:
        ValueError: there is no such run or bundle, it has no weights, or no choice of a branch.
    """
    folder = find_trained(run)
    weights = bundle_weights(folder, weights)
    inference = folder / "configs" / "inference.yaml"
    if branch is not None and "branch" not in load(inference):
        raise ValueError(f"'{inference}' has no setting 'branch': leave out --branch")
    settings = {} if branch is None else {"branch": branch}
    return Teacher(folder, weights, settings)


def _student_folder(student: str | None, teacher: Teacher) -> Path:
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
    return folder


def read_selection(train: Path, dataset_dir: Path) -> Selection:
    """What a run was trained on; no label is opened whose supervision the datalist declares.

    Args:
        dataset_dir: the data. Where its datalist lies elsewhere, the run names it.

    Raises:
        ValueError: there is no such folder, the datalist or the selection cannot be used, no case
            is left to propose, or the classes of data and bundle do not fit together.
    """
    classes = _classes([train], {})
    parser = _parser([train], data_settings(dataset_dir, [train], {}))
    try:
        items: list[dict[str, Any]] = parser.get_parsed_content("train#dataset#data")
        datalist: Datalist = parser.get_parsed_content("datalist_content")
    except Exception as error:  # whatever a component of a bundle raises
        raise ValueError(f"{train}: {cause_of(error)}") from error
    if classes.source != len(datalist.classes):
        raise ValueError(
            f"the datalist has {len(datalist.classes)} classes {datalist.classes}, the bundle "
            f"reads {classes.source}: use a bundle for these data"
        )
    if 0 <= classes.unlabeled < classes.source:
        raise ValueError(
            f"unlabeled_value is {classes.unlabeled}, a class that proposals need: store labels "
            f"whose unlabeled voxels have a value outside 0..{classes.source - 1}"
        )
    kinds = {item["case_id"]: item["supervision"] for item in items}
    resolved = datalist.resolve(dataset_dir)
    chosen = [entry for entry in resolved.training if entry.case_id in kinds]
    proposed = tuple(e for e in chosen if kinds[e.case_id] in ("partial", "none"))
    if not proposed:
        raise ValueError(
            f"{train} takes no training case as partially labeled or without a label, so "
            "there is nothing to propose: give a run that was trained on some"
        )
    return Selection(
        datalist=resolved,
        full=tuple(e for e in chosen if kinds[e.case_id] == "full"),
        proposed=proposed,
        scribbles={
            item["case_id"]: item["label"]
            for item in items
            if item["supervision"] == "partial" and not item["erode"]
        },
        classes=classes,
    )


def _make_student(
    folder: Path,
    config: Sequence[Path],
    arguments: Sequence[str],
    teacher: Teacher,
    selection: Selection,
) -> Student:
    """The student, whose classes are the teacher's unless its settings name others."""
    overlays = tuple(configurations(folder, config))
    known = settings_of([folder / "configs" / "train.yaml", *overlays])
    owner = f"the student, {folder.name}"
    given = read_settings(arguments, settings_in(known), owner, _OWN_OPTIONS)
    training = _training(known, given, load(teacher.config("train.yaml")), selection)
    seed = training.pop("seed", known["seed"])
    if not isinstance(seed, int):
        raise ValueError(f"seed is {seed!r}; give a whole number with --seed")
    student = Student(folder, overlays, training, seed)
    classes = _classes(student.files, training)
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
    """The student's settings that differ from its configuration ``known``."""
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


def _classes(files: Sequence[Path], settings: Mapping[str, Any]) -> Classes:
    """How ``train.yaml``, with the overlays after it and other settings, reads label files."""
    parser = _parser(files, settings)
    try:
        names = [str(name) for name in parser.get_parsed_content("class_names")]
        source, targets = names, list(range(1, len(names)))
        if "target_classes" in parser:
            source = parser.get_parsed_content("source_classes")
            targets = parser.get_parsed_content("target_classes")
        unlabeled = parser.get_parsed_content("unlabeled_value")
    except Exception as error:  # whatever a component of a bundle raises
        raise ValueError(f"{files[0]}: {cause_of(error)}") from error
    if len(targets) != len(names) - 1:
        raise ValueError(
            f"target_classes {targets} are {len(targets)} classes, class_names {names} beyond "
            f"the background {len(names) - 1}: give as many of both"
        )
    return Classes(
        tuple(t if isinstance(t, int) else tuple(t) for t in targets),
        len(source),
        len(source) if unlabeled is None else int(unlabeled),
    )


def _parser(files: Sequence[Path], settings: Mapping[str, Any]) -> ConfigParser:
    parser = read_parser(files, settings)
    parser["bundle_root"] = str(files[0].parent.parent)
    parser["device"] = "cpu"  # nothing is computed here
    return parser
