"""Public data sets that the project can prepare."""

from mixseg.data.collections.base import Collection, Prepared
from mixseg.data.collections.registry import ENTRY_POINTS, collections

__all__ = ["ENTRY_POINTS", "Collection", "Prepared", "collections"]
