"""Points as weak labels: an annotator who clicks into every structure.

A few voxels of each region carry its class, the rest is unlabeled, and no voxel is labeled
wrongly. ``docs/simulated_labels.md`` states the rule.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from monai.transforms.transform import Randomizable

from mixseg.transforms.weak_base import CoreLabel, WeakLabeld, ball, check_radius


class PointLabel(CoreLabel):
    """Random points (or discs) on each region: an annotator who clicks into every structure.

    An annotation is made once and kept. The points therefore depend on ``seed`` and on the label's
    values only: they are the same in every epoch, worker, order and process, and a dataset may
    cache them. :class:`RandPointLabel` draws anew at each call.

    Args:
        num_classes: C, background included.
        points: points per region, drawn without replacement; a smaller region is taken whole.
        radius: in voxels; the voxels of the region within this Euclidean distance of a point are
            labeled too (a disc, in 3D a ball).
        slice_axis: the spatial axis across which slices are annotated; None annotates in 3D.
        per_object: ``points`` on every connected component (8- or 26-neighbors) of a class.
        include_background: points on the background as well.
        seed: a non-negative number; another one is another annotator.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        points: int = 1,
        radius: float = 0,
        slice_axis: int | None = -1,
        per_object: bool = False,
        include_background: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(num_classes, slice_axis, per_object)
        if points < 1:
            raise ValueError(f"points must be at least 1, got {points}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.points = int(points)
        self.radius = check_radius(radius)
        self.include_background = include_background
        self.seed = int(seed)

    def annotate(self, label: np.ndarray) -> np.ndarray:
        """Class numbers on the points, C elsewhere."""
        content = zlib.crc32(np.ascontiguousarray(label).tobytes())
        # Not an attribute: MONAI fills its caches from several threads with one transform.
        draws = np.random.default_rng([self.seed, content, *label.shape])

        def mark(mask: np.ndarray) -> np.ndarray:
            coords = np.argwhere(mask)
            chosen = draws.choice(len(coords), min(self.points, len(coords)), replace=False)
            return ball(mask, coords[chosen], self.radius)

        return self.paint(label, mark)


class RandPointLabel(PointLabel, Randomizable):
    """:class:`PointLabel` with fresh points at each call, as augmentation; MONAI's random state.

    The arguments are those of :class:`PointLabel`, without a seed.
    """

    def __init__(
        self,
        num_classes: int,
        points: int = 1,
        radius: float = 0,
        slice_axis: int | None = -1,
        per_object: bool = False,
        include_background: bool = False,
    ) -> None:
        super().__init__(num_classes, points, radius, slice_axis, per_object, include_background)

    def randomize(self, data: Any = None) -> None:
        """Draw the seed of one call's points from ``self.R``."""
        self.seed = int(self.R.randint(2**31))

    def annotate(self, label: np.ndarray) -> np.ndarray:
        """Class numbers on newly drawn points, C elsewhere."""
        self.randomize()
        return super().annotate(label)


class PointLabeld(WeakLabeld):
    """Dictionary form of :class:`PointLabel`, with its arguments."""

    array = PointLabel


class RandPointLabeld(WeakLabeld, Randomizable):
    """Dictionary form of :class:`RandPointLabel`, with its arguments."""

    array = RandPointLabel
    transform: RandPointLabel

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandPointLabeld:
        """Set the random state of the array transform, which makes all draws."""
        super().set_random_state(seed, state)
        self.transform.set_random_state(seed, state)
        return self
