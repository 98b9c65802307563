"""How a bundle is run: ``monai.bundle`` in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from io import FileIO
from itertools import takewhile
from pathlib import Path
from threading import Lock, Thread
from typing import IO, Any

from fire.parser import DefaultParseValue

from mixseg.apps.bundle.children import child

#: A line of a log: when, whose, how important, what. The bundles' logging.conf writes it so.
_RECORD = re.compile(
    rb"^[\d-]+ [\d:,]+ - (?:(?P<name>\S+) - )?(?P<level>[A-Z]+) - (?P<text>.*)$", re.DOTALL
)
#: A warning of Python: where it was raised, and what it says.
_WARNING = re.compile(rb"^(?P<file>.+?):\d+: \w*Warning: (?P<text>.*)$", re.DOTALL)


def bundle_command(run_id: str, files: Sequence[Path], settings: Mapping[str, object]) -> list[str]:
    """The ``monai.bundle`` command line that runs ``run_id`` of the configuration ``files``."""
    paths = ",".join(f"'{path.as_posix()}'" for path in files)
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", f"[{paths}]"]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    return command


def mixseg_command(verb: str, place: Path, options: Mapping[str, object]) -> str:
    """A command of mixseg as a line to type; an option of several values is repeated."""
    words = ["mixseg", verb, str(place)]
    for name, value in options.items():
        for one in value if isinstance(value, tuple) else (value,):
            words += [f"--{name.replace('_', '-')}", str(one)]
    return shown(words)


def word_of(value: object) -> str:
    """The word from which Python Fire, which reads MONAI's command line, makes a value again."""
    text = str(value)
    is_text = isinstance(value, (str, Path))
    return repr(text) if is_text and DefaultParseValue(text) != text else text


def shown(command: Sequence[str]) -> str:
    """The command as a line to type: arguments that a shell would take apart are quoted."""
    return " ".join(f'"{word}"' if set(word) & set("'[ ") else word for word in command)


