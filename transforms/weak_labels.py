"""Weak labels that stand in for other ways to annotate: centroids, ellipses and boxes.

Centroids and ellipses are partial labels: a part of each region carries its class, the rest is
unlabeled, and no voxel is labeled wrongly. A box is a noisy label: every voxel is labeled, some
of them wrongly. ``docs/simulated_labels.md`` states each rule.
"""

from __future__ import annotations

import numpy as np

from mixseg.transforms.weak_base import (
    CoreLabel,
    WeakLabel,
    WeakLabeld,
    ball,
    check_radius,
    regions,
)


def _nearest(coords: np.ndarray, center_times_n: np.ndarray) -> np.ndarray:
    """The coordinates nearest to a center, given as n times its own; the first one of equals.

    Integers throughout, so that ties are ties on every machine.
    """
    offsets = coords * len(coords) - center_times_n
    return coords[np.argmin((offsets**2).sum(axis=1))]


class CentroidLabel(CoreLabel):
    """A disc (in 3D a ball) at each region's center.

    The disc's center is the region's voxel nearest to its center of mass, the first in array order
    of equals; so it lies inside a ring or a crescent too. The disc is restricted to the region.

    Args:
        num_classes: C, background included.
        radius: in voxels; 0 labels one voxel.
        slice_axis: the spatial axis across which slices are annotated; None annotates in 3D.
        per_object: a disc on every connected component (8- or 26-neighbors) of a class.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        radius: float = 3,
        slice_axis: int | None = -1,
        per_object: bool = False,
    ) -> None:
        super().__init__(num_classes, slice_axis, per_object)
        self.radius = check_radius(radius)

    def annotate(self, label: np.ndarray) -> np.ndarray:
        """Class numbers on the discs, C elsewhere."""
        return self.paint(label, self._disc)

    def _disc(self, mask: np.ndarray) -> np.ndarray:
        coords = np.argwhere(mask)
        return ball(mask, _nearest(coords, coords.sum(axis=0))[None], self.radius)


class EllipseLabel(CoreLabel):
    """Each region's ellipse of equal second moments, shrunk, restricted to the region.

    A solid ellipse in d dimensions whose covariance is Σ holds the x with
    (x−μ)ᵀ Σ⁻¹ (x−μ) ≤ d + 2; the label takes the voxels of the region with
    (x−μ)ᵀ Σ⁻¹ (x−μ) ≤ (d + 2)·shrink². Σ is the covariance of the voxels' centers plus I/12, a
    voxel's own, so that it is never singular. Where the ellipse meets no voxel of the region (a
    ring, a very small ``shrink``), the voxel nearest to μ is labeled.

    Args:
        num_classes: C, background included.
        shrink: factor on the semi-axes, in (0, 1].
        slice_axis: the spatial axis across which slices are annotated; None annotates in 3D.
        per_object: an ellipse on every connected component (8- or 26-neighbors) of a class.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        shrink: float = 0.5,
        slice_axis: int | None = -1,
        per_object: bool = False,
    ) -> None:
        super().__init__(num_classes, slice_axis, per_object)
        if not 0 < shrink <= 1:
            raise ValueError(f"shrink must be in (0, 1], got {shrink}")
        self.shrink = float(shrink)

    def annotate(self, label: np.ndarray) -> np.ndarray:
        """Class numbers on the ellipses, C elsewhere."""
        return self.paint(label, self._ellipse)

    def _ellipse(self, mask: np.ndarray) -> np.ndarray:
        coords = np.argwhere(mask)
        centered = coords - coords.mean(axis=0)
        covariance = centered.T @ centered / len(coords) + np.eye(mask.ndim) / 12
        squared = np.einsum("ni,ij,nj->n", centered, np.linalg.inv(covariance), centered)
        inside = coords[squared <= (mask.ndim + 2) * self.shrink**2]
        if len(inside) == 0:
            inside = _nearest(coords, coords.sum(axis=0))[None]
        marked = np.zeros_like(mask)
        marked[tuple(inside.T)] = True
        return marked


class BoxLabel(WeakLabel):
    """Bounding boxes as a label map: inside a box its class, outside every box background.

    A noisy label without unlabeled voxels. In each slice the boxes are painted from the largest
    to the smallest, so that one inside another stays visible; of equal ones the higher class wins.
    Voxels that the input leaves unlabeled stay so.

    Args:
        num_classes: C, background included.
        margin: voxels by which a box is wider than its region on each side, cut at the border.
        slice_axis: the spatial axis across which slices are annotated; None draws boxes in 3D.
        per_object: a box on every connected component (8- or 26-neighbors) of a class.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        num_classes: int,
        margin: int = 0,
        slice_axis: int | None = -1,
        per_object: bool = False,
    ) -> None:
        super().__init__(num_classes, slice_axis)
        if margin < 0:
            raise ValueError(f"margin is in voxels and must not be negative, got {margin}")
        self.margin = int(margin)
        self.per_object = per_object

    def annotate(self, label: np.ndarray) -> np.ndarray:
        """Class numbers in the boxes, 0 outside them, C where the label is C."""
        out = np.zeros_like(label)
        boxes = []
        for value, index, _ in regions(
            label, self.num_classes, slice_axis=self.slice_axis, per_object=self.per_object
        ):
            box = tuple(
                i
                if isinstance(i, int)
                else slice(max(i.start - self.margin, 0), i.stop + self.margin)
                for i in index
            )
            boxes.append((-out[box].size, value, box))
        for _, value, box in sorted(boxes, key=lambda entry: entry[:2]):
            out[box] = value
        out[label == self.num_classes] = self.num_classes
        return out


class CentroidLabeld(WeakLabeld):
    """Dictionary form of :class:`CentroidLabel`, with its arguments."""

    array = CentroidLabel


class EllipseLabeld(WeakLabeld):
    """Dictionary form of :class:`EllipseLabel`, with its arguments."""

    array = EllipseLabel


class BoxLabeld(WeakLabeld):
    """Dictionary form of :class:`BoxLabel`, with its arguments."""

    array = BoxLabel
    weak = ("noisy",)
