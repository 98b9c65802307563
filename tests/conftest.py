"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Test processes side by side (pytest-xdist) share the cores, and so do the programs that they
# start; read by torch when it is first imported, which is after this.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    side_by_side = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    # pytest-xdist sets the size of a terminal; tables of the commands would be folded at it.
    os.environ.pop("COLUMNS", None)
    os.environ.pop("LINES", None)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // side_by_side)))


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


@pytest.fixture(scope="session")
def wbc_dir() -> Path:
    """The real white blood cells; the test is skipped where they are absent."""
    path = _data_root() / "wbc"
    if not (path / "split.json").is_file():
        pytest.skip(f"real WBC data not found in {path}; set MIXSEG_DATA to use it")
    return path


@pytest.fixture
def spawnable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes that a test spawns import its module, however pytest was started."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1])
