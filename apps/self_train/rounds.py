"""Iterative self-training: proposals, a fresh network, its proposals, and so on."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from mixseg.apps.bundle.run import bundle_command, run_logged, shown
from mixseg.apps.self_train.cases import Selection
from mixseg.apps.self_train.proposals import Proposals, Trained, propose_masks
from mixseg.configuration.loading import load
from mixseg.files.atomic import strict_json, write_bytes_atomic
from mixseg.files.provenance import sha256_of

__all__ = ["SelfTraining", "Student"]

SETTINGS = "settings.json"
_TRAINED = "trained.json"
_PARENT = "parent.yaml"


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

    def files(self, name: str) -> list[Path]:
        """A configuration of the bundle, and the overlays after it."""
        return [self.folder / "configs" / name, *self.overlays]


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
        device: where proposals are predicted.
        keep_scribbles: let stored partial labels replace the predictions.
        progress: show progress bars.
        show: is given what a user may want to see, and its kind: ``"heading"``, ``"command"``,
            ``"done"`` or an empty text.
    """

    def __init__(
        self,
        output: Path,
        teacher: Trained,
        student: Student,
        selection: Selection,
        *,
        dataset_dir: Path,
        device: torch.device,
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
                f"'{path}' is no record of a self-training ({error}): choose another -o"
            ) from error
        if other:
            raise ValueError(
                f"'{self.output}' holds a self-training with another {', '.join(other)}: choose "
                "another -o, or give what was given there"
            )

    def folder(self, number: int) -> Path:
        """Where a round keeps its files."""
        return self.output / f"round_{number:02d}"

    def run(self, number: int) -> dict[str, Any]:
        """Do what is left of a round, and return its line of the table."""
        folder = self.folder(number)
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
        folder = self.folder(number)
        summary = folder / split / "summary.json"
        if not summary.is_file():
            self.show(f"round {number}: {split}", "heading")
            settings = {"split": split, "output_dir": summary.parent, "progress": self.progress}
            self._bundle(
                "evaluating", [folder / "configs" / "evaluate.yaml"], settings, folder / "log.txt"
            )
        scores: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))["scores"]
        branch = load(folder / "configs" / "inference.yaml").get("branch")
        return dict(scores[branch] if branch in scores else next(iter(scores.values())))

    def _propose(self, number: int) -> Proposals:
        before = self.folder(number - 1)
        proposals = propose_masks(
            self.teacher if number == 1 else Trained(before, before / "models" / "model.pt"),
            self.selection,
            self.folder(number) / "data",
            device=self.device,
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
        folder = self.folder(number)
        # A training that outlived this command would keep writing to the files of the next one.
        handler = {
            "_target_": "mixseg.handlers.stop_with_parent.StopWithParent",
            "parent": os.getpid(),
        }
        parent = folder / _PARENT
        write_bytes_atomic(parent, yaml.safe_dump({"+train#handlers": [handler]}).encode())
        settings = {
            **self.student.training,
            "dataset_dir": self.dataset_dir.resolve(),
            "datalist": (folder / "data" / "datalist.json").resolve(),
            "seed": self.student.seed + number,
            "progress": self.progress,
            "output_dir": folder,
            "ckpt_dir": folder / "models",
            "resume": True,
        }
        started = time.monotonic()
        files = [*self.student.files("train.yaml"), parent.resolve()]
        self._bundle("training", files, settings, folder / "log.txt")
        content = {
            "round": number,
            "seed": settings["seed"],
            "proposals": len(proposals.cases),
            "empty": len(proposals.empty),
            "weights_sha256": sha256_of(folder / "models" / "model.pt"),
            "seconds": round(time.monotonic() - started, 1),
        }
        write_bytes_atomic(folder / _TRAINED, strict_json(content).encode())
        parent.unlink(missing_ok=True)
        for path in folder.glob("checkpoint*.pt"):
            path.unlink()  # of use only while the round is trained, and large

    def _bundle(
        self, run_id: str, files: list[Path], settings: Mapping[str, Any], log: Path
    ) -> None:
        names = [path.resolve().as_posix() for path in files]
        command = bundle_command(run_id, names, settings, Path(), "python")
        self.show(shown(command), "command")
        command = bundle_command(run_id, names, settings, Path(), sys.executable)
        if status := run_logged(command, log):
            raise ChildProcessError(
                f"{log.parent.name}, {run_id}: exit status {status}; the log is {log}"
            )


_COUNTS_AS = ("full", "partial")


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
