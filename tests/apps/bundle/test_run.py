"""What a run shows on the screen, and what its log keeps."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixseg.apps.bundle import run as module
from mixseg.apps.bundle.run import mixseg_command, run_bundle, run_logged, word_of

PROGRAM = r"""
import sys
print("2026-11-30 10:00:00,000 - INFO - ---")
print("2026-11-30 10:00:00,000 - ignite.engine.Engine - INFO - Epoch[1] Complete")
print("2026-11-30 10:00:00,000 - mixseg.handlers - INFO - weights of epoch 1")
print("2026-11-30 10:00:00,000 - mixseg.data - WARNING - few masks")
print("2026-11-30 10:00:00,000 - mixseg.data - WARNING - few masks")
print("| a table |")
sys.stderr.write("/env/site-packages/monai/x.py:3: UserWarning: eval mode\n")
sys.stderr.write("/env/site-packages/mixseg/data/x.py:3: UserWarning: two scans are equal\n")
sys.stderr.write("\r50%\r100%\nTraceback (most recent call last):\n")
sys.stderr.write("RuntimeError: Failed\n\nerror: no mask\n  in a.nii.gz\n")
sys.exit(3)
"""


def test_progress_and_what_concerns_the_user_are_shown(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert run_logged([sys.executable, "-c", PROGRAM], tmp_path / "log") == 3
    shown = capfdbinary.readouterr()
    assert shown.out == b"weights of epoch 1\nnote: few masks\n| a table |\n"
    assert shown.err == b"note: two scans are equal\n\r50%\r100%\n"
    log = (tmp_path / "log").read_text()
    for text in ("Epoch[1] Complete", "eval mode", "100%\n", "Traceback", "  in a.nii.gz"):
        assert text in log
    assert "50%" not in log


def test_verbose_shows_everything(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert run_logged([sys.executable, "-c", PROGRAM], tmp_path / "log", verbose=True) == 3
    shown = capfdbinary.readouterr()
    assert shown.out.count(b"\n") == 6
    assert b"eval mode" in shown.err
    assert b"Traceback" in shown.err


def test_a_failure_is_told_by_its_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "bundle_command", lambda *_: [sys.executable, "-c", PROGRAM])
    log = tmp_path / "run" / "log"
    with pytest.raises(ChildProcessError) as failed:
        run_bundle("training", [], {}, log)
    assert str(failed.value) == f"no mask\n  in a.nii.gz\n  its whole output is in {log}"


def test_a_command_is_shown_as_a_shell_reads_it() -> None:
    options = {"crop_size": [1, 2], "config": (Path("a.yaml"), Path("b c.yaml")), "lr": 1}
    assert mixseg_command("train", Path("runs/x"), options) == (
        'mixseg train runs/x --crop-size "[1, 2]" --config a.yaml --config "b c.yaml" --lr 1'
    )


@pytest.mark.parametrize("value", ["12", "a,b", "None", "plain/path.pt", [1, 2], None, 0.5, True])
def test_values_arrive_as_they_were_given(value: object) -> None:
    program = "import fire, sys; fire.Fire(lambda x: print(repr(x)))"
    done = subprocess.run(
        [sys.executable, "-c", program, "--x", word_of(value)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == repr(value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_log_that_cannot_be_written_ends_the_run() -> None:
    program = "while True: print('line ' * 1000, flush=True)"
    with pytest.raises(OSError, match="No space left") as raised:
        run_logged([sys.executable, "-c", program], Path("/dev/full"), quiet=True)
    assert raised.value.filename == "/dev/full"


def test_a_closed_screen_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = "while True: print('a line', flush=True)"
    reading, writing = os.pipe()
    os.close(reading)
    with io.TextIOWrapper(io.FileIO(writing, "w")) as screen:  # type: ignore[type-var]
        monkeypatch.setattr(sys, "stdout", screen)
        with pytest.raises(BrokenPipeError):
            run_logged([sys.executable, "-c", program], tmp_path / "log")
    assert (tmp_path / "log").read_text().startswith("a line\n")
