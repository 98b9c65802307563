"""``mixseg self-train``: rounds of proposals and fresh networks trained on them."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from filelock import FileLock, Timeout

from mixseg.apps.bundle.find import find_bundle, refuse_changed
from mixseg.apps.predict.pipeline import OutputError, choose_device
from mixseg.apps.self_train.cases import (
    BOTH_FILES,
    Selection,
    read_classes,
    read_selection,
    trained_branch,
)
from mixseg.apps.self_train.proposals import Trained, proposing, trained
from mixseg.apps.self_train.round_knobs import round_knobs
from mixseg.apps.self_train.rounds import SelfTraining, Student
from mixseg.apps.self_train.table import round_table, write_rounds
from mixseg.cli.console import clear_errors, console, fail
from mixseg.cli.propose import go_on
from mixseg.configuration.loading import configurations, load
from mixseg.configuration.settings import read_settings, settings_in
from mixseg.data import data_hash
from mixseg.files.atomic import ensure_writable
from mixseg.files.provenance import environment, sha256_of

#: Student for a teacher whose name begins so.
_STUDENTS = {"acdc_lv_": "acdc_lv_single", "la_": "la_single"}
#: Knobs that have another name here, or that the rounds decide.
_OWN_OPTIONS = {
    "bundle_root": "the arguments",
    "output_dir": "-o",
    "ckpt_dir": "-o",
    "checkpoint": "--checkpoint",
    "exported": "--checkpoint",
    "branch": "--branch",
    "device": "--device",
    "progress": "--quiet",
    "resume": "each round",
}
#: Knobs that select the cases: the rounds train on all that the datalist of proposals names.
_SELECTING = ("datalist", "num_full", "num_partial", "num_unlabeled")


def self_train(
    context: typer.Context,
    teacher: Annotated[
        str, typer.Argument(help="Trained bundle: a folder, a zip of 'mixseg pack', or a name.")
    ],
    dataset_dir: Annotated[
        Path,
        typer.Option(
            "--dataset_dir", "--dataset-dir", help="The data that the teacher was trained on."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the rounds.")],
    rounds: Annotated[int, typer.Option(help="Networks to train, one after another.")],
    student: Annotated[
        str | None,
        typer.Option(help="Bundle trained in each round; default: the single-branch one."),
    ] = None,
    split: Annotated[
        str,
        typer.Option(help="'test' scores the last round on the test split, too, at the end."),
    ] = "validation",
    branch: Annotated[
        str | None, typer.Option(help="The teacher's; default: the one it predicts with.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", "--weights", help="The teacher's; default: its bundle's own."),
    ] = None,
    teacher_knob: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE for the teacher, where it differs; can be repeated."),
    ] = None,
    teacher_config: Annotated[
        list[Path] | None, typer.Option(help="The teacher's file of knobs; can be repeated.")
    ] = None,
    config: Annotated[
        list[Path] | None, typer.Option(help="The student's file of knobs; can be repeated.")
    ] = None,
    keep_scribbles: Annotated[
        bool,
        typer.Option(
            "--keep-scribbles", help="Stored partial labels replace the predictions there."
        ),
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1 …; default: CUDA where it is there.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Train a fresh network on a teacher's proposals, the next one on its proposals, and so on.

    Each round has a folder with its proposals, weights, curves and validation scores; rounds.md
    compares them. Interrupt it at any time: the same command goes on. More rounds can be added.

    Examples:

      mixseg self-train acdc_lv_confkd --dataset_dir ACDC -o rounds --rounds 3 --num_full 3

      mixseg self-train la_confkd --weights kl/model.pt --dataset_dir LA -o rounds --rounds 3

      mixseg self-train acdc_lv_confkd --weights kl/model.pt --dataset_dir ACDC -o rounds --rounds 1
      --student acdc_lv_decoupled --noisy_as partial --inference_branch teacher --lambda_w 1

    Knobs of the student can be added. Those of data and network hold for the teacher as well.
    """
    with clear_errors():
        if rounds < 1:
            raise ValueError(f"--rounds is {rounds}: train one network at least")
        if split not in ("validation", "test"):
            raise ValueError(f"--split is '{split}': give validation or test")
        source = trained(teacher, checkpoint, teacher_config or (), "--teacher-config")
        folder = _student_folder(source.folder, student)
        overlays = tuple(configurations(folder, config or ()))
        chosen = choose_device(device)
        knobs = _read(context.args, source, folder, overlays)
        source, selection = _teacher(
            source, _own_knobs(teacher_knob or (), source), knobs, dataset_dir, branch
        )
        learner = _student(folder, overlays, knobs, selection, device)
        _refuse_other_classes(learner, selection)
        ensure_writable([output], "-o")
        work = SelfTraining(
            output,
            source,
            learner,
            selection,
            dataset_dir=dataset_dir,
            device=chosen,
            keep_scribbles=keep_scribbles,
            progress=not quiet,
        )
        lock = FileLock(output / ".lock", timeout=0)
        # As Ctrl-C: the training that runs is ended, too.
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with lock:
                settings = _settings(source, learner, selection, keep_scribbles)
                work.open(settings)
                _run(work, rounds, split, settings)
        except Timeout as error:
            raise ValueError(
                f"another self-training works in '{output}': wait for it, or choose another -o"
            ) from error
        except KeyboardInterrupt:
            console.print(f"\n[yellow]interrupted; to go on:[/] {go_on()}", soft_wrap=True)
            raise typer.Exit(130) from None
        except OutputError as error:
            raise fail(
                f"'{output}' cannot be written ({error}): make room; what is finished is kept, "
                "the same command goes on"
            ) from error
        finally:
            signal.signal(signal.SIGTERM, previous)


