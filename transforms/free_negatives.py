"""Background that scribbles without background strokes give for free: far away from every seed.

Partial labels that name foreground alone leave "everything is foreground" as an optimum. An
annotator who marks each structure has said something about the background too: what lies farther
from every seed than the structures reach. How far they reach is measured on the full masks of the
same training set.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from monai.config.type_definitions import KeysCollection, NdarrayOrTensor
from monai.transforms.transform import Transform
from monai.utils.enums import TransformBackends
from scipy import ndimage

from mixseg.transforms.arrays import (
    OfEachKey,
    channel_first_classes,
    check_num_classes,
    class_array,
    like,
)
from mixseg.transforms.labels import class_numbers, label_kind
from mixseg.transforms.scribbles import scribble_by_erosion
from mixseg.transforms.weak_base import check_radius, plane_axis

logger = logging.getLogger(__name__)

DISTANCES = ("slice", "volume")


def _check_distance(distance: str) -> str:
    if distance not in DISTANCES:
        raise ValueError(f"distance must be one of {DISTANCES}, got {distance!r}")
    return distance


def _to_nearest(seeds: np.ndarray) -> np.ndarray:
    """Euclidean distance, in voxels, to the nearest seed; infinite where there is none."""
    if not seeds.any():
        return np.full(seeds.shape, np.inf)
    return ndimage.distance_transform_edt(~seeds)


def _seed_distance(seeds: np.ndarray, axis: int | None, distance: str) -> np.ndarray:
    """Distance to the nearest seed of the slice across ``axis``, or of the volume."""
    if axis is None or distance == "volume":
        return _to_nearest(seeds)
    slices = [_to_nearest(plane) for plane in np.moveaxis(seeds, axis, 0)]
    return np.stack(slices, axis=axis)


def free_negatives(
    label: np.ndarray,
    num_classes: int,
    radius: float,
    *,
    complete: bool = False,
    slice_axis: int | None = -1,
    distance: Literal["slice", "volume"] = "slice",
    beside_background: bool = False,
) -> np.ndarray:
    """Make unlabeled voxels background that are farther than ``radius`` from every seed.

    Seeds are the voxels of any foreground class; with several classes the nearest seed of any of
    them counts. A slice (2D labels and ``slice_axis=None``: the whole label) that holds no seed
    at all stays unlabeled, for nobody may have looked at it, unless ``complete`` says otherwise.
    Labeled voxels keep their label.

    Args:
        label: integers, (H, W) or (H, W, D), 0…C−1 and C for unlabeled.
        num_classes: C, background included.
        radius: in voxels of the label's grid, whatever their size in mm; a voxel at exactly this
            distance stays unlabeled.
        complete: every slice that holds a class bears a seed of it (``"complete"`` of a datalist's
            entry): slices without any seed are background.
        slice_axis: the axis across which 2D slices were annotated, each by itself, the same as for
            :func:`~mixseg.transforms.scribbles.scribble_by_erosion`; None: annotated in 3D.
        distance: ``"slice"`` measures within each slice, ``"volume"`` in 3D, where a seed also
            counts for the slices beside its own. 2D labels and ``slice_axis=None`` know no
            difference.
        beside_background: also fill labels that hold background already. By default they are
            returned as they are: their annotator drew the background that is meant to be learned.

    Returns:
        uint8 array of the same shape, values 0…C.

    Raises:
        ValueError: the label is neither 2D nor 3D, has no such axis, or holds a value that is
            fractional or outside 0…C; ``radius`` is negative; an unknown ``distance``.

    Examples:
        >>> label = np.array([[2, 2, 1, 2, 2, 2], [2, 2, 2, 2, 2, 2]])
        >>> print(free_negatives(label, num_classes=2, radius=1.5))
        [[0 2 1 2 0 0]
         [0 2 2 2 0 0]]
    """
    _check_distance(distance)
    radius = check_radius(radius)
    classes = class_array(label, check_num_classes(num_classes), "label")
    axis = plane_axis(classes.ndim, slice_axis)
    if not beside_background and (classes == 0).any():
        return classes
    seeds = (classes > 0) & (classes < num_classes)
    far = _seed_distance(seeds, axis, distance) > radius
    plane = tuple(a for a in range(classes.ndim) if a != axis)
    far = np.where(seeds.any(axis=plane, keepdims=True), far, complete)
    classes[far & (classes == num_classes)] = 0
    return classes


def calibrate_radius(
    masks: Iterable[np.ndarray],
    num_classes: int,
    rule: str = "kervadec",
    max_iterations: int | None = None,
    slice_axis: int | None = -1,
    distance: Literal["slice", "volume"] = "slice",
) -> float:
    """The largest distance of a foreground voxel from the seeds that erosion makes of its mask.

    With at least this radius :func:`free_negatives` makes no foreground voxel of these masks
    background.

    Args:
        masks: full label maps, integers, (H, W) or (H, W, D), 0…C−1, in the grid in which seeds
            are made and negatives placed.
        num_classes: C, background included.
        rule: see :func:`~mixseg.transforms.scribbles.scribble_by_erosion`, as the next two.
        max_iterations: likewise.
        slice_axis: likewise.
        distance: see :func:`free_negatives`.

    Returns:
        The distance in voxels; 0 where no mask holds foreground.

    Raises:
        ValueError: a value is fractional or outside 0…C−1, or an argument is outside its range.

    Examples:
        A square of 5 keeps its center; its corners are 2√2 away:

        >>> mask = np.pad(np.ones((5, 5), dtype=np.uint8), 3)
        >>> round(calibrate_radius([mask], num_classes=2), 3)
        2.828
    """
    _check_distance(distance)
    largest = 0.0
    for mask in masks:
        classes = class_array(mask, check_num_classes(num_classes), "mask")
        if (classes == num_classes).any():
            raise ValueError("a mask holds unlabeled voxels; only full masks show how far to go")
        axis = plane_axis(classes.ndim, slice_axis)
        foreground = classes > 0
        if not foreground.any():
            continue
        # Seeds lie in the mask, so that its bounding box is all there is to measure in.
        box = ndimage.find_objects(foreground.view(np.uint8))[0]
        seeds = scribble_by_erosion(classes[box], num_classes, rule, max_iterations, slice_axis)
        away = _seed_distance(seeds < num_classes, axis, distance)
        largest = max(largest, float(away[foreground[box]].max()))
    return largest


def negative_radius(
    data: Sequence[Mapping[str, Any]],
    transform: Callable[[Mapping[str, Any]], Mapping[Hashable, Any]],
    radius: float | Literal["auto"] | None = "auto",
    *,
    num_classes: int,
    rule: str = "kervadec",
    max_iterations: int | None = None,
    slice_axis: int | None = -1,
    distance: Literal["slice", "volume"] = "slice",
    margin: float = 0.0,
    key: str = "label",
) -> float | None:
    """The radius of a training set's free negatives, from its full masks or checked against them.

    Only items of supervision ``"full"`` are looked at (or of none, where the label turns out to be
    full); masks of ``"partial"`` items stay closed even if they are to be eroded. Erosion stands in
    for the annotator: hand-drawn seeds of full cases do not exist, so what is measured are the
    seeds of ``rule``, whatever the weak cases bear.

    Args:
        data: the training items (:func:`mixseg.data.select_cases`).
        transform: from an item to one whose ``key`` holds the label (1, *spatial) in the grid in
            which seeds are made and negatives placed, before any later resizing, and with the
            classes that are trained.
        radius: ``"auto"`` for the largest distance, of any full mask, of a foreground voxel from
            the seeds of the same mask (:func:`calibrate_radius`), and ``margin`` more; a number,
            in voxels of that grid, to be checked against it; None for no free negatives.
        num_classes: C of the transformed label, background included.
        rule: see :func:`calibrate_radius`.
        max_iterations: see :func:`calibrate_radius`.
        slice_axis: see :func:`calibrate_radius`.
        distance: see :func:`free_negatives`.
        margin: share of the largest distance that ``"auto"`` adds. The largest of n distances is
            exceeded by one further case in n + 1 if masks and weak cases are alike, by more if
            weak cases have sparser seeds.
        key: the label's key.

    Returns:
        The radius in voxels; that of ``"auto"`` is rounded up to a tenth, so that the number that
        the log shows is accepted as ``radius``. None where there are no free negatives:
        ``radius`` is None, or ``"auto"`` without a full mask.

    Raises:
        ValueError: ``radius`` is neither a number from 0 on, ``"auto"`` nor None; ``margin`` is
            negative; or a full mask has foreground farther than ``radius`` from its seeds. The
            message names the case.
    """
    if not margin >= 0:
        raise ValueError(f"margin must not be negative, got {margin}")
    if radius is None:
        return None
    if radius != "auto":
        if isinstance(radius, str):
            raise ValueError(f"radius must be a number of voxels, 'auto' or null, got {radius!r}")
        radius = check_radius(radius)
    measured: dict[str, float] = {}
    for item in data:
        # Masks made wrong on purpose may be called full, too.
        if item.get("supervision") not in ("full", None) or item.get("distort"):
            continue
        if item.get(key) is None:
            continue
        mask = channel_first_classes(transform(item)[key], num_classes)
        # A mask of some of the classes does not show where the others are.
        if not (mask == num_classes).any():
            away = calibrate_radius([mask], num_classes, rule, max_iterations, slice_axis, distance)
            measured[str(item.get("case_id", len(measured)))] = away
    if not measured:
        if radius == "auto":
            logger.info("free negatives: off, for there is no full mask to find the radius from")
            return None
        logger.info("free negatives: background beyond R = %g voxels of every seed", radius)
        return radius
    farthest = max(measured, key=lambda case: measured[case])
    largest, count = measured[farthest], len(measured)
    # Distances are square roots of whole numbers, so that rounding up is exact.
    enough = math.ceil(largest * 10) / 10
    if radius == "auto":
        radius = math.ceil(largest * (1 + margin) * 10) / 10
        logger.info(
            "free negatives: background beyond R = %.1f voxels of every seed, %sthe largest "
            "distance on %d full mask%s (%s)",
            radius,
            f"{1 + margin:g} times " if margin else "",
            count,
            "s" if count > 1 else "",
            farthest,
        )
        return radius
    if radius < largest:
        raise ValueError(
            f"radius is {radius:g} voxels, but the full mask of case '{farthest}' reaches "
            f"{largest:.1f} voxels away from its seeds: free negatives would be wrong there; use "
            f"'auto' or at least {enough:.1f}"
        )
    logger.info(
        "free negatives: background beyond R = %g voxels of every seed; the largest distance on "
        "%d full mask%s is %.1f",
        radius,
        count,
        "s" if count > 1 else "",
        largest,
    )
    return radius


class FreeNegatives(Transform):
    """Background far away from every seed; see :func:`free_negatives`.

    Args:
        num_classes: C, background included.
        radius: in voxels of the label's grid (:func:`negative_radius`); None passes labels on.
        slice_axis: the spatial axis across which slices were annotated; None: in 3D.
        distance: ``"slice"`` or ``"volume"``.
        beside_background: also fill labels that hold background already.

    Raises:
        ValueError: an argument is outside its range.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012 (declared so by MONAI)

    def __init__(
        self,
        num_classes: int,
        radius: float | None,
        slice_axis: int | None = -1,
        distance: Literal["slice", "volume"] = "slice",
        beside_background: bool = False,
    ) -> None:
        self.num_classes = check_num_classes(num_classes)
        self.radius = None if radius is None else check_radius(radius)
        self.slice_axis = slice_axis
        _check_distance(distance)
        self.distance = distance
        self.beside_background = beside_background

    def __call__(self, label: NdarrayOrTensor, complete: bool = False) -> NdarrayOrTensor:
        """Fill one label.

        Args:
            label: (1, H, W) or (1, H, W, D); 0…C−1 and C for unlabeled.
            complete: see :func:`free_negatives`.

        Returns:
            The same container, shape and metadata; uint8, values 0…C.

        Raises:
            ValueError: another shape, a value that is fractional or outside 0…C, or a 3D label
                without the axis ``slice_axis``.
        """
        array = channel_first_classes(label, self.num_classes)
        if self.radius is not None:
            array = free_negatives(
                array,
                self.num_classes,
                self.radius,
                complete=complete,
                slice_axis=self.slice_axis,
                distance=self.distance,
                beside_background=self.beside_background,
            )
        return like(array[None], label)


