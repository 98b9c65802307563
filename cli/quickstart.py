"""``mixseg quickstart``: from nothing to a trained network beside its lower bound, in minutes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.markup import escape
from rich.rule import Rule

from mixseg.cli.console import clear_errors, console, fail, knob_texts
from mixseg.cli.quickstart_report import METHODS, markdown_report, screen_table
from mixseg.data.phantom import write_phantom
from mixseg.metrics import environment, strict_json, write_bytes_atomic

BUNDLE = "acdc_lv_mixed"
#: What distinguishes each run from the bundle as it is: the masks alone, in batches of one size.
RUNS: dict[str, dict[str, int]] = {
    "lower_bound": {"num_partial": 0, "batch_full": 16, "batch_partial": 0},
    "mixed": {},
}
_TRAINING = ("train.yaml", "quickstart.yaml")
_EVALUATION = (*_TRAINING, "evaluate.yaml")
_STATE_NAME = "state.json"
_FIGURES = {"cases": "test/cases.png", "curves": "curves.png"}


def find_repository() -> Path:
    """The checkout that this package was installed from.

    Raises:
        ValueError: the package was installed without it.
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / "bundles" / BUNDLE / "configs" / "quickstart.yaml").is_file():
        raise ValueError(
            f"bundles/{BUNDLE} is not beside this installation ({root}): clone the repository and "
            "install it with 'pip install -e .'"
        )
    return root


def read_knobs(arguments: Sequence[str], known: Mapping[str, Any]) -> dict[str, str]:
    """``--name value`` pairs.

    Args:
        arguments: what the command line has beyond the command's own options.
        known: the knobs that there are.

    Raises:
        ValueError: a name that is no knob, or a name without a value.
    """
    return knob_texts(arguments, known, f"the bundle {BUNDLE}")


def bundle_command(
    run_id: str, files: Sequence[str], knobs: Mapping[str, object], configs: Path, python: str
) -> list[str]:
    """The ``monai.bundle`` command line that runs ``run_id`` of the configuration ``files``."""
    paths = ",".join(f"'{(configs / name).as_posix()}'" for name in files)
    command = [python, "-m", "monai.bundle", "run", run_id, "--config_file", f"[{paths}]"]
    for name, value in knobs.items():
        command += [f"--{name}", str(value)]
    return command


def shown(command: Sequence[str]) -> str:
    """The command as a line to type: arguments that a shell would take apart are quoted."""
    return " ".join(f'"{word}"' if set(word) & set("'[ ") else word for word in command)


def run_logged(command: Sequence[str], log: Path) -> int:
    """Run a command, show what it prints as it comes and add it to ``log``; returns its status."""
    variables = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if sys.stdout.isatty():
        size = shutil.get_terminal_size()
        variables |= {"COLUMNS": str(size.columns), "LINES": str(size.lines), "FORCE_COLOR": "1"}
    else:
        # Where the bar cannot be drawn over itself, a line every half minute is enough.
        variables.setdefault("TQDM_MININTERVAL", "30")
    process = subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
    )
    assert process.stdout is not None
    line = b""
    try:
        with log.open("ab") as file:
            while chunk := process.stdout.read(4096):
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
                *lines, line = (line + chunk).split(b"\n")
                for text in lines:
                    # Of a progress bar, the log keeps the last state.
                    file.write(text.rstrip(b"\r").rsplit(b"\r", 1)[-1] + b"\n")
        return process.wait()
    except BaseException:
        # Ctrl-C reached the child as well; anything else must end it.
        with suppress(subprocess.TimeoutExpired):
            process.wait(2)
        process.kill()
        process.wait()
        raise


