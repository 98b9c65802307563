"""What MONAI Label loads from its app folder; `mixseg label` copies it there."""

from __future__ import annotations

from mixseg.apps.label.app import MixedSupervisionApp

__all__ = ["MixedSupervisionApp"]
