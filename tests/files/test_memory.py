"""How much memory there is left: of the machine, of the container, of systems that do not say."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest

from mixseg.files import memory
from mixseg.files.memory import free_memory
from mixseg.files.reading.volume import checked_size


def test_free_memory_lies_below_what_is_built_in() -> None:
    assert 0 < free_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_limit_of_a_container_counts_without_cached_files(tmp_path: Path) -> None:
    assert memory._container_memory(tmp_path) == math.inf  # no cgroup v2
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._container_memory(tmp_path) == math.inf
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 400\ninactive_file 250\n")
    assert memory._container_memory(tmp_path) == 550


def test_images_are_opened_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: neither /proc nor sysconf."""

    def absent(*arguments: Any, **options: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", absent)
    monkeypatch.setattr(memory, "optional_import", lambda name: (None, False))
    monkeypatch.delattr(os, "sysconf")
    assert free_memory() == 0
    assert checked_size((4, 3, 2), 2) == 48
