"""Transforms for mixed supervision: label conventions, weak labels, augmentation of batches."""

from __future__ import annotations

from mixseg.transforms.augmentation import BatchAugmentation
from mixseg.transforms.components import (
    KeepMostProbableComponent,
    KeepMostProbableComponentd,
)
from mixseg.transforms.cropping import CropToCenterd
from mixseg.transforms.free_negatives import (
    FreeNegatives,
    FreeNegativesd,
    calibrate_radius,
    free_negatives,
    negative_radius,
)
from mixseg.transforms.images import (
    AddDepth,
    AddDepthd,
    LoadVolumed,
    RescaleIntensity,
    RescaleIntensityd,
    StackNeighbors,
    StackNeighborsd,
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
from mixseg.transforms.preprocessing import SlicePreprocessing, VolumePreprocessing
from mixseg.transforms.resampling import ResizeLabel, ResizeToSized, ResizeToSpacingd
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
    "BatchAugmentation",
    "BoxLabel",
    "BoxLabeld",
    "CentroidLabel",
    "CentroidLabeld",
    "ConvertUnlabeled",
    "ConvertUnlabeledd",
    "CropToCenterd",
    "EllipseLabel",
    "EllipseLabeld",
    "FreeNegatives",
    "FreeNegativesd",
    "KeepMostProbableComponent",
    "KeepMostProbableComponentd",
    "LoadVolumed",
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
    "ResizeLabel",
    "ResizeToSized",
    "ResizeToSpacingd",
    "ScribbleByErosion",
    "ScribbleByErosiond",
    "SelectClasses",
    "SelectClassesd",
    "SlicePreprocessing",
    "StackNeighbors",
    "StackNeighborsd",
    "SupervisionFromLabeld",
    "VolumePreprocessing",
    "calibrate_radius",
    "erode_to_core",
    "free_negatives",
    "label_kind",
    "negative_radius",
    "scribble_by_erosion",
]
