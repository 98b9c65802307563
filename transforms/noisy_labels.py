"""Noisy masks made on purpose: coarse shapes in place of outlines, and objects that were missed.

Every voxel is labeled, some of them wrongly. What is drawn depends on the seed, the case and the
slice only, so that a noisy data set can be made again. ``docs/simulated_labels.md`` states each
rule.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from monai.config.type_definitions import KeysCollection, NdarrayOrTensor
from scipy import ndimage

from mixseg.transforms.arrays import OfEachKey, channel_first_classes, like
from mixseg.transforms.weak_base import WeakLabel, plane_axis, regions

#: The shapes; ``mixed`` draws one of them for each instance.
KINDS = ("ellipse", "stroke", "box")
#: Largest turn of a shape at a level of 1, in radians.
_TURN = math.pi / 4
#: Keeps voxels on a shape's edge inside it, whatever the rounding.
_EDGE = 1 + 1e-9


@dataclass(frozen=True)
class NoisyInstance:
    """Random values drawn for a slice as a whole.

    Attributes:
        missing: everything becomes background, as of an annotator who saw nothing.
        kind: shape of its regions, one of :data:`KINDS`.
        level: size of the errors in position, size and turn, 0 up to the transform's
            ``distortion``.
    """

    missing: bool
    kind: str
    level: float


class NoisyLabel(WeakLabel):
    """Full masks replaced by coarse shapes, and some of them by background.

    An instance is a slice, or a 2D picture. A region is one class in it, its holes filled, so that
    a nucleus inside a cell does not count against the cell. Undistorted, it becomes

    - ``ellipse``: the solid ellipse of its second moments, (x−μ)ᵀ Σ⁻¹ (x−μ) ≤ 4, where Σ is the
      covariance of the voxels' centers plus I/12, a voxel's own;
    - ``stroke``: a line along that ellipse's main axis, from one of its ends to the other, as wide
      as ``stroke_width`` times the minor axis (at least a voxel), with round ends;
    - ``box``: its bounding box, upright.

    Each instance has a level s = ``distortion``·U(0, 1), each of its regions draws t₁…t₅ from
    U(−1, 1): the center moves by s·tᵢ half-axes along both axes, the half-axes grow by factors
    (1 + s)^tᵢ, and ellipse and stroke turn by s·t₅·45°. Shapes are painted from the largest to the
    smallest, so that one inside another stays visible; of equal ones the higher class wins. With
    probability ``share_missing``, independently for each instance, all of it becomes background:
    the number of such instances is binomial. An exact share would make a mask depend on which
    other cases there are.

    The draws depend on ``seed``, case, slice, class and object: neither on the order of the calls
    nor on workers, and those of one purpose not on the settings of another. So the same instances
    are missing whatever their shape, and more distortion moves a shape further in the same
    direction.

    Args:
        num_classes: C, background included.
        kind: one of :data:`KINDS`, or ``mixed``: each instance draws one of them.
        distortion: largest level of an instance; 0 for none, 1 moves a center by up to a half-axis.
        share_missing: probability that an instance becomes background, in [0, 1].
        seed: a non-negative number; another one is another annotator.
        stroke_width: width of a stroke as a share of the minor axis, in (0, 1].
        slice_axis: the spatial axis across which a volume is cut into slices.
        per_object: a shape for every connected component (8 neighbors) of a class.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        kind: str = "mixed",
        distortion: float = 0.5,
        share_missing: float = 0.4,
        seed: int = 0,
        *,
        stroke_width: float = 0.5,
        slice_axis: int = -1,
        per_object: bool = False,
    ) -> None:
        super().__init__(num_classes, slice_axis)
        if slice_axis is None:
            raise ValueError("slice_axis must be a number: noisy masks are drawn slice by slice")
        if kind not in (*KINDS, "mixed"):
            raise ValueError(f"kind must be one of {', '.join(KINDS)} or mixed, got {kind!r}")
        if not 0 <= distortion < math.inf:
            raise ValueError(f"distortion must not be negative, and finite, got {distortion}")
        if not 0 <= share_missing <= 1:
            raise ValueError(f"share_missing must be in [0, 1], got {share_missing}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        if not 0 < stroke_width <= 1:
            raise ValueError(f"stroke_width must be in (0, 1], got {stroke_width}")
        self.kind = kind
        self.distortion = float(distortion)
        self.share_missing = float(share_missing)
        self.seed = int(seed)
        self.stroke_width = float(stroke_width)
        self.per_object = per_object

    def __call__(self, label: NdarrayOrTensor, case_id: str = "") -> NdarrayOrTensor:
        """Draw one case's noisy masks.

        Args:
            label: (1, H, W) or (1, H, W, D); 0…C−1 and C for unlabeled, which stays unlabeled.
            case_id: name of the case; cases of one name have the same draws.

        Returns:
            The same container, shape and metadata; uint8, values 0…C.

        Raises:
            ValueError: another shape, a value that is fractional or outside 0…C, or a volume
                without the axis ``slice_axis``.
        """
        array = channel_first_classes(label, self.num_classes)
        return like(self._distort(array, case_id)[None], label)

    def annotate(self, label: np.ndarray) -> np.ndarray:
        """The noisy masks of a case without a name; (H, W) or (H, W, D), uint8."""
        return self._distort(label, "")

    def instance(self, case_id: str, slice_index: int = 0) -> NoisyInstance:
        """Random values drawn for a slice of a case.

        Args:
            case_id: name of the case.
            slice_index: along ``slice_axis``; 0 for a 2D picture.
        """
        missing, level, kind = self._draws(case_id, slice_index).random(3)
        drawn = KINDS[int(kind * len(KINDS))] if self.kind == "mixed" else self.kind
        return NoisyInstance(bool(missing < self.share_missing), drawn, self.distortion * level)

    def _draws(self, case_id: str, *place: int) -> np.random.Generator:
        name = hashlib.blake2b(case_id.encode(), digest_size=16).digest()
        words = [int(word) for word in np.frombuffer(name, dtype="<u4")]
        seeds = np.random.SeedSequence([self.seed, *words], spawn_key=place)
        return np.random.Generator(np.random.PCG64(seeds))

    def _distort(self, label: np.ndarray, case_id: str) -> np.ndarray:
        axis = plane_axis(label.ndim, self.slice_axis)
        planes = label[..., None] if axis is None else np.moveaxis(label, axis, -1)
        out = np.zeros_like(planes)
        for z in range(planes.shape[-1]):
            self._draw_plane(planes[..., z], out[..., z], case_id, z)
        out[planes == self.num_classes] = self.num_classes
        return out[..., 0] if axis is None else np.moveaxis(out, -1, axis)

    def _draw_plane(self, plane: np.ndarray, out: np.ndarray, case_id: str, z: int) -> None:
        instance = self.instance(case_id, z)
        if instance.missing:
            return
        shapes = []
        objects = dict.fromkeys(range(self.num_classes), 0)
        for value, index, mask in regions(
            plane, self.num_classes, slice_axis=None, per_object=self.per_object
        ):
            draws = self._draws(case_id, z, value, objects[value])
            objects[value] += 1
            box = [(i.start, i.stop) for i in index if isinstance(i, slice)]
            shape = self._shape(mask, np.array(box), plane.shape, instance, draws)
            shapes.append((-int(shape.sum()), value, shape))
        for _, value, shape in sorted(shapes, key=lambda entry: entry[:2]):
            out[shape] = value

    def _shape(
        self,
        mask: np.ndarray,
        box: np.ndarray,
        size: tuple[int, ...],
        instance: NoisyInstance,
        draws: np.random.Generator,
    ) -> np.ndarray:
        """The shape of a region, given by its mask in its bounding box, in a plane of ``size``."""
        if instance.kind == "box":
            center, half, angle = (box.sum(axis=1) - 1) / 2, np.diff(box, axis=1)[:, 0] / 2, 0.0
        else:
            center, half, angle = _moments(mask)
            center = center + box[:, 0]
        level, t = instance.level, draws.uniform(-1, 1, 5)
        center = center + _axes(angle) @ (level * t[:2] * half)
        half = half * (1 + level) ** t[2:4]
        if instance.kind != "box":
            angle += level * t[4] * _TURN
        rows, columns = np.ogrid[: size[0], : size[1]]
        (a, b), (c, d) = _axes(angle)
        along = (rows - center[0]) * a + (columns - center[1]) * c
        across = (rows - center[0]) * b + (columns - center[1]) * d
        if instance.kind == "box":
            inside = (abs(along) <= half[0] * _EDGE) & (abs(across) <= half[1] * _EDGE)
        elif instance.kind == "ellipse":
            inside = (along / half[0]) ** 2 + (across / half[1]) ** 2 <= _EDGE
        else:
            radius = max(self.stroke_width * half[1], 0.5)
            beyond = np.maximum(abs(along) - max(half[0] - radius, 0), 0)
            inside = beyond**2 + across**2 <= radius**2 * _EDGE
        return np.asarray(inside)


def _moments(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Center, half-axes (the longer one first) and angle of a mask's ellipse of equal moments.

    In closed form, so that signs and ties of the axes are the same on every machine.
    """
    coords = np.argwhere(ndimage.binary_fill_holes(mask))
    centered = coords - coords.mean(axis=0)
    (xx, xy), (_, yy) = centered.T @ centered / len(coords) + np.eye(2) / 12
    spread = math.hypot((xx - yy) / 2, xy)
    variances = np.array([(xx + yy) / 2 + spread, (xx + yy) / 2 - spread])
    return coords.mean(axis=0), 2 * np.sqrt(variances), math.atan2(2 * xy, xx - yy) / 2


def _axes(angle: float) -> np.ndarray:
    """Unit vectors along and across, as columns, of an axis at ``angle`` from the rows' axis."""
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


class NoisyLabeld(OfEachKey):
    """Dictionary form of :class:`NoisyLabel`, for the items that say that they are to be distorted.

    Args:
        keys: the labels' keys.
        flag_key: the item's key for whether its labels are distorted, set by
            :func:`mixseg.data.select_cases`; an item without it is passed on. None distorts all.
        case_key: the item's key for the name of its case.
        allow_missing_keys: pass on items that lack one of the keys.
        **arguments: of :class:`NoisyLabel`.
    """

    array = NoisyLabel
    backend = NoisyLabel.backend

    def __init__(
        self,
        keys: KeysCollection = "label",
        *,
        flag_key: str | None = "distort",
        case_key: str = "case_id",
        allow_missing_keys: bool = False,
        **arguments: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys=allow_missing_keys, **arguments)
        self.flag_key = flag_key
        self.case_key = case_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Distort the label of each key; see :meth:`NoisyLabel.__call__`.

        Raises:
            ValueError: an item to be distorted has no name of its case.
        """
        d = dict(data)
        if self.flag_key is not None and not d.get(self.flag_key, False):
            return d
        if self.case_key not in d:
            raise ValueError(
                f"an item to be distorted has no '{self.case_key}', which its noise is drawn from; "
                f"it has {sorted(map(str, d))}"
            )
        for key in self.key_iterator(d):
            d[key] = self.transform(d[key], str(d[self.case_key]))
        return d
