"""How a bundle is run: ``monai.bundle`` in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mixseg.apps.bundle.children import child


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
    line = b""
    with (
        child(
            command, variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
        ) as process,
        log.open("ab") as file,
    ):
        assert process.stdout is not None
        while chunk := process.stdout.read(4096):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            *lines, line = (line + chunk).split(b"\n")
            for text in lines:
                # Of a progress bar, the log keeps the last state.
                file.write(text.rstrip(b"\r").rsplit(b"\r", 1)[-1] + b"\n")
        return process.wait()
