"""The quality that is expected of a prediction, from its own probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def expected_dice(probabilities: NDArray[np.float32], mask: NDArray[np.uint8]) -> float | None:
    """The Dice that a mask would have if its probabilities were right, mean over the classes found.

    Of each class 2 Σ p·m / (Σ p + Σ m), sums over all voxels, p the probability of the class and m
    whether the mask has it: the ratio of the expected intersection and the expected sizes.
    Components that were dropped from the mask lower it, for their probability stays.

    Args:
        probabilities: of each class, (C, *spatial), each voxel's sum 1.
        mask: class of each voxel, (*spatial).

    Returns:
        A number in [0, 1]; None where the mask is empty.
    """
    values = []
    for label in range(1, len(probabilities)):
        p, found = probabilities[label], mask == label
        size = int(found.sum())
        if size:
            total = float(p.sum(dtype=np.float64)) + size
            values.append(2 * float(p[found].sum(dtype=np.float64)) / total)
    return float(np.mean(values)) if values else None