class FreeNegativesd(OfEachKey):
    """Dictionary form of :class:`FreeNegatives`, for the partly labeled items.

    It follows what makes the seeds (:class:`~mixseg.transforms.scribbles.ScribbleByErosiond`), in
    the same grid and with the same ``slice_axis``.

    An item is changed only if its supervision is in ``when``. Its ``complete``
    (:func:`mixseg.data.select_cases`: declared by the datalist, or implied for a mask that is
    eroded slice by slice) says whether slices without a seed are background. Where the item has
    ``annotated_classes``, and one of ``classes`` is not among them, it is passed on as it is: that
    class may be anywhere, however far from the seeds.

    Args:
        keys: the labels' keys.
        classes: the foreground classes that are trained, in the numbers of ``annotated_classes``,
            which are the file's; entries may be lists, as for
            :class:`~mixseg.transforms.labels.SelectClasses`. None: 1…C−1, nothing was renumbered.
        supervision_key: the item's key for its supervision; where it is absent or None, the
            label's values decide (:func:`~mixseg.transforms.labels.label_kind`).
        when: the kinds of supervision whose labels are filled. Items of kind ``"full"`` hold, in
            such a key, what was eroded from their full mask, and count as complete.
        allow_missing_keys: pass on items that lack a key.
        **arguments: of :class:`FreeNegatives`.
    """

    array = FreeNegatives
    backend = FreeNegatives.backend

    def __init__(
        self,
        keys: KeysCollection = "label",
        *,
        classes: Sequence[int | Sequence[int]] | None = None,
        supervision_key: str = "supervision",
        when: Sequence[str] = ("partial",),
        allow_missing_keys: bool = False,
        **arguments: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys=allow_missing_keys, **arguments)
        groups = range(1, self.transform.num_classes) if classes is None else classes
        self.classes = class_numbers(groups)
        self.supervision_key = supervision_key
        self.when = (when,) if isinstance(when, str) else tuple(when)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Fill the label of each key; see :meth:`FreeNegatives.__call__`."""
        d = dict(data)
        supervision, annotated = d.get(self.supervision_key), d.get("annotated_classes")
        if self.transform.radius is None:
            return d
        if supervision is not None and supervision not in self.when:
            return d
        if annotated is not None and not self.classes <= set(annotated):
            return d
        complete = bool(d.get("complete")) or supervision == "full"
        for key in self.key_iterator(d):
            kind = label_kind(d[key], self.transform.num_classes)
            if kind == "partial" and (supervision or kind) in self.when:
                d[key] = self.transform(d[key], complete)
        return d
