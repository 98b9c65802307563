"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def _data_root() -> Path:
    """The folder with the real collections: MIXSEG_DATA, or shared/data beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("MIXSEG_DATA", default))


@pytest.fixture(scope="session")
def acdc_dir() -> Path:
    """The real ACDC folder; the test is skipped where it is absent."""
    path = _data_root() / "acdc"
    if not (path / "split.json").is_file():
        pytest.skip(f"real ACDC data not found in {path}; set MIXSEG_DATA to use it")
    return path


@pytest.fixture(scope="session")
def la_dir() -> Path:
    """The real left-atrium folder; the test is skipped where it is absent."""
    path = _data_root() / "la"
    if not (path / "split.json").is_file():
        pytest.skip(f"real LA data not found in {path}; set MIXSEG_DATA to use it")
    return path


@pytest.fixture
def spawnable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes that a test spawns import its module, however pytest was started."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1])
