"""One writer a folder, across processes and threads."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mixseg.files.lock import LOCK_NAME, claim

_HOLDER = """
import sys, filelock
held = filelock.FileLock(sys.argv[1])
held.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    folder.mkdir(parents=True)
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(folder / LOCK_NAME)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=r"run' is in use: .* give this training another"):
            claim(folder, "this training")
        holder.kill()
        holder.wait()
        with claim(folder, "this training"):
            pass
    finally:
        holder.kill()
        holder.communicate()


def test_a_thread_of_the_same_process_is_refused_and_the_holder_is_not(tmp_path: Path) -> None:
    refused: list[str] = []

    def other() -> None:
        try:
            claim(tmp_path, "this prediction")
        except ValueError as error:
            refused.append(str(error))

    with claim(tmp_path, "this training"), claim(tmp_path, "this training"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert "give this prediction another folder" in refused[0]
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert len(refused) == 1


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("content")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / LOCK_NAME).symlink_to(precious)
    with pytest.raises(OSError, match="symbolic link"):
        claim(folder, "this training")
    assert precious.read_text() == "content"
