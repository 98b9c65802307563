"""The ``mixseg`` command; every command is a function in its own module, registered in main."""

from __future__ import annotations

__all__: list[str] = []
