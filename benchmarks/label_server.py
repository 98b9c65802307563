"""A MONAI Label server as a client sees it, for label_end_to_end.py."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import nibabel as nib
import numpy as np
import requests
from filelock import FileLock, Timeout

#: What 3D Slicer posts to /train/<model>, beside the options that the server offers.
SLICER_TRAIN = {"device": "cpu", "run_id": "", "multi_gpu": True, "gpus": "all", "tracking": "None"}


class Log:
    """Lines on the screen and in a file, with the seconds passed."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.started = time.monotonic()
        self.seconds: dict[str, float] = {}

    def __call__(self, text: str) -> None:
        """Add a line."""
        line = f"[{time.monotonic() - self.started:6.1f} s] {text}"
        print(line, flush=True)
        self.file.write(line + "\n")
        self.file.flush()

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Keep how long a step took."""
        started = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - started, 1)
        self(f"{name}: {self.seconds[name]} s")


@dataclass
class Case:
    """One bundle with its scans.

    Attributes:
        name: the bundle's name.
        bundle: what ``mixseg label --bundle`` is given.
        studies: folder of scans.
        options: further arguments of ``mixseg label``.
        masks: scan id → complete mask of the bundle's classes.
        scribbles: scan id → scribbled map, 2 where unlabeled.
        epoch_length: batches an epoch.
        port: of the server.
        answers: what the server said, for the result file.
        servers: those that were started.
    """

    name: str
    bundle: str
    studies: Path
    options: list[str]
    masks: dict[str, np.ndarray]
    scribbles: dict[str, np.ndarray]
    epoch_length: int
    port: int = 0
    answers: dict[str, Any] = field(default_factory=dict)
    servers: list[Server] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The model's folder."""
        return self.studies / "mixseg_label" / "model" / self.name


class Server:
    """One server process and requests to it."""

    def __init__(self, case: Case, log: Log, title: str) -> None:
        self.case, self.log = case, log
        self.url = f"http://127.0.0.1:{case.port}"
        command = [sys.executable, "-m", "mixseg.cli.main", "label", str(case.studies)]
        command += ["--bundle", case.bundle, "--port", str(case.port)]
        command += ["--no-scoring", *case.options]
        case.servers.append(self)
        self.output = (case.studies / "server.log").open("ab")
        with log.timed(f"{case.name}: {title}"):
            self.process = subprocess.Popen(command, stdout=self.output, stderr=self.output)
            wait_for(self._answers, 900, f"{case.name}: the server does not answer")

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            log = (self.case.studies / "server.log").read_text()[-3000:]
            raise SystemExit(f"the server ended with {self.process.returncode}:\n{log}")
        try:
            return requests.get(f"{self.url}/info/", timeout=5).ok
        except requests.RequestException:
            return False

    def call(self, method: str, path: str, **options: Any) -> Any:
        """One request; anything but 200 ends the run."""
        answer = requests.request(method, self.url + path, timeout=300, **options)
        if answer.status_code != 200:
            log = (self.case.studies / "server.log").read_text()[-4000:]
            raise SystemExit(f"{method} {path}: {answer.status_code} {answer.text}\n{log}")
        is_json = "json" in answer.headers.get("content-type", "")
        return answer.json() if is_json else answer.content

    def infer(self, scan: str) -> np.ndarray:
        """The mask that a client gets."""
        parameters = {"device": "cpu", "result_extension": ".nii.gz", "result_dtype": "uint8"}
        content = self.call(
            "POST",
            f"/infer/{self.case.name}?image={scan}&output=image",
            data={"params": json.dumps(parameters)},
        )
        path = self.case.studies.parent / "answer.nii.gz"
        path.write_bytes(content)
        return load(path)

    def submit(self, scan: str, values: np.ndarray, segments: list[tuple[str, int]]) -> Any:
        """A label as 3D Slicer's Submit sends it: numbered by position, names beside it."""
        path = self.case.studies.parent / f"{scan}.nii.gz"
        affine = nib.load(self.case.studies / f"{scan}.nii.gz").affine
        nib.save(nib.Nifti1Image(values.astype(np.uint8), affine), path)
        info = {"label_info": [{"name": name, "idx": index} for name, index in segments]}
        with path.open("rb") as file:
            return self.call(
                "PUT",
                f"/datastore/label?image={scan}&tag=final",
                data={"params": json.dumps(info)},
                files={"label": (path.name, file)},
            )

    def train(self, epochs: int) -> Any:
        """Press Train."""
        request = {**self.case.answers["options"], **SLICER_TRAIN}
        request |= {"max_epochs": epochs, "epoch_length": self.case.epoch_length}
        return self.call("POST", f"/train/{self.case.name}", json=request)

    def train_stats(self) -> dict[str, Any]:
        """What fills 3D Slicer's bar."""
        stats: dict[str, Any] = self.call("GET", "/info/")["train_stats"][self.case.name]
        return stats

    def wait_trained(self) -> list[dict[str, Any]]:
        """Poll as a client does until the training is over; every distinct progress."""
        seen: list[dict[str, Any]] = []

        def is_over() -> bool:
            stats = self.train_stats()
            shown = {k: stats.get(k) for k in ("status", "epoch", "total_epochs")}
            if stats and shown not in seen:
                seen.append(shown)
            task = self.call("GET", "/train/")
            if task["status"] == "ERROR":
                raise SystemExit("training failed:\n" + "\n".join(task["details"]))
            return str(task["status"]) == "DONE"

        wait_for(is_over, 1800, f"{self.case.name}: the training does not end")
        return seen

    def stop(self, how: signal.Signals) -> None:
        """End the server, unless it has ended."""
        if self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(30)
        self.output.close()


def wait_for(condition: Callable[[], bool], seconds: float, message: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"{message} ({seconds:g} s)")
        time.sleep(0.5)


def is_locked(path: Path) -> bool:
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def check(condition: bool, what: str, log: Log) -> None:
    log(f"{'ok' if condition else 'WRONG'}: {what}")
    if not condition:
        raise SystemExit(f"wrong: {what}")


def load(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
