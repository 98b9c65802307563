"""Iterative self-training: proposals, a fresh network, its proposals, and so on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mixseg.apps.bundle.run import mixseg_command
from mixseg.apps.bundle.workflow import evaluate_run, train_bundle
from mixseg.apps.predict.pipeline import choose_device
from mixseg.apps.self_train.cases import Selection, read_selection
from mixseg.apps.self_train.proposals import Proposals, Teacher, find_teacher, propose_masks
from mixseg.apps.self_train.student import (
    Student,
    decisive_settings,
    find_student,
    make_student,
)
from mixseg.apps.self_train.table import write_rounds
from mixseg.configuration.loading import load
from mixseg.files.atomic import ensure_writable, strict_json, write_bytes_atomic
from mixseg.files.lock import claim
from mixseg.files.provenance import environment, sha256_of

__all__ = ["SelfTraining", "round_folder", "self_train"]

SETTINGS = "settings.json"
_TRAINED = "trained.json"


def self_train(
    teacher: str,
    student: str | None,
    *,
    data: Path,
    output: Path,
    rounds: int,
    split: str,
    branch: str | None,
    weights: Path | None,
    config: Sequence[Path],
    arguments: Sequence[str],
    keep_scribbles: bool,
    device: str | None,
    progress: bool,
    show: Callable[[str, str], None],
) -> list[dict[str, Any]]:
    """Train round after round; what an earlier call with the same settings did is kept.

    Args:
        teacher: folder of a run, or of a bundle with weights, its zip, or its name.
        student: bundle that is trained in each round; None for the row of one branch of the same
            data's.
        data: the data that the teacher was trained on.
        output: folder for the rounds, with their table in ``rounds.md``, ``.csv`` and ``.json``.
        rounds: how many.
        split: ``test`` scores the last round on it, too; else ``validation``.
        branch: the teacher's; None for the one that it predicts with.
        weights: the teacher's; None for its own.
        config: the student's files of settings, after its train.yaml.
        arguments: the student's settings as typed, ``--name value``.
        keep_scribbles: let stored partial labels replace the predictions.
        device: where networks are trained and predict; None for CUDA if available.
        progress: show progress bars.
        show: is given what a user may want to see, and its kind.

    Returns:
        The rounds, as of :func:`mixseg.apps.self_train.table.round_lines`.

    Raises:
        ValueError: teacher, student, data, settings or output cannot be used together.
        ChildProcessError: a training or an evaluation failed, or a case could not be proposed.
        OutputError: the folder cannot be written any more; what is finished is kept.
    """
    if rounds < 1:
        raise ValueError(f"--rounds is {rounds}: train one network at least")
    if split not in ("validation", "test"):
        raise ValueError(f"--split is '{split}': give validation or test")
    choose_device(device)  # a missing one is refused before anything is written
    source = find_teacher(teacher, weights, branch)
    folder, rows = find_student(student, source)
    selection = read_selection(source.config("train.yaml"), data)
    learner = make_student(folder, [*rows, *config], arguments, source, selection)
    ensure_writable([output], "-o")
    with claim(output, "this self-training"):
        settings = decisive_settings(source, learner, selection, keep_scribbles)
        work = SelfTraining(
            output,
            source,
            learner,
            selection,
            dataset_dir=data,
            device=device,
            keep_scribbles=keep_scribbles,
            progress=progress,
            show=show,
        )
        work.open(settings)
        lines: list[dict[str, Any]] = []
        for number in range(1, rounds + 1):
            lines.append(work.run(number))
            if split == "test" and number == rounds:
                lines[-1]["scores"]["test"] = work.score(number, "test")
            write_rounds(output, lines, {"settings": settings, **environment()})
    return lines


def round_folder(output: Path, number: int) -> Path:
    """Where a round keeps its files."""
    return output / f"round_{number:02d}"


class SelfTraining:
    """The rounds in one folder; what is done there stays done.

    What is done is told by files that are written whole: ``round_01/trained.json`` says that the
    round's network is trained, ``round_01/<split>/summary.json`` that it is scored. A training
    resumes from its own checkpoint.

    Args:
        output: the folder.
        teacher: proposes in the first round.
        student: is trained in every round.
        selection: the cases.
        dataset_dir: the data.
        device: where networks are trained and predict; None for CUDA if available.
        keep_scribbles: let stored partial labels replace the predictions.
        progress: show progress bars.
        show: is given what a user may want to see, and its kind: ``"heading"``, ``"command"``,
            ``"done"`` or an empty text.
    """

    def __init__(
        self,
        output: Path,
        teacher: Teacher,
        student: Student,
        selection: Selection,
        *,
        dataset_dir: Path,
        device: str | None,
        keep_scribbles: bool,
        progress: bool,
        show: Callable[[str, str], None],
    ) -> None:
        self.output = output
        self.show = show
        self.teacher = teacher
        self.student = student
        self.selection = selection
        self.dataset_dir = dataset_dir
        self.device = device
        self._device = {} if device is None else {"device": device}
        self.keep_scribbles = keep_scribbles
        self.progress = progress

    def open(self, settings: Mapping[str, Any]) -> None:
        """Begin in the folder, or resume what is there.

        Raises:
            ValueError: it holds a self-training of other settings; names what differs.
        """
        path = self.output / SETTINGS
        wanted = json.loads(strict_json(settings))
        if not path.is_file():
            write_bytes_atomic(path, strict_json(wanted).encode())
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            other = sorted(k for k in found.keys() | wanted if found.get(k) != wanted.get(k))
        except (ValueError, AttributeError) as error:
            raise ValueError(
                f"'{path}' is not a record of a self-training ({error}): choose another -o"
            ) from error
        if other:
            raise ValueError(
                f"'{self.output}' holds a self-training with another {', '.join(other)}: choose "
                "another -o, or give the same options as there"
            )

    def _folder(self, number: int) -> Path:
        return round_folder(self.output, number)

    def run(self, number: int) -> dict[str, Any]:
        """Do what is left of a round, and return its line of the table."""
        folder = self._folder(number)
        record = folder / _TRAINED
        if record.is_file():
            self.show(f"round {number}: trained already", "done")
        else:
            self.show(f"round {number}: proposals", "heading")
            proposals = self._propose(number)
            self.show(f"round {number}: training", "heading")
            self._train(number, proposals)
        content: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        return {**content, "scores": {"validation": self.score(number, "validation")}}

    def score(self, number: int, split: str) -> dict[str, Any]:
        """Class → summary of a round's network on a split, evaluated unless it was."""
        folder = self._folder(number)
        summary = folder / split / "summary.json"
        if not summary.is_file():
            self.show(f"round {number}: {split}", "heading")
            settings = {"progress": self.progress}
            typed: dict[str, object] = {"split": split, **self._device, **settings}
            self.show(mixseg_command("evaluate", folder, typed), "command")
            evaluate_run(folder, split=split, settings=settings, device=self.device)
        scores: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))["scores"]
        branch = load(folder / "configs" / "inference.yaml").get("branch")
        return dict(scores[branch] if branch in scores else next(iter(scores.values())))

    def _propose(self, number: int) -> Proposals:
        before = self._folder(number - 1)
        proposals = propose_masks(
            self.teacher if number == 1 else Teacher(before, before / "models" / "model.pt"),
            self.selection,
            self._folder(number) / "data",
            device=choose_device(self.device),
            keep_scribbles=self.keep_scribbles,
            progress=self.progress,
        )
        failed = list(proposals.report.failures.values())
        if failed:
            lines = "".join(f"\n  {f['case_id']}: {f['problem']}; {f['fix']}" for f in failed)
            raise ChildProcessError(
                f"round {number}: {len(failed)} cases could not be proposed:{lines}"
            )
        ml = [sum(case["ml"].values()) for case in proposals.cases if case["ml"]]
        mean = f", {sum(ml) / len(ml):.1f} ml on average" if ml else ""
        self.show(
            f"{len(proposals.cases)} proposals, {len(proposals.empty)} of them empty{mean}", ""
        )
        return proposals

    def _train(self, number: int, proposals: Proposals) -> None:
        folder = self._folder(number)
        settings = {
            **self.student.training,
            "datalist": (folder / "data" / "datalist.json").resolve(),
            "seed": self.student.seed + number,
            "progress": self.progress,
        }
        typed: dict[str, object] = {
            "data": self.dataset_dir,
            "output": folder,
            "config": self.student.overlays,
            **self._device,
            **settings,
        }
        self.show(mixseg_command("train", self.student.folder, typed), "command")
        started = time.monotonic()
        train_bundle(
            self.student.folder,
            data=self.dataset_dir,
            output=folder,
            config=self.student.overlays,
            settings=settings,
            device=self.device,
            resume=True,
        )
        content = {
            "round": number,
            "seed": settings["seed"],
            "proposals": len(proposals.cases),
            "empty": len(proposals.empty),
            "weights_sha256": sha256_of(folder / "models" / "model.pt"),
            "seconds": round(time.monotonic() - started, 1),
        }
        write_bytes_atomic(folder / _TRAINED, strict_json(content).encode())
        for path in folder.glob("checkpoint*.pt"):
            path.unlink()  # of use only while the round is trained, and large
