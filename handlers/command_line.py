"""Where bundles of earlier releases look for :func:`mixseg.configuration.start_command`."""

from __future__ import annotations

from mixseg.configuration.start import start_command

__all__ = ["start_command"]