def _run(work: SelfTraining, rounds: int, split: str, settings: Mapping[str, Any]) -> None:
    """The rounds, and their table after each."""
    lines: list[dict[str, Any]] = []
    for number in range(1, rounds + 1):
        lines.append(work.run(number))
        if split == "test" and number == rounds:
            lines[-1]["scores"]["test"] = work.score(number, "test")
        write_rounds(work.output, lines, {"settings": settings, **environment()})
    console.print(round_table(lines))
    weights = work.folder(rounds) / "models" / "model.pt"
    console.print(f"last weights: {weights}", soft_wrap=True, highlight=False)
    console.print(f"table: {work.output / 'rounds.md'}", soft_wrap=True, highlight=False)


def _student_folder(teacher: Path, student: str | None) -> Path:
    """The student's bundle: the one that was named, or the single-branch one of the same data."""
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
    return folder


def _read(
    arguments: Sequence[str], teacher: Trained, folder: Path, overlays: Sequence[Path]
) -> dict[str, Any]:
    student = [load(folder / "configs" / name) for name in ("train.yaml", "inference.yaml")]
    known = settings_in(
        load(teacher.folder / "configs" / "inference.yaml"), *student, *map(load, overlays)
    )
    return read_settings(arguments, known, BOTH_FILES, _OWN_OPTIONS)


def _own_knobs(texts: Sequence[str], teacher: Trained) -> dict[str, Any]:
    """The knobs that ``--teacher-knob`` gives."""
    words = [f"--{text}" for text in texts]
    if bare := [text for text in texts if "=" not in text]:
        raise ValueError(f"--teacher-knob {bare[0]}: write NAME=VALUE")
    configs = [load(teacher.folder / "configs" / n) for n in ("train.yaml", "inference.yaml")]
    return read_settings(words, settings_in(*configs), BOTH_FILES, _OWN_OPTIONS)


def _teacher(
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


def _student(
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


def _refuse_other_classes(student: Student, selection: Selection) -> None:
    classes = read_classes(student.files("train.yaml"), student.training)
    if classes != selection.classes:
        raise ValueError(
            f"'{student.folder}' reads the classes {classes.target} of {classes.source}, the "
            f"teacher proposes {selection.classes.target} of {selection.classes.source}: give "
            "both the same --source_classes, --target_classes and --class_names"
        )


def _settings(
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
