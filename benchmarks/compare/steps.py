"""The commands that one row of an experiment list consists of."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixseg.apps.bundle.find import find_bundle

from .list import Experiment, check_knobs

__all__ = [
    "Outputs",
    "Step",
    "evaluation_steps",
    "outputs",
    "self_training_steps",
    "training_steps",
]

SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Step:
    """A command and how far it is.

    Attributes:
        name: ``training``, ``self-training``, or the split that is scored.
        command: to run.
        history: file that gets a line an epoch, or None.
        epochs: in all, 0 where nobody says.
    """

    name: str
    command: list[str]
    history: Path | None = None
    epochs: int = 0

    def progress(self) -> tuple[int, int]:
        """Epochs done, and in all."""
        if self.history is None or not self.history.is_file():
            return 0, self.epochs
        lines = self.history.read_text(encoding="utf-8").count("\n")
        return max(0, lines - 1), self.epochs


@dataclass(frozen=True)
class Outputs:
    """Where a row's steps leave what its result file is made of.

    Attributes:
        history: the training's curves, ``history.csv``.
        splits: split → folder of its ``summary.json`` and ``metrics.csv``.
        reports: folders whose other ``.csv`` files are kept, too.
        checkpoints: folder that a finished row needs no longer, or None.
    """

    history: Path
    splits: dict[str, Path]
    reports: tuple[Path, ...]
    checkpoints: Path | None


def outputs(experiment: Experiment, folder: Path) -> Outputs:
    """Of a row in its working folder."""
    if experiment.start_from is not None:
        rounds = folder / "rounds"
        last = rounds / f"round_{experiment.rounds:02d}"
        splits = {split: last / split for split in SPLITS}
        return Outputs(last / "history.csv", splits, (last, rounds), None)
    training = folder / "training"
    splits = {split: folder / split for split in SPLITS}
    return Outputs(training / "history.csv", splits, (training,), training)


def training_steps(
    experiment: Experiment, seed: int, folder: Path, dataset_dir: Path
) -> list[Step]:
    """The step that leaves ``models/model.pt`` and the curves in ``folder``.

    It goes on from a checkpoint where there is one.

    Args:
        experiment: the row, which starts from no other one.
        seed: of the run.
        folder: working folder of row and seed.
        dataset_dir: the data.
    """
    knobs = _knobs(experiment, seed, dataset_dir, folder, evaluating=False)
    command = _bundle_command(experiment, "training", {**knobs, "resume": True})
    epochs = int(experiment.knobs.get("max_epochs", 0))
    return [Step("training", command, outputs(experiment, folder).history, epochs)]


def evaluation_steps(
    experiment: Experiment, seed: int, folder: Path, dataset_dir: Path
) -> list[Step]:
    """The steps that score the weights in ``folder`` on each split."""
    knobs = _knobs(experiment, seed, dataset_dir, folder, evaluating=True)
    return [
        Step(
            split,
            _bundle_command(
                experiment,
                "evaluating",
                {**knobs, "split": split, "output_dir": place},
                "evaluate.yaml",
            ),
        )
        for split, place in outputs(experiment, folder).splits.items()
    ]


def self_training_steps(
    experiment: Experiment,
    seed: int,
    folder: Path,
    dataset_dir: Path,
    teacher: Experiment,
    weights: Path,
) -> list[Step]:
    """The step that makes proposals, trains fresh networks on them and scores the last one.

    Args:
        experiment: the row; its bundle is the student.
        seed: of the run.
        folder: working folder of row and seed.
        dataset_dir: the data.
        teacher: the row that it starts from.
        weights: the teacher's.
    """
    bundles = [_configs(one).parent for one in (teacher, experiment)]
    command = [sys.executable, "-m", "mixseg.cli.main", "self-train", str(bundles[0])]
    command += ["--weights", str(weights), "--student", str(bundles[1])]
    command += ["--data", str(dataset_dir), "--output", str(folder / "rounds")]
    command += ["--rounds", str(experiment.rounds), "--split", "test", "--quiet"]
    for option, one in (("--teacher-config", teacher), ("--config", experiment)):
        for name in one.overlays:
            command += [option, str(_configs(one) / name)]
    for name, value in teacher.knobs.items():
        command += ["--teacher-knob", f"{name}={value}"]
    for name, value in {**experiment.knobs, "seed": seed}.items():
        command += [f"--{name}", str(value)]
    epochs = int(experiment.knobs.get("max_epochs", 0))
    return [Step("self-training", command, outputs(experiment, folder).history, epochs)]


def _knobs(
    experiment: Experiment, seed: int, dataset_dir: Path, folder: Path, evaluating: bool
) -> dict[str, Any]:
    late = check_knobs(experiment, _configs(experiment).parent)
    knobs = {k: v for k, v in experiment.knobs.items() if evaluating or k not in late}
    places = {
        "dataset_dir": dataset_dir,
        "output_dir": folder / "training",
        "ckpt_dir": folder / "models",
        "progress": False,
    }
    return {**knobs, "seed": seed, **places}


def _bundle_command(
    experiment: Experiment, run_id: str, knobs: Mapping[str, Any], *more: str
) -> list[str]:
    """The ``monai.bundle`` command line of one step."""
    configs = _configs(experiment)
    files = [str(configs / name) for name in ("train.yaml", *experiment.overlays, *more)]
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", str(files)]
    for name, value in knobs.items():
        command += [f"--{name}", str(value)]
    return command


def _configs(experiment: Experiment) -> Path:
    """Folder of the configurations of a row's bundle, absolute."""
    assert experiment.bundle is not None, "rows are checked before their steps are made"
    return find_bundle(experiment.bundle).resolve() / "configs"
