"""Overlap and surface distances of two binary masks, with MedPy's values at a fraction of its time.

The surface of a mask is the set of its voxels with at least one face neighbor outside the mask.
Distances run between voxel centers, from every surface voxel of one mask to the nearest surface
voxel of the other, and the two directions are **pooled** before a percentile or a mean is taken.
`docs/metrics.md` sets these definitions beside MONAI's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import distance_transform_edt, find_objects
from scipy.spatial import cKDTree

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
Spacing = float | Sequence[float] | None

# Queries made before a method of search is chosen (see `_nearest`).
_PROBES = 256


def dice_coefficient(prediction: ArrayLike, reference: ArrayLike) -> float:
    """Dice coefficient 2·|A ∩ B| / (|A| + |B|) of two masks.

    Args:
        prediction: array of any shape; every non-zero voxel belongs to the mask.
        reference: array of the same shape.

    Returns:
        Overlap in [0, 1]; 1 if both masks are empty.

    Raises:
        ValueError: if the shapes differ.

    Examples:
        >>> dice_coefficient([1, 1, 0], [0, 1, 1])  # 2 · 1 / (2 + 2)
        0.5
        >>> dice_coefficient([0, 0], [0, 0])
        1.0
    """
    first, second = _mask_pair(prediction, reference)
    total = np.count_nonzero(first) + np.count_nonzero(second)
    return 1.0 if total == 0 else float(2 * np.count_nonzero(first & second) / total)


def volume_diagonal(shape: Sequence[int], spacing: Spacing = None) -> float:
    """Diagonal √Σ(nᵢ·sᵢ)² of a volume of nᵢ voxels of size sᵢ: the distance of a missed object.

    Args:
        shape: voxels per axis.
        spacing: voxel size per axis in mm, one number for all axes, or None for voxels (1).

    Returns:
        Length in mm, or in voxels without spacing.

    Raises:
        ValueError: if the spacing does not fit the number of axes or is not positive.

    Examples:
        >>> volume_diagonal((3, 4))
        5.0
        >>> volume_diagonal((3, 4), spacing=(4.0, 4.0))
        20.0
    """
    sizes = _spacing_vector(spacing, len(shape))
    return float(np.sqrt(np.sum((np.asarray(shape, dtype=np.float64) * sizes) ** 2)))


def surface_voxels(mask: ArrayLike) -> BoolArray:
    """Border voxels of a mask: the mask without its erosion by the face-neighbor element.

    Equal to MedPy's ``mask ^ binary_erosion(mask, generate_binary_structure(ndim, 1))``. Outside
    the array counts as background, so object voxels on the array's border are surface.

    Args:
        mask: array with at least one axis; every non-zero voxel belongs to the mask.

    Returns:
        Boolean array of the same shape.

    Raises:
        ValueError: if the mask has no axis.

    Examples:
        >>> print(surface_voxels(np.ones((3, 4))).astype(int))
        [[1 1 1 1]
         [1 0 0 1]
         [1 1 1 1]]
    """
    solid = np.asarray(mask).astype(bool, copy=False)
    if solid.ndim == 0:
        raise ValueError("a mask needs at least one axis, got a single value")
    interior = solid.copy()
    for axis in range(solid.ndim):
        # Views with the axis first: and-ing both neighbors is one erosion along that axis.
        out, source = np.moveaxis(interior, axis, 0), np.moveaxis(solid, axis, 0)
        out[1:] &= source[:-1]
        out[:-1] &= source[1:]
        out[:1] = False
        out[-1:] = False
    return solid & ~interior


def surface_distances(
    prediction: ArrayLike, reference: ArrayLike, spacing: Spacing = None
) -> tuple[FloatArray, FloatArray]:
    """Distance of every surface voxel of each mask to the nearest surface voxel of the other.

    The values are those of MedPy's ``__surface_distances`` with connectivity 1, in the same order
    (row-major over the surface voxels).

    Args:
        prediction: array with at least one axis; every non-zero voxel belongs to the mask.
        reference: array of the same shape.
        spacing: voxel size per axis in mm, in the order of the array's axes; one number serves all
            axes, None measures in voxels.

    Returns:
        Float64 vectors (prediction → reference, reference → prediction), one entry per surface
        voxel of the mask that the distances start from; in mm, or in voxels without spacing.

    Raises:
        ValueError: if the shapes differ, a mask is empty (no distance exists), or the spacing does
            not fit the number of axes or is not positive.

    Examples:
        >>> surface_distances([1, 0, 0, 0], [0, 0, 0, 1], spacing=2.0)
        (array([6.]), array([6.]))
    """
    first, second = _mask_pair(prediction, reference)
    sizes = _spacing_vector(spacing, first.ndim)
    for name, mask in (("prediction", first), ("reference", second)):
        if not mask.any():
            raise ValueError(f"surface distances are undefined: the {name} is empty")
    box = find_objects(np.asarray(first | second).view(np.uint8))[0] if first.ndim else ()
    # Everything outside the joint box is background, which is also what lies outside an array:
    # the crop changes no surface voxel and no distance.
    first_surface, second_surface = surface_voxels(first[box]), surface_voxels(second[box])
    return (
        _nearest(first_surface, second_surface, sizes),
        _nearest(second_surface, first_surface, sizes),
    )


def pooled_hd95_and_assd(distances: tuple[FloatArray, FloatArray]) -> tuple[float, float]:
    """95th percentile (linear interpolation) and mean of both directions of distances together.

    Args:
        distances: the pair returned by `surface_distances`.

    Returns:
        (HD95, ASSD) in the unit of the distances.
    """
    pooled = np.concatenate(distances)
    return float(np.percentile(pooled, 95)), float(pooled.mean())


def hd95_pooled(prediction: ArrayLike, reference: ArrayLike, spacing: Spacing = None) -> float:
    """95th percentile of the pooled two-sided surface distances; equals MedPy's ``hd95``.

    MONAI's ``HausdorffDistanceMetric(percentile=95)`` is another number: the larger of the two
    directed percentiles.

    Args:
        prediction: array with at least one axis; every non-zero voxel belongs to the mask.
        reference: array of the same shape.
        spacing: voxel size per axis in mm, one number for all axes, or None for voxels.

    Returns:
        HD95 in mm, or in voxels without spacing.

    Raises:
        ValueError: as `surface_distances`.

    Examples:
        A stray pixel 10 steps away: 0, 10 and 0 pooled, percentile at 0.1 · 0 + 0.9 · 10.

        >>> round(hd95_pooled([1] + [0] * 9 + [1], [1] + [0] * 10), 6)
        9.0
    """
    return pooled_hd95_and_assd(surface_distances(prediction, reference, spacing))[0]


def average_symmetric_surface_distance(
    prediction: ArrayLike, reference: ArrayLike, spacing: Spacing = None
) -> float:
    """Mean of the pooled two-sided surface distances (Heimann et al., IEEE TMI 2009).

    Every surface voxel of either mask weighs the same. This is ``assd`` of MedPy 0.5; MedPy up to
    0.4 averaged the two directed means, which differs when one surface has more voxels.

    Args:
        prediction: array with at least one axis; every non-zero voxel belongs to the mask.
        reference: array of the same shape.
        spacing: voxel size per axis in mm, one number for all axes, or None for voxels.

    Returns:
        ASSD in mm, or in voxels without spacing.

    Raises:
        ValueError: as `surface_distances`.

    Examples:
        >>> average_symmetric_surface_distance([1, 0, 0, 0], [1, 0, 0, 1])  # mean of 0, 0 and 3
        1.0
    """
    return pooled_hd95_and_assd(surface_distances(prediction, reference, spacing))[1]


def _mask_pair(prediction: ArrayLike, reference: ArrayLike) -> tuple[BoolArray, BoolArray]:
    first = np.asarray(prediction).astype(bool, copy=False)
    second = np.asarray(reference).astype(bool, copy=False)
    if first.shape != second.shape:
        raise ValueError(
            f"prediction and reference differ in shape: {first.shape} and {second.shape}"
        )
    return first, second


def _spacing_vector(spacing: Spacing, ndim: int) -> FloatArray:
    if spacing is None:
        return np.ones(ndim)
    sizes = np.asarray(spacing, dtype=np.float64)
    if sizes.ndim == 0:
        sizes = np.full(ndim, float(sizes))
    if sizes.shape != (ndim,):
        raise ValueError(f"spacing needs one size per axis ({ndim}), got {spacing}")
    if not (np.isfinite(sizes) & (sizes > 0)).all():
        raise ValueError(f"spacing must be finite and positive, got {spacing}")
    return sizes


def _nearest(source: BoolArray, target: BoolArray, sizes: FloatArray) -> FloatArray:
    """Distance of every voxel of `source` to the nearest voxel of `target`, in row-major order.

    Two exact searches: a distance transform costs time per voxel of the box, whatever the masks;
    a k-d tree costs time per query, up to the square of the distance d to the neighbor (a flat
    surface offers about d² almost equally near voxels) but no more than all n targets. A few evenly
    spread queries tell d. The constants are from timings of overlapping, shifted and distant blobs,
    boxes, scattered noise and all-foreground masks.
    """
    queries, points = np.argwhere(source), np.argwhere(target)
    tree = cKDTree(points * sizes, leafsize=32, compact_nodes=False, balanced_tree=False)
    probes = queries[:: -(-len(queries) // _PROBES)] * sizes
    typical = float(tree.query(probes)[0].mean() / sizes.min())
    if len(queries) * (10.0 + min(typical**2, len(points))) > 1.5 * source.size:
        indices: Any = distance_transform_edt(
            ~target, sampling=sizes, return_distances=False, return_indices=True
        )
        nearest = indices[(slice(None), *queries.T)].T
    else:
        nearest = points[tree.query(queries * sizes)[1]]
    # Differences of whole voxels first, so that distances in voxels are exact square roots.
    return np.asarray(np.sqrt((((nearest - queries) * sizes) ** 2).sum(axis=1)))
