"""How commands end that do not come to their end."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mixseg.cli.console import clear_errors
from mixseg.cli.lazy import Command
from mixseg.files.atomic import write_atomically


def test_sigterm_ends_a_command_and_leaves_no_half_of_a_file(tmp_path: Path) -> None:
    app = typer.Typer()

    @app.command(cls=Command)
    def write() -> None:
        def slowly(file: object) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)

        write_atomically(tmp_path / "file", slowly)

    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert CliRunner().invoke(app, []).exit_code == 130
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert not list(tmp_path.iterdir())


def test_a_closed_pipe_is_no_error_to_print(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BrokenPipeError), clear_errors():
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")
    assert capsys.readouterr() == ("", "")


def test_a_full_disk_has_its_fix(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), clear_errors():
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "No space left on device; make room, or choose another" in capsys.readouterr().err
