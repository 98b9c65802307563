"""Scribbles by erosion: the partial labels of the ConfKD papers.

Two readings of the papers' sentence, see ``docs/weak_labels.md``. ``kervadec`` is the generator
whose labels they cite (``erosion_strat``; Kervadec et al., "Constrained-CNN losses for weakly
supervised segmentation", Medical Image Analysis 2019); ``literal10`` is the journal's wording,
"iteratively, 10×10 kernel, until the smallest contour".

Both need one distance transform instead of a loop of erosions. Let D be the chessboard distance
of a voxel to the nearest one outside the mask, where everything outside the array is outside the
mask. Then D ≥ m holds exactly where the (2m−1)-wide cube around the voxel lies in the mask.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy import ndimage

from mixseg.transforms.arrays import check_num_classes, class_array
from mixseg.transforms.weak_base import WeakLabel, WeakLabeld, plane_axis

RULES = ("kervadec", "literal10")
KERVADEC_ITERATIONS = 10


def _check_rule(rule: str, max_iterations: int | None) -> None:
    if rule not in RULES:
        raise ValueError(f"rule must be one of {RULES}, got {rule!r}")
    if max_iterations is not None and max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, got {max_iterations}")


def _distance(mask: np.ndarray, axis: int | None) -> np.ndarray:
    """Chessboard distance to outside the mask (0 there); within the planes across ``axis``."""
    pads = [(0, 0) if a == axis else (1, 1) for a in range(mask.ndim)]
    neighbors = np.ones((3,) * mask.ndim, dtype=bool)
    if axis is not None:
        # No neighbors through the plane: all slices in one pass, none sees another.
        neighbors = np.zeros((3,) * mask.ndim, dtype=bool)
        neighbors[tuple(1 if a == axis else slice(None) for a in range(mask.ndim))] = True
    distance = ndimage.distance_transform_cdt(np.pad(mask, pads), metric=neighbors)
    return distance[tuple(slice(before, -before or None) for before, _ in pads)]


def _kervadec(distance: np.ndarray, max_iterations: int, axis: int | None) -> np.ndarray:
    """Cores by the 3×3 rule; k iterations leave D > k.

    The largest k that leaves something is k* = min(max_iterations, max D − 1), and the core is
    D ≥ k* + 1 = min(max_iterations + 1, max D). Where k* = 0 this is D ≥ 1, the mask itself.
    """
    plane = tuple(a for a in range(distance.ndim) if a != axis)
    deepest = distance.max(axis=plane, keepdims=True)
    return distance >= np.clip(deepest, 1, max_iterations + 1)


def _square_fits(distance: np.ndarray, steps: int) -> np.ndarray:
    """What ``steps`` erosions with a 10-wide cube leave, from the chessboard distance.

    SciPy centers an even-sized element of width w at index w/2, so one erosion keeps p if
    [p−5, p+4] lies in the mask and n keep it if [p−5n, p+4n] does, a cube of width w = 9n+1.
    For odd w = 2m−1 that is D ≥ m at its center p − n/2. For even w = 2m it is the union of the
    2^d cubes of width 2m−1 around c and c+1 on each axis, where c = p − (n+1)/2.
    """
    width = 9 * steps + 1
    fits = distance >= (width + 1) // 2
    if width % 2 == 0:
        shifts = product((slice(None, -1), slice(1, None)), repeat=fits.ndim)
        fits = np.logical_and.reduce([fits[shift] for shift in shifts])
    offset = (steps + 1) // 2
    core = np.zeros(distance.shape, dtype=bool)
    # A cube that belongs to a p before `offset`, or to a center past the last p, leaves the array.
    centers = tuple(slice(0, size - offset) for size in distance.shape)
    core[(slice(offset, None),) * core.ndim] = fits[centers]
    return core


def _literal10(distance: np.ndarray, max_iterations: int | None) -> np.ndarray:
    """Core of one unit by the 10×10 rule.

    A largest cube of width W in the mask has W = 2·max D − 1 or 2·max D, and n steps leave
    something if and only if 9n + 1 ≤ W: the larger reading is tried first.
    """
    deepest = int(distance.max(initial=0))
    for steps in sorted({(2 * deepest - 1) // 9, (2 * deepest - 2) // 9}, reverse=True):
        steps = steps if max_iterations is None else min(steps, max_iterations)
        if steps < 1:
            break
        core = _square_fits(distance, steps)
        if core.any():
            return core
    return distance > 0


def _core(mask: np.ndarray, rule: str, max_iterations: int | None, axis: int | None) -> np.ndarray:
    """Cores of a mask that is cropped to its bounding box; one per plane across ``axis``."""
    distance = _distance(mask, axis)
    if rule == "kervadec":
        return _kervadec(distance, max_iterations or KERVADEC_ITERATIONS, axis)
    if axis is None:
        return _literal10(distance, max_iterations)
    planes = np.moveaxis(distance, axis, 0)
    return np.stack([_literal10(plane, max_iterations) for plane in planes], axis=axis)


def erode_to_core(
    mask: np.ndarray, rule: str = "kervadec", max_iterations: int | None = None
) -> np.ndarray:
    """The core of one mask, bit-equal to the loop of ``scipy.ndimage.binary_erosion``.

    ``kervadec``: the largest k ≤ ``max_iterations`` for which k erosions with the full 3×3 (in 3D
    3×3×3) element leave a voxel. ``literal10``: erosions with a 10×10 (10×10×10) element as long
    as a voxel is left, at most ``max_iterations``. A mask that even one erosion would empty is
    returned as it is. Outside the array is background.

    Args:
        mask: boolean, (H, W) or (H, W, D), eroded in all its axes.
        rule: ``"kervadec"`` or ``"literal10"``.
        max_iterations: None for the rule's own: 10 for ``kervadec``, no limit for ``literal10``.

    Returns:
        Boolean array of the same shape, a subset of ``mask``; empty only if ``mask`` is.

    Raises:
        ValueError: the mask is not 2D or 3D, the rule is unknown, or ``max_iterations`` < 1.

    Examples:
        A square of 5 survives two erosions by 3×3, as its center:

        >>> mask = np.zeros((7, 7), dtype=bool)
        >>> mask[1:6, 1:6] = True
        >>> np.argwhere(erode_to_core(mask)).tolist()
        [[3, 3]]
        >>> int(erode_to_core(mask, max_iterations=1).sum())  # once: 3×3 are left
        9
    """
    _check_rule(rule, max_iterations)
    mask = np.asarray(mask, dtype=bool)
    plane_axis(mask.ndim, None)
    core = np.zeros(mask.shape, dtype=bool)
    if mask.any():
        box = ndimage.find_objects(mask.astype(np.uint8))[0]
        core[box] = _core(mask[box], rule, max_iterations, None)
    return core


def scribble_by_erosion(
    label: np.ndarray,
    num_classes: int,
    rule: str = "kervadec",
    max_iterations: int | None = None,
    slice_axis: int | None = -1,
) -> np.ndarray:
    """Erode every foreground class of a full label into a scribble.

    Args:
        label: integers, (H, W) or (H, W, D), 0…C−1 and C for unlabeled.
        num_classes: C, background included.
        rule: see :func:`erode_to_core`.
        max_iterations: see :func:`erode_to_core`.
        slice_axis: the axis across which 2D slices are eroded, each by itself; None erodes in 3D.
            2D labels are eroded in 2D.

    Returns:
        uint8 array of the same shape: the class on its cores, C (unlabeled) elsewhere. A slice
        without a class holds nothing of it.

    Raises:
        ValueError: see :func:`erode_to_core`; or a value is fractional or outside 0…C.

    Examples:
        >>> label = np.zeros((5, 7), dtype=np.uint8)
        >>> label[:, :5] = 1  # 5×5, whose center survives two erosions
        >>> print(scribble_by_erosion(label, num_classes=2))
        [[2 2 2 2 2 2 2]
         [2 2 2 2 2 2 2]
         [2 2 1 2 2 2 2]
         [2 2 2 2 2 2 2]
         [2 2 2 2 2 2 2]]
    """
    _check_rule(rule, max_iterations)
    check_num_classes(num_classes)
    classes = class_array(label, num_classes, "label")
    axis = plane_axis(classes.ndim, slice_axis)
    out = np.full(classes.shape, num_classes, dtype=np.uint8)
    boxes = ndimage.find_objects(classes, max_label=num_classes - 1)
    for value, box in enumerate(boxes, start=1):
        if box is not None:
            out[box][_core(classes[box] == value, rule, max_iterations, axis)] = value
    return out


class ScribbleByErosion(WeakLabel):
    """Scribbles by erosion, one per foreground class and slice; see :func:`scribble_by_erosion`.

    Args:
        num_classes: C, background included.
        rule: ``"kervadec"`` or ``"literal10"``.
        max_iterations: None for the rule's own: 10 for ``kervadec``, no limit for ``literal10``.
        slice_axis: the spatial axis across which slices are eroded; None erodes in 3D.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        rule: str = "kervadec",
        max_iterations: int | None = None,
        slice_axis: int | None = -1,
    ) -> None:
        super().__init__(num_classes, slice_axis)
        _check_rule(rule, max_iterations)
        self.rule = rule
        self.max_iterations = max_iterations

    def annotate(self, label: np.ndarray) -> np.ndarray:
        """See :func:`scribble_by_erosion`."""
        return scribble_by_erosion(
            label, self.num_classes, self.rule, self.max_iterations, self.slice_axis
        )


class ScribbleByErosiond(WeakLabeld):
    """Dictionary form of :class:`ScribbleByErosion`, with its arguments."""

    array = ScribbleByErosion
