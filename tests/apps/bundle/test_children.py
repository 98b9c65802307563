"""The processes of a command end with it, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mixseg.apps.bundle.children import child
from mixseg.configuration import parent

#: A run as a bundle's is, without what takes long to import.
_RUN = f"""
import runpy, sys, time
runpy.run_path({parent.__file__!r})["end_with_parent"]()
open(sys.argv[1], "w").write(str(__import__("os").getpid()))
time.sleep(120)
"""


def command(note: Path) -> None:
    """Starts a run and waits for its end, as the one reader of what it prints."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with child([sys.executable, "-c", _RUN, str(note)], os.environ, **pipes) as process:
        process.wait()


def is_there(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux")
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_ends_with_its_command(end: signal.Signals, tmp_path: Path) -> None:
    note = tmp_path / "process"
    started = multiprocessing.get_context("fork").Process(target=command, args=(note,))
    started.start()
    deadline = time.monotonic() + 60
    while not (note.is_file() and note.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run = int(note.read_text())
    assert is_there(run)
    assert started.pid is not None
    os.kill(started.pid, end)
    started.join(30)
    assert started.exitcode
    while is_there(run):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_error_in_the_command_ends_the_run() -> None:
    with (
        pytest.raises(ZeroDivisionError),
        child([sys.executable, "-c", "import time; time.sleep(120)"], os.environ) as process,
    ):
        raise ZeroDivisionError
    assert process.returncode == -signal.SIGTERM


def test_a_server_sets_the_variable_for_its_children_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(parent.PARENT_VARIABLE, str(os.getpid()))
    parent.end_with_parent()
    assert os.environ[parent.PARENT_VARIABLE] == str(os.getpid())
    assert "end with parent" not in [thread.name for thread in threading.enumerate()]
