"""Segmentation with mixed supervision: a few full masks, many scribbles.

``mixseg.Bundle`` trains, evaluates and predicts; the packages below it hold the parts.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixseg.bundle import Bundle, CaseResult

    __version__: str

__all__ = ["Bundle", "CaseResult", "__version__"]

#: Public name → module, imported when the name is first used: ``import mixseg`` imports no PyTorch.
_PLACES = {"Bundle": "mixseg.bundle", "CaseResult": "mixseg.bundle"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("mixseg")
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'mixseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