class _Quickstart:
    """The steps, and which of them are done: an interrupted quickstart goes on where it stopped."""

    def __init__(
        self, root: Path, output: Path, settings: dict[str, Any], knobs: Mapping[str, str]
    ) -> None:
        self.root = root
        self.output = output
        self.settings = settings
        self.knobs = knobs
        self.state_path = output / _STATE_NAME
        self.seconds: dict[str, float] = {}
        self.done: list[str] = []

    def open(self, force: bool) -> None:
        """Make the folder, or take up what is there.

        Raises:
            ValueError: it holds a quickstart with other settings, and not ``force``.
        """
        if force:
            for name in (*RUNS, "phantom"):
                shutil.rmtree(self.output / name, ignore_errors=True)
            self.state_path.unlink(missing_ok=True)
        self.output.mkdir(parents=True, exist_ok=True)
        if self.state_path.is_file():
            state = json.loads(self.state_path.read_text(encoding="utf-8"))
            if state["settings"] != self.settings:
                raise ValueError(
                    f"'{self.output}' holds a quickstart with other settings; "
                    "choose another --output, or give --force to start over"
                )
            self.seconds, self.done = state["seconds"], state["done"]
        self._save()

    def step(self, name: str, work: Callable[[], None]) -> None:
        """Do ``work`` unless it is done; its time adds up over interruptions."""
        if name in self.done:
            console.print(f"[dim]{name}: done already[/]")
            return
        console.print(Rule(f"[bold]{name}", align="left"))
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
        """Train one run, going on from its checkpoint where there is one."""
        self._bundle(run, *self._training(run), resume=True)

    def evaluate(self, run: str) -> None:
        """Score one run on the test split."""
        self._bundle(run, *self._evaluation(run))

    def results(self) -> dict[str, Any]:
        """Content of results.json."""
        runs = {}
        for run in RUNS:
            path = self.output / run / "test" / "summary.json"
            summary = json.loads(path.read_text(encoding="utf-8"))
            kept = {name: summary[name] for name in ("scores", "configuration", "data_hash")}
            steps = (self._training(run), self._evaluation(run))
            kept["commands"] = [
                # As typed in the repository: no path of this machine.
                shown(bundle_command(*step, Path("bundles", BUNDLE, "configs"), "python"))
                for step in (self._relocated(step) for step in steps)
            ]
            runs[run] = kept
        settings = {name: self.settings[name] for name in ("patients", "seed", "knobs")}
        return {
            "benchmark": "quickstart",
            "settings": settings,
            "runs": runs,
            "seconds": self.seconds,
            **environment(),
        }

    def _training(self, run: str) -> tuple[str, Sequence[str], dict[str, object]]:
        return "training", _TRAINING, self._common(run) | {"output_dir": self.output / run}

    def _evaluation(self, run: str) -> tuple[str, Sequence[str], dict[str, object]]:
        places = {"output_dir": self.output / run / "test"}
        return "evaluating", _EVALUATION, self._common(run) | places

    def _common(self, run: str) -> dict[str, object]:
        return {
            "seed": self.settings["seed"],
            **self.knobs,
            **RUNS[run],
            "dataset_dir": self.output / "phantom",
            "ckpt_dir": self.output / run / "models",
        }

    def _relocated(
        self, step: tuple[str, Sequence[str], dict[str, object]]
    ) -> tuple[str, Sequence[str], dict[str, object]]:
        run_id, files, knobs = step
        return (
            run_id,
            files,
            {
                name: Path("quickstart", value.relative_to(self.output)).as_posix()
                if isinstance(value, Path)
                else value
                for name, value in knobs.items()
            },
        )

    def _bundle(
        self, run: str, run_id: str, files: Sequence[str], knobs: dict[str, object], **more: object
    ) -> None:
        folder, log = self.output / run, self.output / run / "log.txt"
        folder.mkdir(exist_ok=True)
        configs = self.root / "bundles" / BUNDLE / "configs"
        knobs = knobs | more
        near, python = _near(configs), _near(Path(sys.executable)).as_posix()
        line = shown(bundle_command(run_id, files, knobs, near, python))
        console.print(f"[cyan]{escape(line)}[/]", soft_wrap=True, highlight=False)
        status = run_logged(bundle_command(run_id, files, knobs, configs, sys.executable), log)
        if status:
            raise fail(f"{METHODS[run]}, {run_id}: exit status {status}; the log is {log}")

    def _save(self) -> None:
        state = {"settings": self.settings, "seconds": self.seconds, "done": self.done}
        write_bytes_atomic(self.state_path, strict_json(state).encode())


def _near(path: Path) -> Path:
    """The path as one would type it here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _configuration(configs: Path) -> tuple[dict[str, Any], str]:
    """The knobs that there are, and a digest of all the files that decide about a run."""
    knobs: dict[str, Any] = {}
    digest = hashlib.sha256()
    for name in _EVALUATION:
        content = (configs / name).read_bytes()
        digest.update(content)
        knobs |= yaml.safe_load(content)
    return knobs, digest.hexdigest()[:16]


def _record(root: Path, output: Path) -> None:
    """Copy what the README shows to where the repository keeps it."""
    results, figures = root / "benchmarks" / "results", root / "docs" / "figures"
    results.mkdir(parents=True, exist_ok=True)
    figures.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(output / "results.json", results / "quickstart.json")
    for name, source in _FIGURES.items():
        shutil.copyfile(output / "mixed" / source, figures / f"quickstart_{name}.png")
    console.print("recorded; now run: python benchmarks/tables.py")


def quickstart(
    context: typer.Context,
    output: Annotated[Path, typer.Option(help="Folder to work in.")] = Path("quickstart"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of data and training.")] = 0,
    patients: Annotated[int, typer.Option(min=3, help="Patients of the phantom.")] = 32,
    force: Annotated[bool, typer.Option("--force", help="Start over in OUTPUT.")] = False,
    record: Annotated[
        bool,
        typer.Option("--record", help="Maintainers: renew the numbers and pictures of the README."),
    ] = False,
) -> None:
    """Make synthetic data, train on masks alone and on masks and scribbles, and compare both.

    Every command that it runs is shown. Interrupt it at any time: the same command goes on.
    Knobs of the bundle can be added, for example: --max_epochs 3 --num_full 5
    """
    with clear_errors():
        root = find_repository()
        known, digest = _configuration(root / "bundles" / BUNDLE / "configs")
        knobs = read_knobs(context.args, known)
        settings = {"patients": patients, "seed": seed, "knobs": knobs, "configuration": digest}
        work = _Quickstart(root, output, settings, knobs)
        work.open(force)
        try:
            work.step("phantom", work.phantom)
            for run, title in METHODS.items():
                work.step(f"{title}: training", partial(work.train, run))
                work.step(f"{title}: test", partial(work.evaluate, run))
        except KeyboardInterrupt:
            console.print("\n[yellow]interrupted; the same command goes on from here[/]")
            raise typer.Exit(130) from None
        results = work.results()
        write_bytes_atomic(output / "results.json", strict_json(results).encode())
        write_bytes_atomic(output / "results.md", markdown_report(results).encode())
    console.print(screen_table(results))
    for run, title in METHODS.items():
        places = (output / run / name for name in _FIGURES.values())
        console.print(f"{title}: {', '.join(map(str, places))}", soft_wrap=True)
    console.print(f"scores: {output / 'results.json'}, {output / 'results.md'}", soft_wrap=True)
    if record:
        _record(root, output)
