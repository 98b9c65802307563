"""Per-case overlap, pooled HD95 and ASSD on stitched volumes, and the files that report them."""

from __future__ import annotations

from mixseg.metrics.scores import CaseScore, read_metrics_csv, score_case, write_metrics_csv
from mixseg.metrics.summary import (
    markdown_table,
    mean_and_sd,
    score_table,
    summarize,
    write_summary,
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
    "markdown_table",
    "mean_and_sd",
    "pooled_hd95_and_assd",
    "read_metrics_csv",
    "score_case",
    "score_table",
    "summarize",
    "surface_distances",
    "surface_voxels",
    "volume_diagonal",
    "write_metrics_csv",
    "write_summary",
]
