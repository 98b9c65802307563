"""From nothing to a trained network beside its lower bound, in minutes."""

from __future__ import annotations

import hashlib
import itertools
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixseg.apps.bundle.find import ROOT
from mixseg.apps.bundle.run import mixseg_command
from mixseg.apps.bundle.workflow import evaluate_run, train_bundle, training_files
from mixseg.configuration.settings import settings_of
from mixseg.data.phantom.dataset import split_sizes, write_phantom
from mixseg.files.atomic import strict_json, write_text_atomic
from mixseg.files.documents import read_object
from mixseg.files.provenance import environment

BUNDLE = "acdc_lv_mixed"
#: What distinguishes each run from the bundle as it is: the masks alone, in batches of one size.
RUNS: dict[str, dict[str, int]] = {
    "lower_bound": {"num_partial": 0, "batch_full": 16, "batch_partial": 0},
    "mixed": {},
}
_OVERLAY = Path("quickstart.yaml")
_STATE_NAME = "state.json"
FIGURES = {"cases": "test/cases.png", "curves": "curves.png"}


def find_repository() -> Path:
    """The checkout that this package was installed from.

    Raises:
        ValueError: the package was installed without it.
    """
    if not (ROOT / "bundles" / BUNDLE / "configs" / "quickstart.yaml").is_file():
        raise ValueError(
            f"bundles/{BUNDLE} is not beside this installation ({ROOT}): clone the repository and "
            "install it with 'pip install -e .'"
        )
    return ROOT


def check_patients(patients: int, known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse a phantom with fewer patients for training than the runs need.

    Raises:
        ValueError: says how many patients suffice.
    """
    full, partial = (given.get(name, known[name]) for name in ("num_full", "num_partial"))
    if not isinstance(full, int) or not isinstance(partial, int):
        return  # the training refuses what is not a number, and null takes all that there are
    training = split_sizes(patients)[0]
    if training < full + partial:
        enough = next(n for n in itertools.count(patients) if split_sizes(n)[0] >= full + partial)
        raise ValueError(
            f"--patients {patients} leaves {training} for training, and the quickstart trains on "
            f"{full} with masks and {partial} with scribbles: give --patients {enough}, or fewer "
            "labels, for example --num_full 1 --num_partial 2"
        )


@dataclass
class Quickstart:
    """The steps, and which of them are done: an interrupted quickstart resumes where it stopped."""

    root: Path
    output: Path
    settings: dict[str, Any]
    given: Mapping[str, Any]
    show: Callable[[str, str], None]
    seconds: dict[str, float] = field(default_factory=dict, init=False)
    done: list[str] = field(default_factory=list, init=False)

    def open(self, overwrite: bool) -> None:
        """Make the folder, or take up what is there.

        Raises:
            ValueError: it holds a quickstart with other settings, and not ``overwrite``.
        """
        if overwrite:
            for name in (*RUNS, "phantom"):
                shutil.rmtree(self.output / name, ignore_errors=True)
            (self.output / _STATE_NAME).unlink(missing_ok=True)
        self.output.mkdir(parents=True, exist_ok=True)
        if (self.output / _STATE_NAME).is_file():
            state = read_object(self.output / _STATE_NAME, "settings", "seconds", "done")
            if state["settings"] != self.settings:
                raise ValueError(
                    f"'{self.output}' holds a quickstart with other settings; "
                    "choose another --output, or give --overwrite to start over"
                )
            self.seconds, self.done = state["seconds"], state["done"]
        self._save()

    def step(self, name: str, work: Callable[[], None]) -> None:
        """Do ``work`` unless it is done; its time adds up over interruptions."""
        if name in self.done:
            self.show(f"{name}: done already", "done")
            return
        self.show(name, "heading")
        started = time.monotonic()
        try:
            work()
            self.done.append(name)
        finally:
            passed = time.monotonic() - started
            self.seconds[name] = round(self.seconds.get(name, 0.0) + passed, 1)
            self._save()

    def phantom(self) -> None:
        """Make the data set."""
        write_phantom(
            self.output / "phantom", self.settings["patients"], self.settings["seed"], progress=True
        )

    def train(self, run: str) -> None:
        """Train one run, or resume its training."""
        self.show(self._commands(run, _near(self.root), self.output)[0], "command")
        train_bundle(
            self.root / "bundles" / BUNDLE,
            data=self.output / "phantom",
            output=self.output / run,
            config=[_OVERLAY],
            settings=self._settings(run),
            resume=True,
        )

    def evaluate(self, run: str) -> None:
        """Score one run on the test split."""
        self.show(self._commands(run, _near(self.root), self.output)[1], "command")
        evaluate_run(self.output / run)

    def results(self) -> dict[str, Any]:
        """Content of results.json."""
        runs = {}
        for run in RUNS:
            path = self.output / run / "test" / "summary.json"
            names = ("scores", "configuration", "data_hash")
            summary = read_object(path, *names)
            kept = {name: summary[name] for name in names}
            # As typed in the repository: no path of this machine.
            kept["commands"] = self._commands(run, Path(), Path("quickstart"))
            runs[run] = kept
        settings = {name: self.settings[name] for name in ("patients", "seed", "given")}
        return {
            "benchmark": "quickstart",
            "settings": settings,
            "runs": runs,
            "seconds": self.seconds,
            **environment(),
        }

    def _settings(self, run: str) -> dict[str, object]:
        return {"seed": self.settings["seed"], **self.given, **RUNS[run]}

    def _commands(self, run: str, root: Path, output: Path) -> list[str]:
        options = {"data": output / "phantom", "output": output / run, "config": _OVERLAY}
        return [
            mixseg_command("train", root / "bundles" / BUNDLE, options | self._settings(run)),
            mixseg_command("evaluate", output / run, {}),
        ]

    def _save(self) -> None:
        state = {"settings": self.settings, "seconds": self.seconds, "done": self.done}
        write_text_atomic(self.output / _STATE_NAME, strict_json(state))


def _near(path: Path) -> Path:
    """The path as one would type it here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def read_configuration(bundle: Path) -> tuple[dict[str, Any], str]:
    """The settings of the runs, and a digest of all the files that decide about them."""
    files = training_files(bundle, [_OVERLAY])
    digest = hashlib.sha256()
    for path in (*files, bundle / "configs" / "evaluate.yaml"):
        digest.update(path.read_bytes())
    return settings_of(files), digest.hexdigest()[:16]


def record_figures(root: Path, output: Path) -> None:
    """Copy what the README shows to where the repository keeps it."""
    results, figures = root / "benchmarks" / "results", root / "docs" / "figures"
    results.mkdir(parents=True, exist_ok=True)
    figures.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(output / "results.json", results / "quickstart.json")
    for name, source in FIGURES.items():
        shutil.copyfile(output / "mixed" / source, figures / f"quickstart_{name}.png")
