"""Label maps drawn in a viewer that has no value for 'unlabeled': the brush convention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from monai.config.type_definitions import NdarrayOrTensor
from monai.transforms.transform import Transform
from monai.utils.enums import TransformBackends

from mixseg.transforms.arrays import check_num_classes, describe, integral_array, like

#: Names of the two segments that a viewer offers beside the classes.
UNLABELED = "unlabeled"
BACKGROUND_BRUSH = "background_brush"


def segment_names(classes: Sequence[str]) -> dict[str, int]:
    """What a viewer offers to draw: the foreground classes, then the two extra names.

    Args:
        classes: names of the classes, background first.

    Returns:
        Name in lower case → value: 1…C−1, ``unlabeled`` C, ``background_brush`` C+1.

    Raises:
        ValueError: two names are equal in lower case, or a class has the name of an extra one.
    """
    names = [name.lower() for name in (*classes[1:], UNLABELED, BACKGROUND_BRUSH)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"segment names are compared in lower case, and {twice} occurs more than "
            "once: rename the class"
        )
    return {name: value for value, name in enumerate(names, start=1)}


class BrushLabel(Transform):
    """A map drawn in a viewer as a label of the project's convention: C is unlabeled.

    A viewer writes 0 wherever nothing was drawn, be it background or untouched. So the annotator
    has two more segments: ``background_brush`` (C+1), strokes that say 'this is background', and
    ``unlabeled`` (C), areas that are to be left out. One stroke of the brush says that the map is
    scribbled:

    ====================  =====================  ==================
    drawn                 with a brush stroke    without one
    ====================  =====================  ==================
    0, nothing            C, unlabeled          0, background
    1…C−1                 1…C−1                  1…C−1
    C, ``unlabeled``      C                      C
    C+1, the brush        0, background          (there is none)
    ====================  =====================  ==================

    A map without a stroke can still be declared as scribbled, and one with strokes as complete.

    Args:
        classes: names of the classes, background first.

    Raises:
        ValueError: what :func:`segment_names` raises; fewer than 2 or more than 253 classes.
    """

    backend = [TransformBackends.NUMPY]  # noqa: RUF012 (declared so by MONAI)

    def __init__(self, classes: Sequence[str]) -> None:
        self.num_classes = check_num_classes(len(classes))
        self.values = segment_names(classes)

    def __call__(
        self,
        label: NdarrayOrTensor,
        segments: Sequence[str] | None = None,
        supervision: Literal["full", "partial"] | None = None,
    ) -> NdarrayOrTensor:
        """Convert one map.

        Args:
            label: any shape; integers, or floats that are whole numbers.
            segments: names by position: the value v is the segment ``segments[v - 1]``. 3D Slicer
                numbers what it submits so, whatever was deleted before. None: the values are
                those of :func:`segment_names`.
            supervision: ``"partial"`` makes untouched voxels unlabeled without a stroke too,
                ``"full"`` makes them background despite strokes; None looks for a stroke.

        Returns:
            The same container, shape and metadata; uint8, values 0…C (C: unlabeled).

        Raises:
            ValueError: a fractional value, a value without a segment, or a segment of a name that
                is not a class; lists what there is.
        """
        source = describe(label)
        array = integral_array(label, source)
        present = [int(value) for value in np.unique(array)]
        table = self._table(segments, source, present)
        if unknown := [v for v in present if not 0 <= v < len(table)]:
            raise ValueError(
                f"{source} holds {unknown}, but only values up to {len(table) - 1} have a segment: "
                f"{list(segments or self.values)}"
            )
        drawn = table[array]
        brush = drawn == self.num_classes + 1
        scribbled = bool(brush.any()) if supervision is None else supervision == "partial"
        result = np.where(brush, 0, drawn)
        if scribbled:
            result[drawn == 0] = self.num_classes
        return like(result.astype(np.uint8), label)

    def _table(
        self, segments: Sequence[str] | None, source: str, present: Sequence[int]
    ) -> np.ndarray:
        """Value in the file → value of :func:`segment_names`."""
        if segments is None:
            return np.arange(self.num_classes + 2)
        names = [name.lower() for name in segments]
        # A foreign segment that nothing was drawn with does no harm.
        used = [name for value, name in enumerate(names, start=1) if value in present]
        if foreign := [name for name in used if name not in self.values]:
            raise ValueError(
                f"{source} has segments {foreign}, which are not among {list(self.values)}: rename "
                "them in the viewer, or remove them, and submit again"
            )
        return np.array([0, *(self.values.get(name, 0) for name in names)])
