"""The ground: images read and written one way, their geometry, files written whole, provenance."""

from __future__ import annotations
