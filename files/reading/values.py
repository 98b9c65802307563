"""The values of label maps."""

from __future__ import annotations

import numpy as np

#: Distance from a whole number that counts as rounding.
ROUNDING = 1e-3
#: Voxels that are counted at a time: counting needs eight bytes for each.
_PART = 1 << 22
#: Widest range of values that is counted in a table; wider ones are sorted.
_TABLE = 1 << 16


def count_values(data: np.ndarray) -> tuple[dict[int, int], float | None]:
    """Voxels of each value, in rising order; what is off a whole number by rounding counts as it.

    Args:
        data: a label map of any shape and real type.

    Returns:
        Number of voxels of each whole value, and one value that is not a whole number (NaN and
        infinity are none), or None where there is no such value.
    """
    counts: dict[int, int] = {}
    # In the order of memory: no copy of the whole.
    flat = data.ravel(order="K")
    for start in range(0, flat.size, _PART):
        part = flat[start : start + _PART]
        if np.issubdtype(part.dtype, np.inexact):
            with np.errstate(invalid="ignore"):
                whole = np.rint(part)
                odd = ~(np.abs(part - whole) <= ROUNDING)
            if odd.any():
                return {}, float(part[odd][0])
            part = whole
        for value, number in _count(part):
            counts[value] = counts.get(value, 0) + number
    return dict(sorted(counts.items())), None


def _count(part: np.ndarray) -> list[tuple[int, int]]:
    low, high = int(part.min()), int(part.max())
    if high - low < _TABLE:
        numbers = np.bincount(part.astype(np.int64) - low)
        return [(int(i) + low, int(numbers[i])) for i in np.flatnonzero(numbers)]
    values, numbers = np.unique(part, return_counts=True)
    return [(int(v), int(n)) for v, n in zip(values, numbers, strict=True)]
