"""Run the rows of an experiment list, one result file a row and seed.

Training selects its weights on the validation split; the test split is scored once, at the end.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixseg.apps.bundle.children import child
from mixseg.apps.bundle.find import find_bundle
from mixseg.files.atomic import write_bytes_atomic
from mixseg.files.lock import claim

from .complexity import count_parameters
from .list import Experiment, check_settings
from .results import Result, result_path, shared_path
from .steps import (
    Outputs,
    Step,
    evaluation_steps,
    outputs,
    run_folder,
    self_training_steps,
    training_steps,
)

__all__ = ["Outcome", "Places", "Watch", "read_cases", "run_experiments", "run_step"]

_TIMES_NAME = "times.json"
_FINISHED_NAME = "finished.json"
#: How often a running step is looked at, in seconds.
_POLL = 1.0

#: Runs a step's command: command, log, environment, called while it runs → exit status.
Runner = Callable[[Sequence[str], Path, Mapping[str, str], Callable[[], None]], int]


@dataclass(frozen=True)
class Places:
    """Where a list's rows read and write.

    Attributes:
        dataset_dir: the data.
        results: has one folder a list, in it one file per row and seed.
        work: has one folder a list, in it one folder per row and seed.
        threads: CPU threads of a run.
        keep: keep the checkpoints of finished runs.
    """

    dataset_dir: Path
    results: Path
    work: Path
    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    keep: bool = False

    def folder(self, experiment: Experiment, seed: int, row: str | None = None) -> Path:
        """The working folder of a row and seed."""
        return self.work / experiment.list_name / f"{row or experiment.row}_seed{seed}"


@dataclass
class Watch:
    """Is told what happens; this one says nothing.

    ``row`` is "ROW, seed SEED".
    """

    def says(self, row: str, text: str) -> None:
        """A row is done, begins, is left out or has failed."""

    def step(self, row: str, step: str, done: int, total: int) -> None:
        """Called about once a second: epochs done and in all, zeros where there are none."""


@dataclass
class Outcome:
    """Rows that failed, and how many were left for another call."""

    failed: list[str] = field(default_factory=list)
    left: int = 0


class StepFailed(RuntimeError):
    """A step's command ended with another exit status than 0."""


def run_step(
    command: Sequence[str], log: Path, environment: Mapping[str, str], tick: Callable[[], None]
) -> int:
    """Run a command with its output in ``log``; returns its exit status.

    The command ends with this process, however that ends.
    """
    with (
        log.open("ab") as file,
        child(command, environment, stdout=file, stderr=file) as process,
    ):
        while True:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(_POLL)
            tick()


def run_experiments(
    rows: Sequence[Experiment],
    known: Mapping[str, Experiment],
    places: Places,
    seeds: Sequence[int] | None = None,
    minutes: float | None = None,
    watch: Watch | None = None,
    runner: Runner = run_step,
) -> Outcome:
    """Run what has no result file yet, seed by seed; what was interrupted resumes.

    Args:
        rows: to run, of one list.
        known: all rows of that list, by name; those that others start from are among them.
        places: folders.
        seeds: instead of each row's own.
        minutes: start no row that would not end in time, taking as long as the longest before it.
        watch: is told what happens.
        runner: runs a command.

    Raises:
        ValueError: before anything is run: a bundle or a setting that is not there, or no GPU for a
            row that needs one.
    """
    watch = watch or Watch()
    for experiment in rows:
        _check(experiment)
        if experiment.start_from is not None:
            _check(known[experiment.start_from])
    outcome = Outcome()
    started, longest = time.monotonic(), 0.0
    order = dict.fromkeys(s for e in rows for s in (e.seeds if seeds is None else seeds))
    for seed, experiment in ((s, e) for s in order for e in rows):
        if seeds is None and seed not in experiment.seeds:
            continue
        name = f"{experiment.row}, seed {seed}"
        target = result_path(places.results, experiment, seed)
        shared = shared_path(places.results, experiment, seed)
        if target.is_file():
            watch.says(name, "done already")
            continue
        if shared is not None and shared.is_file():
            watch.says(name, f"measured as {'/'.join(experiment.same_as or ())}")
            continue
        elapsed = time.monotonic() - started
        if minutes is not None and elapsed + longest > 60 * minutes:
            watch.says(name, "left for the next call")
            outcome.left += 1
            continue
        folder = places.folder(experiment, seed)
        try:
            mine = claim(folder, "this row")
        except ValueError:
            watch.says(name, "runs in another process")
            outcome.left += 1
            continue
        with mine:
            watch.says(name, f"running, log in {folder}")
            try:
                result = _run_row(experiment, known, seed, places, watch, runner)
            except StepFailed as error:
                watch.says(name, f"failed with {error}, see {folder / 'log.txt'}")
                outcome.failed.append(f"{experiment.row}_seed{seed}")
                continue
            longest = max(longest, time.monotonic() - started - elapsed)
            write_bytes_atomic(target, (json.dumps(result, indent=1) + "\n").encode())
            watch.says(name, "done")
            if not places.keep:
                for path in run_folder(folder).glob("checkpoint*.pt"):
                    path.unlink()
    return outcome


def _check(experiment: Experiment) -> None:
    """Refuse a row that cannot run, before the first of its list is started."""
    place = f"list '{experiment.list_name}', row '{experiment.row}'"
    if experiment.bundle is None:
        raise ValueError(f"{place}: names no bundle, nor does the list: add 'bundle: NAME'")
    try:
        folder = find_bundle(experiment.bundle)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    check_settings(experiment, folder)
    if experiment.profile == "gpu":
        import torch

        if not torch.cuda.is_available():
            raise ValueError(
                f"{place} is of profile gpu, and no CUDA device is visible here: run it on a "
                "machine with a GPU, or choose rows with --profile cpu"
            )


