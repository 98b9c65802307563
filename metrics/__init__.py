"""Per-case overlap, pooled HD95 and ASSD on stitched volumes, and the files that report them."""

from __future__ import annotations

from mixseg.metrics.scores import CaseScore, score_case
from mixseg.metrics.summary import (
    summarize,
)
from mixseg.metrics.surface import (
    average_symmetric_surface_distance,
    dice_coefficient,
    hd95_pooled,
    pooled_hd95_and_assd,
    surface_distances,
    surface_voxels,
    volume_diagonal,
)

__all__ = [
    "CaseScore",
    "average_symmetric_surface_distance",
    "dice_coefficient",
    "hd95_pooled",
    "pooled_hd95_and_assd",
    "score_case",
    "summarize",
    "surface_distances",
    "surface_voxels",
    "volume_diagonal",
]
