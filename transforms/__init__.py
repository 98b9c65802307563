"""Transforms for mixed supervision: label conventions, scribbles by erosion, other weak labels."""

from __future__ import annotations

from mixseg.transforms.images import (
    AddDepth,
    AddDepthd,
    RescaleIntensity,
    RescaleIntensityd,
)
from mixseg.transforms.labels import (
    ConvertUnlabeled,
    ConvertUnlabeledd,
    MaskUnannotatedClasses,
    MaskUnannotatedClassesd,
    SelectClasses,
    SelectClassesd,
    SupervisionFromLabeld,
    label_kind,
)
from mixseg.transforms.noisy_labels import (
    NoisyInstance,
    NoisyLabel,
    NoisyLabeld,
)
from mixseg.transforms.point_labels import (
    PointLabel,
    PointLabeld,
    RandPointLabel,
    RandPointLabeld,
)
from mixseg.transforms.scribbles import (
    ScribbleByErosion,
    ScribbleByErosiond,
    erode_to_core,
    scribble_by_erosion,
)
from mixseg.transforms.weak_labels import (
    BoxLabel,
    BoxLabeld,
    CentroidLabel,
    CentroidLabeld,
    EllipseLabel,
    EllipseLabeld,
)

__all__ = [
    "AddDepth",
    "AddDepthd",
    "BoxLabel",
    "BoxLabeld",
    "CentroidLabel",
    "CentroidLabeld",
    "ConvertUnlabeled",
    "ConvertUnlabeledd",
    "EllipseLabel",
    "EllipseLabeld",
    "MaskUnannotatedClasses",
    "MaskUnannotatedClassesd",
    "NoisyInstance",
    "NoisyLabel",
    "NoisyLabeld",
    "PointLabel",
    "PointLabeld",
    "RandPointLabel",
    "RandPointLabeld",
    "RescaleIntensity",
    "RescaleIntensityd",
    "ScribbleByErosion",
    "ScribbleByErosiond",
    "SelectClasses",
    "SelectClassesd",
    "SupervisionFromLabeld",
    "erode_to_core",
    "label_kind",
    "scribble_by_erosion",
]
