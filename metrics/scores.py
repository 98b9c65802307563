"""Scores of one case as rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mixseg.metrics.surface import (
    dice_coefficient,
    pooled_hd95_and_assd,
    surface_distances,
    volume_diagonal,
)


@dataclass(frozen=True)
class CaseScore:
    """One row of `metrics.csv`: a case, a branch and a foreground class.

    Attributes:
        case_id: name of the case.
        branch: "main", or "teacher", "student" or "ensemble".
        class_name: name of the foreground class; column `class` of the file.
        dice: Dice coefficient in [0, 1].
        hd95_vox: 95th percentile of the pooled two-sided surface distances, in voxels.
        assd_vox: mean of the pooled two-sided surface distances, in voxels.
        hd95_mm: as `hd95_vox` in mm; None where the spacing is unknown.
        assd_mm: as `assd_vox` in mm; None where the spacing is unknown.
        empty: which mask lacks the class: "", "prediction", "reference" or "both".
        reference_voxels: voxels of the class in the reference.
        prediction_voxels: voxels of the class in the prediction, unlabeled voxels left out.
        iou: intersection over union, in [0, 1]; None in rows of files that lack it.
        precision: share of the prediction that is right, in [0, 1]; None as for `iou`.
        recall: share of the reference that is found, in [0, 1]; None as for `iou`.
    """

    case_id: str
    branch: str
    class_name: str
    dice: float
    hd95_vox: float
    assd_vox: float
    hd95_mm: float | None
    assd_mm: float | None
    empty: str
    reference_voxels: int
    prediction_voxels: int
    iou: float | None = None
    precision: float | None = None
    recall: float | None = None


def score_case(
    prediction: ArrayLike,
    reference: ArrayLike,
    *,
    case_id: str,
    branch: str,
    class_names: Sequence[str],
    num_classes: int,
    spacing: Sequence[float] | None = None,
) -> list[CaseScore]:
    """Score one label map against its reference, one row per foreground class.

    Voxels that the reference leaves unlabeled are taken out of both masks, for the Dice and for
    the surfaces. Where exactly one mask is empty, Dice, IoU, precision and recall are 0 and both
    distances are the diagonal √Σ(nᵢ·sᵢ)² of the array; where both are, the former are 1 and the
    distances are 0. A volume of one slice, as a picture is read, has its distances in the plane:
    across it every voxel would lie on the surface.

    Args:
        prediction: integer label map of 0…C−1, shape (H, W) or (H, W, D).
        reference: integer label map of 0…C−1 and C for unlabeled, same shape.
        case_id: name of the case.
        branch: name of the branch that predicted.
        class_names: C names, background first.
        num_classes: C, background included.
        spacing: voxel size in mm per array axis, or None where it is unknown: the mm values are
            then None.

    Returns:
        C − 1 rows in the order of the classes.

    Raises:
        ValueError: if the shapes differ, the arrays are not 2D or 3D integer maps, a value lies
            outside its range, the number of names is not C, or the spacing does not fit.

    Examples:
        >>> import numpy as np
        >>> reference = np.array([[0, 1, 1, 2]])  # the last voxel is unlabeled
        >>> (row,) = score_case(
        ...     np.array([[0, 0, 1, 1]]), reference, case_id="a", branch="student",
        ...     class_names=["background", "LV"], num_classes=2,
        ... )
        >>> row.class_name, round(row.dice, 4), row.reference_voxels  # 2 · 1 / (1 + 2)
        ('LV', 0.6667, 2)
    """
    if len(class_names) != num_classes:
        raise ValueError(f"{case_id}: {num_classes} classes, but the names are {list(class_names)}")
    predicted = _label_map(prediction, f"{case_id}: prediction", num_classes - 1)
    truth = _label_map(reference, f"{case_id}: reference", num_classes)
    if predicted.shape != truth.shape:
        raise ValueError(
            f"{case_id}: prediction and reference differ in shape: "
            f"{predicted.shape} and {truth.shape}"
        )
    known = truth != num_classes
    # Over the axis of a single slice there is nothing to measure.
    flat = truth.shape.index(1) if truth.ndim == 3 and 1 in truth.shape else None
    if spacing is not None and flat is not None and len(spacing) == 3:
        spacing = [size for axis, size in enumerate(spacing) if axis != flat]
    rows = []
    for label in range(1, num_classes):
        first, second = (predicted == label) & known, truth == label
        counts = int(np.count_nonzero(first)), int(np.count_nonzero(second))
        empty = {(False, True): "prediction", (True, False): "reference", (False, False): "both"}
        missing = empty.get((counts[0] > 0, counts[1] > 0), "")
        plane = (first, second) if flat is None else (first.squeeze(flat), second.squeeze(flat))
        voxels, millimeters = _distances(*plane, missing, spacing)
        iou, precision, recall = _overlap(int(np.count_nonzero(first & second)), *counts)
        rows.append(
            CaseScore(
                case_id=case_id,
                branch=branch,
                class_name=class_names[label],
                dice=dice_coefficient(first, second),
                hd95_vox=voxels[0],
                assd_vox=voxels[1],
                hd95_mm=None if millimeters is None else millimeters[0],
                assd_mm=None if millimeters is None else millimeters[1],
                empty=missing,
                reference_voxels=counts[1],
                prediction_voxels=counts[0],
                iou=iou,
                precision=precision,
                recall=recall,
            )
        )
    return rows


def _label_map(labels: ArrayLike, name: str, highest: int) -> NDArray[Any]:
    array = np.asarray(labels)
    if array.dtype.kind not in "iu" or array.ndim not in (2, 3) or array.size == 0:
        raise ValueError(
            f"{name}: expected a 2D or 3D integer label map, got {array.dtype} of shape "
            f"{array.shape}"
        )
    if array.min() < 0 or array.max() > highest:
        raise ValueError(
            f"{name}: labels must lie in 0…{highest}, found {array.min()}…{array.max()}"
        )
    return array


def _overlap(shared: int, predicted: int, true: int) -> tuple[float, float, float]:
    """IoU, precision and recall out of the voxels of both masks, of either, with the empty rule."""
    if not predicted or not true:
        value = float(predicted == true)
        return value, value, value
    return shared / (predicted + true - shared), shared / predicted, shared / true


def _distances(
    first: NDArray[np.bool_],
    second: NDArray[np.bool_],
    missing: str,
    spacing: Sequence[float] | None,
) -> tuple[tuple[float, float], tuple[float, float] | None]:
    """(HD95, ASSD) in voxels, and in mm if the spacing is known, with the rule for empty masks."""
    diagonal = volume_diagonal(first.shape, spacing)  # also checks the spacing of empty cases
    if missing == "both":
        return (0.0, 0.0), None if spacing is None else (0.0, 0.0)
    if missing:
        in_voxels = volume_diagonal(first.shape)
        return (in_voxels, in_voxels), None if spacing is None else (diagonal, diagonal)
    voxels = pooled_hd95_and_assd(surface_distances(first, second))
    if spacing is None:
        return voxels, None
    if len(set(spacing)) == 1:
        # One search serves both units: an isotropic spacing only scales every distance.
        return voxels, (voxels[0] * float(spacing[0]), voxels[1] * float(spacing[0]))
    return voxels, pooled_hd95_and_assd(surface_distances(first, second, spacing))
