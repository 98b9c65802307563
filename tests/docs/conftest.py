"""The scripts of the documentation site, which are not a package."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "docs" / "tools"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a script of docs/tools by its name."""
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module
