"""Where the windows of a sliding-window pass lie: few, evenly spread, fitted to the scan."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class WindowPlan:
    """Equal windows, each axis cut by itself.

    Attributes:
        window: side of a window along each axis, in voxels.
        stride: voxels from one window of an axis to the next; the last one may be closer, its
            end is the scan's. The window's side where one window is enough.
        counts: windows along each axis.
    """

    window: tuple[int, ...]
    stride: tuple[int, ...]
    counts: tuple[int, ...]

    @property
    def overlaps(self) -> tuple[float, ...]:
        """The stride as ``monai.inferers.sliding_window_inference`` takes it.

        MONAI rounds ``window × (1 − overlap)`` down; half a voxel more keeps rounding errors out.
        """
        return tuple(
            max(0.0, 1 - (stride + 0.5) / side)
            for side, stride in zip(self.window, self.stride, strict=True)
        )

    def starts(self, sides: Sequence[int]) -> list[list[int]]:
        """First voxels of the windows along each axis of a scan of these sides."""
        return [
            [min(k * stride, max(0, side - window)) for k in range(count)]
            for side, window, stride, count in zip(
                sides, self.window, self.stride, self.counts, strict=True
            )
        ]


def plan_windows(
    sides: Sequence[int],
    roi_size: Sequence[int],
    overlap: Sequence[float],
    size_divisor: Sequence[int],
    stretch: float,
) -> WindowPlan:
    """The fewest windows that cover a scan, and of these the smallest ones.

    An axis gets one window where ``stretch × roi_size``, rounded down to a multiple of
    ``size_divisor``, reaches from end to end. Otherwise it gets as few windows of that side as
    leave ``overlap`` between neighbors. Their side is then the smallest multiple of
    ``size_divisor``, not below ``roi_size``, for which that number is enough, and they are spread
    evenly: a scan slightly longer than one window is not cut into two that are nearly the same.

    Args:
        sides: of the scan, in voxels.
        roi_size: sides of a window at the least, multiples of ``size_divisor``. A shorter scan
            has to be padded to them.
        overlap: of neighboring windows at the least, as shares of a window's side in [0, 1).
        size_divisor: every side of a window is a multiple of this.
        stretch: sides of a window at the most, in units of ``roi_size``, at least 1.

    Returns:
        The plan, by axis.
    """
    axes = zip(sides, roi_size, overlap, size_divisor, strict=True)
    window, stride, counts = zip(
        *itertools.starmap(_axis, ((*a, stretch) for a in axes)), strict=True
    )
    return WindowPlan(window, stride, counts)


def _axis(
    side: int, roi: int, overlap: float, divisor: int, stretch: float
) -> tuple[int, int, int]:
    """Side of the windows, stride and number of windows along one axis."""
    longest = int(stretch * roi) // divisor * divisor
    whole = max(roi, math.ceil(side / divisor) * divisor)
    if whole <= longest:
        return whole, whole, 1
    gaps = math.ceil((side - longest) / _step(longest, overlap))
    # The longest window itself is enough, so the search ends.
    window = next(
        w for w in range(roi, longest + 1, divisor) if side - w <= gaps * _step(w, overlap)
    )
    return window, math.ceil((side - window) / gaps), gaps + 1


def _step(window: int, overlap: float) -> int:
    """Largest stride that leaves the overlap; a rounding error must not cost a voxel."""
    return max(1, int(window * (1 - overlap) + 1e-6))