def run_bundle(
    run_id: str,
    files: Sequence[Path],
    settings: Mapping[str, object],
    log: Path,
    *,
    verbose: bool = False,
    quiet: bool = False,
) -> None:
    """Run a bundle to its end.

    Args:
        log: file that all it prints is added to.
        verbose: show all of it, too.

    Raises:
        ChildProcessError: it failed; says why, and where the log is.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    begin = log.stat().st_size if log.is_file() else 0
    words = {name: word_of(value) for name, value in settings.items()}
    command = bundle_command(run_id, files, words)
    if status := run_logged(command, log, verbose=verbose, quiet=quiet):
        with log.open("rb") as file:
            file.seek(begin)
            reason = _reason(file.read().decode("utf-8", "replace"))
        raise ChildProcessError(
            f"{reason or f'the process ended with status {status}'}\n  its whole output is in {log}"
        )


def _reason(text: str) -> str:
    """What a failed run says last: the cause that it names as its error, or its last line."""
    _, found, cause = text.rpartition("\nerror: ")
    # What was logged meanwhile comes through another pipe, and may stand behind it.
    own = takewhile(lambda line: not _RECORD.match(line.encode()), cause.splitlines())
    return "\n".join(own).strip() if found else (text.strip().splitlines() or [""])[-1]


def run_logged(
    command: Sequence[str], log: Path, *, verbose: bool = False, quiet: bool = False
) -> int:
    """Run a command, show its progress as it comes and add all that it prints to ``log``.

    Args:
        log: the file; of a progress bar it keeps the last state.
        verbose: show all that is printed. By default that is what is printed beside a log, the
            progress bars, what this package logs, and warnings, each once.

    Returns:
        Its exit status.

    Raises:
        BrokenPipeError: nobody reads the screen any more; the command was ended.
        OSError: the log, or the screen, cannot be written; likewise.
    """
    # The log keeps what a run leaves out on a screen.
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", "MIXSEG_VERBOSE": "1"}
    variables["PYTHONUTF8"] = "1"  # MONAI reads configurations in the encoding of the locale
    if sys.stderr.isatty():
        size = shutil.get_terminal_size()
        variables |= {"COLUMNS": str(size.columns), "LINES": str(size.lines), "FORCE_COLOR": "1"}
    else:
        # Where the bar cannot be drawn over itself, a line every half minute is enough.
        variables.setdefault("TQDM_MININTERVAL", "30")
    with (
        log.open("ab", buffering=0) as file,
        child(
            command, variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        lock, said = Lock(), set[bytes]()
        out, err = (None, None) if quiet else (sys.stdout, sys.stderr)
        streams = [
            _Stream(process, process.stdout, out, file, lock, said, verbose),
            _Stream(process, process.stderr, err, file, lock, said, verbose, error=True),
        ]
        for stream in streams:
            stream.start()
        for stream in streams:
            stream.join()
        status = process.wait()
        for stream in streams:
            if stream.failure is not None:
                raise stream.failure
        return status


class _Stream(Thread):
    """One of the two outputs of a process, on its way to the log and to the screen."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        source: IO[bytes],
        screen: Any,
        log: FileIO,
        lock: Lock,
        said: set[bytes],
        everything: bool,
        error: bool = False,
    ) -> None:
        super().__init__(daemon=True)
        self._process, self._source, self._screen, self._log = process, source, screen, log
        self._lock, self._said = lock, said
        self._everything, self._error = everything, error
        self._line = b""
        self._drawn = 0  # bytes of the unfinished line, a progress bar, that are on the screen
        #: Why the log or the screen cannot be written.
        self.failure: OSError | None = None

    def run(self) -> None:
        """Read to the end; end the process where what it prints cannot be passed on."""
        try:
            self._pass_on()
        except OSError as error:
            self.failure = error
            self._process.terminate()
            # It would wait for a reader of its last words.
            while self._source.read(4096):
                pass

    def _pass_on(self) -> None:
        while chunk := self._source.read(4096):
            *lines, self._line = (self._line + chunk).split(b"\n")
            for line in lines:
                self._finish(line)
            if b"\r" in self._line.rstrip(b"\r"):
                self._draw(self._line)
        if self._line:
            self._finish(self._line)

    def _finish(self, line: bytes) -> None:
        with self._lock:
            # Of a progress bar, the log keeps the last state.
            try:
                self._log.write(line.rstrip(b"\r").rsplit(b"\r", 1)[-1] + b"\n")
            except OSError as error:
                raise OSError(error.errno, error.strerror, self._log.name) from error
        if self._drawn or b"\r" in line.rstrip(b"\r"):
            self._draw(line + b"\n")
            self._drawn = 0
        elif self._everything:
            self._show(line + b"\n")
        elif (text := self._worth_saying(line)) is not None and text not in self._said:
            self._said.add(text)
            self._show(text + b"\n")

    def _worth_saying(self, line: bytes) -> bytes | None:
        if record := _RECORD.match(line):
            if not (record["name"] or b"").startswith(b"mixseg"):
                return None
            return (b"note: " if record["level"] == b"WARNING" else b"") + record["text"]
        if not self._error:
            return line if line.strip() else None
        warning = _WARNING.match(line)
        if warning is None or (
            b"site-packages" in warning["file"] and b"mixseg" not in warning["file"]
        ):
            return None
        return b"note: " + warning["text"]

    def _draw(self, line: bytes) -> None:
        self._show(line[self._drawn :])
        self._drawn = len(line)

    def _show(self, text: bytes) -> None:
        if self._screen is None:
            return
        with self._lock:
            if (screen := getattr(self._screen, "buffer", None)) is not None:
                screen.write(text)
                screen.flush()
            else:  # that of a notebook, which takes text alone
                self._screen.write(text.decode("utf-8", "replace"))
                self._screen.flush()
