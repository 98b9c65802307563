"""Cuts through a volume for the pictures: which slice, which way round, and what is where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

_NAMES = ("sagittal", "coronal", "axial")  # by the world axis that the plane is normal to
_STARTS, _ENDS = "RAS", "LPI"


@dataclass(frozen=True)
class Plane:
    """A plane through a volume, shown as radiologists do: R, A and S at the left or the top.

    Attributes:
        name: "axial", "coronal" or "sagittal", by the voxel axis that is nearest to its normal.
        axis: array axis that it cuts.
        index: slice along that axis, in the file's own order from 0.
        size: slices along that axis.
        spacing: size of a pixel to the right and down, in the affine's unit.
        edges: anatomical letters at the left, right, top and bottom, e.g. "RLAP".
        transpose: swap the two axes that remain.
        flip: which of the two axes of the picture, after the swap, run against the array.
    """

    name: str
    axis: int
    index: int
    size: int
    spacing: tuple[float, float]
    edges: str
    transpose: bool
    flip: tuple[bool, bool]

    def cut(self, volume: ArrayLike) -> NDArray[Any]:
        """The plane of ``volume`` (…, *spatial): shape (…, right, down), a copy."""
        array = np.asarray(volume)
        array = np.take(array, self.index, axis=array.ndim - 3 + self.axis)
        array = array.swapaxes(-1, -2) if self.transpose else array
        steps = tuple(slice(None, None, -1 if flipped else 1) for flipped in self.flip)
        return np.ascontiguousarray(array[(..., *steps)])


def shown_channels(image: ArrayLike) -> NDArray[Any]:
    """What pictures show of an image: the colors of a picture, else the mean of the channels.

    Args:
        image: (channels, *spatial). A picture is flat or has one slice; three channels are its
            red, green and blue, a fourth its opacity, which is left out. Channels of volumes are
            no colors, but contrasts.

    Returns:
        Colors (3, *spatial), else (*spatial).
    """
    array = np.asarray(image)
    if len(array) in (3, 4) and (array.ndim == 3 or array.shape[3] == 1):
        return array[:3]
    return array[0] if len(array) == 1 else array.mean(axis=0)


def standard_planes(
    affine: ArrayLike,
    reference: ArrayLike,
    prediction: ArrayLike | None = None,
    *,
    unlabeled: int | None = None,
) -> list[Plane]:
    """Axial, coronal and sagittal plane, each where it shows most of the object.

    Args:
        affine: of the voxels, (4, 4), in RAS+ world coordinates as nibabel and MONAI give it.
            An oblique array is cut along its own axes, which are named by the nearest directions.
        reference: see :func:`select_slice`.
        prediction: see :func:`select_slice`.
        unlabeled: see :func:`select_slice`.

    Returns:
        Three planes, in this order. In an array of axes R, A, S or L, P, S they cut the array axes
        2, 1 and 0.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    sizes = np.linalg.norm(matrix[:3, :3], axis=0)
    directions = nib.orientations.io_orientation(matrix)  # array axis → world axis, sign
    array_axis = {int(world): axis for axis, (world, _) in enumerate(directions)}
    planes = []
    for normal in (2, 1, 0):
        right, down = (world for world in range(3) if world != normal)
        axes = array_axis[right], array_axis[down]
        cut = array_axis[normal]
        planes.append(
            Plane(
                name=_NAMES[normal],
                axis=cut,
                index=select_slice(reference, prediction, unlabeled=unlabeled, axis=cut),
                size=np.shape(reference)[cut],
                spacing=(float(sizes[axes[0]]), float(sizes[axes[1]])),
                edges=_STARTS[right] + _ENDS[right] + _STARTS[down] + _ENDS[down],
                transpose=axes[0] > axes[1],
                flip=(bool(directions[axes[0], 1] > 0), bool(directions[axes[1], 1] > 0)),
            )
        )
    return planes


def select_slice(
    reference: ArrayLike,
    prediction: ArrayLike | None = None,
    *,
    unlabeled: int | None = None,
    axis: int = 2,
) -> int:
    """Choose the slice of a volume that shows most of the object.

    Args:
        reference: integer label map of shape (H, W, D); every non-zero label but `unlabeled` is
            object.
        prediction: label map that decides where the reference has no object.
        unlabeled: label that does not count as object, or None.
        axis: array axis to choose along.

    Returns:
        Index along the axis: the largest object area (the first of equals) in the reference,
        else in the prediction, else the middle slice.

    Raises:
        ValueError: if a map is not three-dimensional or has no slice.
    """
    depth = 0
    others = tuple(other for other in range(3) if other != axis)
    for name, labels in (("reference", reference), ("prediction", prediction)):
        if labels is None:
            continue
        array = np.asarray(labels)
        if array.ndim != 3 or array.shape[axis] == 0:
            raise ValueError(f"{name}: expected the shape (H, W, D) with D > 0, got {array.shape}")
        depth = depth or array.shape[axis]
        area = ((array != 0) & (array != unlabeled)).sum(axis=others)
        if area.any():
            return int(area.argmax())
    return depth // 2
