"""Iterative self-training: proposals, a fresh network, its proposals, and so on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixseg.apps.bundle.run import mixseg_command
from mixseg.apps.bundle.workflow import evaluate_run, train_bundle
from mixseg.apps.predict.pipeline import choose_device
from mixseg.apps.self_train.plan import Plan, Teacher
from mixseg.apps.self_train.proposals import Proposals, propose_masks
from mixseg.apps.self_train.table import write_rounds
from mixseg.configuration.loading import load
from mixseg.files.atomic import ensure_writable, strict_json, write_text_atomic
from mixseg.files.documents import read_object
from mixseg.files.lock import claim
from mixseg.files.provenance import environment, sha256_of

_PLANNED = "settings.json"
_TRAINED = "trained.json"


def train_rounds(
    plan: Plan,
    rounds: int,
    *,
    data: Path,
    output: Path,
    split: str,
    device: str | None,
    progress: bool,
    show: Callable[[str, str], None],
) -> list[dict[str, Any]]:
    """Train round after round; what an earlier call with the same plan did is kept.

    What is done is told by files that are written whole: ``round_01/trained.json`` says that the
    round's network is trained, ``round_01/<split>/summary.json`` that it is scored. A training
    resumes from its own checkpoint.

    Args:
        output: folder for the rounds, with their table in ``rounds.md``, ``.csv`` and ``.json``.
        split: ``test`` scores the last round on it, too; else ``validation``.
        show: is given what a user may want to see, and its kind: ``"heading"``, ``"command"``,
            ``"done"`` or an empty text.

    Returns:
        The rounds, as of :func:`mixseg.apps.self_train.table.round_lines`.

    Raises:
        ValueError: an argument is out of range, or the output folder holds a self-training by
            another plan.
        ChildProcessError: a training or an evaluation failed, or a case could not be proposed.
        OutputError: the folder cannot be written any more; what is finished is kept.
    """
    if rounds < 1:
        raise ValueError(f"--rounds is {rounds}: train one network at least")
    if split not in ("validation", "test"):
        raise ValueError(f"--split is '{split}': give validation or test")
    choose_device(device)  # a missing one is refused before anything is written
    if plan.selection.datalist.base_dir == output.resolve():
        raise ValueError(f"'{output}' is the folder of the data set: choose another -o")
    ensure_writable([output], "-o")
    with claim(output, "this self-training"):
        settings = plan.decisive
        _open(output, settings)
        work = _Rounds(plan, data, output, device, progress, show)
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


def _open(output: Path, settings: dict[str, Any]) -> None:
    """Begin in the folder, or resume what is there; refuse what a plan of other settings made."""
    path = output / _PLANNED
    wanted = json.loads(strict_json(settings))
    if not path.is_file():
        write_text_atomic(path, strict_json(wanted))
        return
    found = read_object(path)
    if other := sorted(k for k in found.keys() | wanted if found.get(k) != wanted.get(k)):
        raise ValueError(
            f"'{output}' holds a self-training with another {', '.join(other)}: choose "
            "another -o, or give the same options as there"
        )


@dataclass(frozen=True)
class _Rounds:
    """The rounds in one folder, with the arguments of :func:`train_rounds`."""

    plan: Plan
    data: Path
    output: Path
    device: str | None
    progress: bool
    show: Callable[[str, str], None]

    def run(self, number: int) -> dict[str, Any]:
        """Do what is left of a round, and return its line of the table."""
        folder = round_folder(self.output, number)
        record = folder / _TRAINED
        if record.is_file():
            self.show(f"round {number}: trained already", "done")
        else:
            self.show(f"round {number}: proposals", "heading")
            proposals = self._propose(number)
            self.show(f"round {number}: training", "heading")
            self._train(number, proposals)
        return {**read_object(record), "scores": {"validation": self.score(number, "validation")}}

    def _propose(self, number: int) -> Proposals:
        before = round_folder(self.output, number - 1)
        proposals = propose_masks(
            self.plan.teacher if number == 1 else Teacher(before, before / "models" / "model.pt"),
            self.plan.selection,
            round_folder(self.output, number) / "data",
            device=choose_device(self.device),
            keep_scribbles=self.plan.keep_scribbles,
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
        folder, student = round_folder(self.output, number), self.plan.student
        settings = {
            **student.training,
            "datalist": (folder / "data" / "datalist.json").resolve(),
            "seed": student.seed + number,
            "progress": self.progress,
        }
        typed: dict[str, object] = {
            "data": self.data,
            "output": folder,
            "config": student.overlays,
            **self._given_device,
            **settings,
        }
        self.show(mixseg_command("train", student.folder, typed), "command")
        started = time.monotonic()
        train_bundle(
            student.folder,
            data=self.data,
            output=folder,
            config=student.overlays,
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
        write_text_atomic(folder / _TRAINED, strict_json(content))
        for path in folder.glob("checkpoint*.pt"):
            path.unlink()  # of use only while the round is trained, and large

    def score(self, number: int, split: str) -> dict[str, Any]:
        """Class → summary of a round's network on a split, evaluated unless it was."""
        folder = round_folder(self.output, number)
        summary = folder / split / "summary.json"
        if not summary.is_file():
            self.show(f"round {number}: {split}", "heading")
            settings = {"progress": self.progress}
            typed: dict[str, object] = {"split": split, **self._given_device, **settings}
            self.show(mixseg_command("evaluate", folder, typed), "command")
            evaluate_run(folder, split=split, settings=settings, device=self.device)
        scores: dict[str, Any] = read_object(summary, "scores")["scores"]
        branch = load(folder / "configs" / "inference.yaml").get("branch")
        return dict(scores[branch] if branch in scores else next(iter(scores.values())))

    @property
    def _given_device(self) -> dict[str, str]:
        return {} if self.device is None else {"device": self.device}
