"""The commands that one row of an experiment list consists of."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from mixseg.apps.bundle.find import find_bundle
from mixseg.apps.bundle.run import bundle_command
from mixseg.apps.self_train.plan import SELECTING

from .list import Experiment, check_settings

__all__ = [
    "Outputs",
    "Step",
    "evaluation_steps",
    "outputs",
    "run_folder",
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
    """

    history: Path
    splits: dict[str, Path]
    reports: tuple[Path, ...]


def outputs(experiment: Experiment, folder: Path) -> Outputs:
    """Of a row in its working folder."""
    if experiment.start_from is not None:
        rounds = folder / "rounds"
        last = rounds / f"round_{experiment.rounds:02d}"
        splits = {split: last / split for split in SPLITS}
        return Outputs(last / "history.csv", splits, (last, rounds))
    run = run_folder(folder)
    splits = {split: folder / split for split in SPLITS}
    return Outputs(run / "history.csv", splits, (run,))


def run_folder(folder: Path) -> Path:
    """The folder of the training, below the working folder of its row and seed."""
    return folder / "training"


def training_steps(
    experiment: Experiment, seed: int, folder: Path, dataset_dir: Path, anew: bool = False
) -> list[Step]:
    """The step that leaves a run in :func:`run_folder`.

    It resumes from a checkpoint where there is one.

    Args:
        experiment: the row, which starts from no other one.
        seed: of the run.
        folder: working folder of row and seed.
        dataset_dir: the data.
        anew: replace a training that is there.
    """
    configs, run = _configs(experiment), run_folder(folder)
    late = check_settings(experiment, configs.parent)
    settings = {name: value for name, value in experiment.settings.items() if name not in late}
    settings |= {"seed": seed, "dataset_dir": dataset_dir, "output_dir": run}
    settings |= {"ckpt_dir": run / "models", "progress": False}
    settings |= {"overwrite": True} if anew else {"resume": True}
    files = [configs / name for name in ("train.yaml", *experiment.overlays)]
    command = bundle_command("training", files, settings)
    epochs = int(experiment.settings.get("max_epochs", 0))
    return [Step("training", command, outputs(experiment, folder).history, epochs)]


def evaluation_steps(experiment: Experiment, folder: Path) -> list[Step]:
    """The steps that score the run in ``folder`` on each split, by its own configuration."""
    late = check_settings(experiment, _configs(experiment).parent)
    files = [run_folder(folder) / "configs" / "evaluate.yaml"]
    return [
        Step(
            split,
            bundle_command(
                "evaluating",
                files,
                {**late, "split": split, "output_dir": place, "progress": False},
            ),
        )
        for split, place in outputs(experiment, folder).splits.items()
    ]


def self_training_steps(
    experiment: Experiment,
    seed: int,
    folder: Path,
    dataset_dir: Path,
    teacher: Path,
) -> list[Step]:
    """The step that makes proposals, trains fresh networks on them and scores the last one.

    Args:
        experiment: the row; its bundle is the student.
        seed: of the run.
        folder: working folder of row and seed.
        dataset_dir: the data.
        teacher: the run that it starts from, which selects the cases.
    """
    configs = _configs(experiment)
    command = [sys.executable, "-m", "mixseg.cli.main", "self-train", str(teacher)]
    command += ["--student", str(configs.parent)]
    command += ["--data", str(dataset_dir), "--output", str(folder / "rounds")]
    command += ["--rounds", str(experiment.rounds), "--split", "test", "--quiet"]
    for name in experiment.overlays:
        command += ["--config", str(configs / name)]
    for name, value in {**experiment.settings, "seed": seed}.items():
        if name not in SELECTING:
            command += [f"--{name}", str(value)]
    epochs = int(experiment.settings.get("max_epochs", 0))
    return [Step("self-training", command, outputs(experiment, folder).history, epochs)]


def _configs(experiment: Experiment) -> Path:
    """Folder of the configurations of a row's bundle, absolute."""
    assert experiment.bundle is not None, "rows are checked before their steps are made"
    return find_bundle(experiment.bundle).resolve() / "configs"