class _Times:
    """Seconds of each step, added up over interruptions; an exit without notice is remembered."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / _TIMES_NAME
        self.seconds: dict[str, float] = {}
        self.lost: list[str] = []
        if self.path.is_file():
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            self.seconds = kept["seconds"]
            # A step that was under way when the process ended took longer than is known.
            self.lost = kept["lost"] + ([kept["running"]] if kept["running"] else [])

    @contextmanager
    def measure(self, name: str) -> Any:
        self._write(name)
        started = time.monotonic()
        try:
            yield
        finally:
            passed = time.monotonic() - started
            self.seconds[name] = round(self.seconds.get(name, 0.0) + passed, 1)
            self._write(None)

    def _write(self, running: str | None) -> None:
        content = {"seconds": self.seconds, "lost": self.lost, "running": running}
        write_bytes_atomic(self.path, json.dumps(content).encode())


def _run_steps(
    steps: Sequence[Step],
    experiment: Experiment,
    name: str,
    folder: Path,
    places: Places,
    watch: Watch,
    runner: Runner,
) -> _Times:
    environment = {**os.environ, "OMP_NUM_THREADS": str(places.threads)}
    if experiment.profile == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _FINISHED_NAME).unlink(missing_ok=True)
    times = _Times(folder)
    for step in steps:

        def tick(step: Step = step) -> None:
            done, total = step.progress()
            watch.step(name, step.name, done, total)

        tick()
        with times.measure(step.name):
            status = runner(step.command, folder / "log.txt", environment, tick)
        if status:
            raise StepFailed(f"exit code {status} in {step.name}")
    return times


def _run_row(
    experiment: Experiment,
    known: Mapping[str, Experiment],
    seed: int,
    places: Places,
    watch: Watch,
    runner: Runner,
) -> Result:
    """Train and score one row; returns what the result file holds."""
    assert experiment.bundle is not None
    folder, bundle = places.folder(experiment, seed), find_bundle(experiment.bundle)
    name = f"{experiment.row}, seed {seed}"
    if experiment.start_from is None:
        steps = training_steps(experiment, seed, folder, places.dataset_dir)
        steps += evaluation_steps(experiment, folder)
    else:
        first = known[experiment.start_from]
        teacher = places.folder(experiment, seed, first.row)
        # Its scores may be those of another list, whose weights are not here.
        if (found := _finished(teacher)) != _identity(first, seed):
            training = training_steps(
                first, seed, teacher, places.dataset_dir, anew=found is not None
            )
            _run_steps(training, first, f"{name}: {first.row}", teacher, places, watch, runner)
            _finish(first, seed, teacher)
        run = run_folder(teacher)
        steps = self_training_steps(experiment, seed, folder, places.dataset_dir, run)
    times = _run_steps(steps, experiment, name, folder, places, watch, runner)
    _finish(experiment, seed, folder)
    made = outputs(experiment, folder)
    history = made.history.read_text(encoding="utf-8").splitlines()
    result: Result = {
        "experiment": experiment.row,
        "method": experiment.method,
        "variant": experiment.variant,
        "bundle": bundle.name,
        "data": experiment.data,
        "set": experiment.set,
        "profile": experiment.profile,
        "seed": seed,
        "seconds": times.seconds,
        "threads": places.threads,
        "parameters_training": count_parameters(bundle, experiment),
        "seconds_per_iteration": _seconds_per_iteration(times, history),
    }
    for split, place in made.splits.items():
        result[split] = json.loads((place / "summary.json").read_text(encoding="utf-8"))
    result["cases"] = read_cases(made.splits["test"])
    result["history"] = history
    result["reports"] = _reports(made)
    return result


def read_cases(folder: Path) -> list[dict[str, str]]:
    """The lines of an evaluation's ``metrics.csv``, without their empty cells."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


def _reports(made: Outputs) -> dict[str, list[str]]:
    """Further tables beside the curves, as handlers write them: name without .csv → lines."""
    return {
        path.stem: path.read_text(encoding="utf-8").splitlines()
        for folder in made.reports
        for path in sorted(folder.glob("*.csv"))
        if path != made.history
    }


def _identity(experiment: Experiment, seed: int) -> dict[str, Any]:
    """What the weights of a row depend on, as it comes back from JSON."""
    content = {"bundle": experiment.bundle, "settings": experiment.settings, "seed": seed}
    kept: dict[str, Any] = json.loads(json.dumps(content))
    return kept


def _finish(experiment: Experiment, seed: int, folder: Path) -> None:
    """Note whose weights ``folder`` holds; a repetition measures its times anew."""
    (folder / _TIMES_NAME).unlink(missing_ok=True)
    text = json.dumps(_identity(experiment, seed))
    write_bytes_atomic(folder / _FINISHED_NAME, text.encode())


def _finished(folder: Path) -> Any:
    path = folder / _FINISHED_NAME
    weights = run_folder(folder) / "models" / "model.pt"
    if not path.is_file() or not weights.is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8"))


def _seconds_per_iteration(times: _Times, history: Sequence[str]) -> float | None:
    """Of training in all, validation included; None where a kill left its time unknown."""
    rows = list(csv.DictReader(history))
    if "training" not in times.seconds or "training" in times.lost:
        return None
    if not rows or not rows[-1].get("iteration"):
        return None
    return float(f"{times.seconds['training'] / int(rows[-1]['iteration']):.4g}")
