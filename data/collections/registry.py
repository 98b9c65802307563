"""Every collection that is known: those of the project, then those of installed packages."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from mixseg.data.collections.acdc import ACDC
from mixseg.data.collections.base import Collection
from mixseg.data.collections.la_crop import LeftAtrium
from mixseg.data.collections.wbc import WhiteBloodCells

#: Group of the entry points: an installed package names its :class:`Collection` there.
ENTRY_POINTS = "mixseg.collections"


@cache
def collections() -> tuple[Collection, ...]:
    """The collections, in the order in which they are asked about a folder."""
    # Imported by name, so that a packed bundle holds them.
    shipped: tuple[Collection, ...] = (ACDC(), LeftAtrium(), WhiteBloodCells())
    return (*shipped, *(point.load()() for point in entry_points(group=ENTRY_POINTS)))
