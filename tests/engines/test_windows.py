"""Plans of windows against a search over all sizes and numbers, and by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from mixseg.engines import VolumeInferer
from mixseg.engines.windows import WindowPlan, plan_windows


def searched(side: int, roi: int, overlap: float, divisor: int, stretch: float) -> tuple[int, int]:
    """(number, side) of the windows: of all that cover the axis, the fewest, then the smallest."""
    sizes = [w for w in range(divisor, 40 * divisor, divisor) if roi <= w <= stretch * roi]
    for count in itertools.count(1):
        for window in sizes:
            step = max(1, math.floor(window * (1 - overlap) + 1e-9))
            if window + (count - 1) * step >= side:
                return count, window
    raise AssertionError


@pytest.mark.parametrize(
    ("roi", "overlap", "divisor", "stretch"),
    [
        (112, 0.5, 16, 1.5),
        (80, 0.5, 16, 1.5),
        (48, 0.25, 16, 2.0),
        (32, 0.75, 8, 1.0),
        (7, 0.3, 1, 1.4),
        (4, 0.9, 2, 3.3),
        (1, 0.25, 1, 1.5),
    ],
)
def test_the_plan_is_the_best_of_all(
    roi: int, overlap: float, divisor: int, stretch: float
) -> None:
    for side in range(1, 6 * roi + 3):
        plan = plan_windows((side,), (roi,), (overlap,), (divisor,), stretch)
        assert (plan.counts[0], plan.window[0]) == searched(side, roi, overlap, divisor, stretch)
        starts = plan.starts((side,))[0]
        window = plan.window[0]
        assert starts[0] == 0
        assert len(starts) == len(set(starts)) == plan.counts[0]
        assert starts[-1] + window == max(side, window)
        # Evenly: no gap between two starts is larger than the mean one, rounded up.
        gaps = [b - a for a, b in itertools.pairwise(starts)]
        assert not gaps or max(gaps) == math.ceil((side - window) / len(gaps))
        assert all(gap <= max(1, window * (1 - overlap) + 1e-9) for gap in gaps)


@pytest.mark.parametrize(
    ("sides", "plan"),
    [
        # A left atrium at 0.625 mm. 112 grows to 168 at the most, as a multiple of 16 to 160; 80
        # to 112. 187 voxels: two windows of 128 share more than half of one (2 × 128 − 187 = 69);
        # two of 112 share 37, less than 56. 145 and 88 fit into one of 160 and of 96.
        ((187, 145, 88), WindowPlan((128, 160, 96), (59, 160, 96), (2, 1, 1))),
        # 244 voxels: two of 160 share 76, less than 80. Three of 128 reach 128 + 2 × 64 = 256.
        ((244, 160, 88), WindowPlan((128, 160, 96), (58, 160, 96), (3, 1, 1))),
        # Smaller than the crop: one window of its size.
        ((60, 112, 20), WindowPlan((112, 112, 80), (112, 112, 80), (1, 1, 1))),
    ],
)
def test_windows_of_the_left_atrium(sides: tuple[int, ...], plan: WindowPlan) -> None:
    assert plan_windows(sides, (112, 112, 80), (0.5,) * 3, (16,) * 3, 1.5) == plan


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.25, 0.5, 0.7, 0.9])
def test_the_network_is_given_the_windows_of_the_plan(overlap: float) -> None:
    inferer = VolumeInferer((16, 16), overlap=overlap, size_divisor=8)
    for side in range(16, 150, 7):
        plan = plan_windows((side, 16), (16, 16), (overlap,) * 2, (8, 8), 1.5)
        found: list[int] = []

        def network(windows: Tensor, found: list[int] = found) -> Tensor:
            found.extend(windows[:, 0, 0, 8].int().tolist())
            return windows

        # Each voxel holds its place along the first axis; a window that is longer is padded.
        places = torch.arange(side).expand(16, side).T[None, None].float()
        inferer(places, network)
        if plan.window[0] <= side:
            assert sorted(found) == plan.starts((side, 16))[0]
        else:
            assert found == [0]
