"""From files to what a network sees: one preparation for slices, one for volumes.

Training, validation and inference take the same steps from the same object, so they cannot differ:
``training`` moves image and labels together, ``evaluation`` and ``inference`` move the image alone.
Predictions are brought back to the file's own grid, where the label stays, and are scored there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

from monai.transforms import (
    Compose,
    CopyItemsd,
    CropForegroundd,
    Orientationd,
    ResizeWithPadOrCropd,
    Spacingd,
)

from mixseg.transforms.cropping import CropToCenterd, above_minimum
from mixseg.transforms.free_negatives import FreeNegativesd, negative_radius
from mixseg.transforms.images import (
    AddDepthd,
    LoadVolumed,
    RescaleIntensityd,
    StackNeighborsd,
)
from mixseg.transforms.labels import (
    ConvertUnlabeledd,
    MaskUnannotatedClassesd,
    SelectClassesd,
    SupervisionFromLabeld,
)
from mixseg.transforms.noisy_labels import NoisyLabeld
from mixseg.transforms.resampling import ResizeToSized, ResizeToSpacingd
from mixseg.transforms.scribbles import ScribbleByErosiond

#: How label maps are brought to another grid.
RESAMPLING = ("area", "nearest")


@dataclass(kw_only=True, eq=False, repr=False)
class _Preprocessing:
    """What slices and volumes have in common; see the subclasses."""

    #: Dimensions that images must have; None for either.
    spatial_dims: ClassVar[int | None] = None
    #: Whether free negatives are far from the seeds of their slice or of the volume.
    distance: ClassVar[Literal["slice", "volume"]] = "slice"

    source_classes: Sequence[str]
    target_classes: Sequence[int | Sequence[int]] | None = None
    unlabeled_value: int | None = None
    orientation: str | None = None
    normalization: str = "percentile"
    intensity_range: Sequence[float] = (0.0, 1.0)
    intensity_mean: float = 0.0
    intensity_sd: float = 1.0
    erosion_rule: str = "kervadec"
    free_negatives: float | Literal["auto"] | None = "auto"
    negatives_margin: float = 0.0
    weak_label: bool | Literal["noise"] = False
    resampling: Literal["area", "nearest"] = "area"

    def __post_init__(self) -> None:
        if self.resampling not in RESAMPLING:
            raise ValueError(f"resampling must be one of {RESAMPLING}, got {self.resampling!r}")
        self.num_source_classes = len(self.source_classes)
        targets = list(self.target_classes or range(1, self.num_source_classes))
        self.target_classes = targets
        #: C of the prepared label maps, background included.
        self.num_classes = 1 + len(targets)
        self.rescale = RescaleIntensityd(
            "image",
            rule=self.normalization,
            clip=self.intensity_range,
            mean=self.intensity_mean,
            sd=self.intensity_sd,
        )

    @property
    def slice_axis(self) -> int | None:
        """Axis across which slices lie."""
        return 2

    def _load(self, *keys: str) -> list[Any]:
        return [LoadVolumed(keys, allow_missing_keys=True)]

    def _orient(self, *keys: str) -> list[Any]:
        if self.orientation is None:
            return []
        return [Orientationd(keys, axcodes=self.orientation, labels=None, allow_missing_keys=True)]

    def _label_classes(self) -> list[Any]:
        """A file's label values as 0…C−1 and C for unlabeled, of the classes to segment."""
        known: dict[str, Any] = {"num_classes": self.num_source_classes, "allow_missing_keys": True}
        return [
            ConvertUnlabeledd("label", unlabeled_value=self.unlabeled_value, **known),
            MaskUnannotatedClassesd("label", **known),
            SelectClassesd("label", classes=self.target_classes, **known),
        ]

    def _weak_labels(self, radius: float | None) -> list[Any]:
        """Scribbles in the place of the masks of cases that are used as partially labeled."""
        erosion: dict[str, Any] = {
            "num_classes": self.num_classes,
            "rule": self.erosion_rule,
            "slice_axis": self.slice_axis,
            "allow_missing_keys": True,
        }
        negatives = FreeNegativesd(
            ("label", "weak_label") if self.weak_label is True else "label",
            num_classes=self.num_classes,
            radius=radius,
            slice_axis=self.slice_axis,
            distance=self.distance,
            classes=self.target_classes,
            # The weak labels of full cases, too; full labels have nothing to fill.
            when=["full", "partial"],
            allow_missing_keys=True,
        )
        eroded = ScribbleByErosiond("label", when=["partial"], **erosion)
        if self.weak_label is not True:
            return [eroded, negatives]
        return [
            CopyItemsd("label", names="weak_label", allow_missing_keys=True),
            eroded,
            ScribbleByErosiond("weak_label", when=["full", "partial"], **erosion),
            negatives,
        ]

    def _content(self, *keys: str) -> list[Any]:
        """The part of an oriented image, and of what lies beside it, that shows something."""
        return []

    def _region(self) -> list[Any]:
        """The part of that content that evaluation and inference see."""
        return []

    def _weak_grid(self) -> list[Any]:
        """Image and label on the grid in which masks become scribbles."""
        return []

    def _to_grid(self, *label_keys: str) -> list[Any]:
        """The image, and label maps with it, on the grid that the network sees."""
        raise NotImplementedError

    def _label_keys(self) -> tuple[str, ...]:
        return ("label", "weak_label") if self.weak_label else ("label",)

    def _made_wrong(self) -> list[Any]:
        """Masks made wrong on purpose, and what lies beside them."""
        return []

    def _rescaled(self, grid: Sequence[Any]) -> list[Any]:
        """These steps, with the rescaling of the intensities before or after them."""
        return [self.rescale, *grid]

    @cached_property
    def inference(self) -> Compose:
        """Transforms of an item with ``image``, a path."""
        return Compose(
            [
                *self._load("image"),
                *self._orient("image"),
                *self._content("image"),
                *self._region(),
                *self._rescaled(self._to_grid()),
            ]
        )

    @cached_property
    def evaluation(self) -> Compose:
        """Those of ``inference``; ``label`` and ``native``, the image as read, keep their grid."""
        return Compose(
            [
                *self._load("image", "label"),
                *self._label_classes(),
                CopyItemsd("image", names="native"),
                *self._orient("image"),
                *self._content("image"),
                *self._region(),
                *self._rescaled(self._to_grid()),
            ]
        )

    def training(self, data: Sequence[Mapping[str, Any]] = ()) -> Compose:
        """Transforms of an item with ``image``, ``label`` (absent without one) and ``supervision``.

        Args:
            data: the training items, see :func:`mixseg.data.select_cases`. Their full masks say
                how far from seeds the background begins, see
                :func:`mixseg.transforms.negative_radius`.
        """
        keys = ("image", "label")
        masks = [
            *self._load(*keys),
            *self._orient(*keys),
            *self._content(*keys),
            *self._label_classes(),
        ]
        radius = None
        if self.weak_label is True or any(
            item.get("supervision") in ("partial", None) for item in data
        ):
            radius = negative_radius(
                data,
                Compose([*masks, *self._weak_grid()]),
                self.free_negatives,
                num_classes=self.num_classes,
                rule=self.erosion_rule,
                slice_axis=self.slice_axis,
                distance=self.distance,
                margin=self.negatives_margin,
            )
        return Compose(
            [
                *masks,
                SupervisionFromLabeld("label", num_classes=self.num_classes),
                *self._made_wrong(),
                *self._rescaled(
                    [
                        *self._weak_grid(),
                        *self._weak_labels(radius),
                        *self._to_grid(*self._label_keys()),
                    ]
                ),
            ]
        )


@dataclass(kw_only=True, eq=False, repr=False)
class SlicePreprocessing(_Preprocessing):
    """Volumes and pictures → slices of one size, for a network in 2D.

    A volume is turned (``orientation``), its intensities are rescaled, its slices resized to
    ``slice_size``, cropped or padded around their centers to ``crop_size`` and resized to
    ``spatial_size``. Masks are eroded into scribbles at ``slice_size``, so that the rule means the
    same for all scanners.

    Args:
        source_classes: names of what label files hold, background first.
        target_classes: classes to segment, out of these: an entry is a class or a list of classes
            that become one; None for each of them.
        unlabeled_value: of unlabeled voxels in label files; None for the number of classes.
        orientation: axes that volumes are turned to, e.g. ``"RAS"``; slices lie across the last.
            None keeps the file's axes.
        normalization: see :class:`mixseg.transforms.RescaleIntensity`.
        intensity_range: for ``"fixed"``, see there.
        intensity_mean: for ``"fixed"``, see there.
        intensity_sd: for ``"fixed"``, see there.
        slice_size: pixels; see :class:`mixseg.transforms.ResizeToSized`.
        crop_size: (height, width) of the central crop; what a slice lacks repeats its edge, and is
            unlabeled.
        spatial_size: (height, width) that the network sees.
        erosion_rule: see :class:`mixseg.transforms.ScribbleByErosion`.
        free_negatives: of seeds without background strokes: pixels at ``slice_size`` from every
            seed beyond which a slice is background, see :class:`mixseg.transforms.FreeNegatives`;
            ``"auto"`` finds it on the full masks, None does without.
        negatives_margin: share that ``"auto"`` adds, see
            :func:`mixseg.transforms.negative_radius`.
        weak_label: give full and partial cases a ``weak_label``, the eroded mask, beside ``label``;
            ``"noise"``: every case one that is made wrong as ``noise`` says.
        resampling: of label maps: ``"area"``, see :class:`mixseg.transforms.ResizeLabel`, or
            ``"nearest"`` neighbor, as in the papers that the methods come from.
        noise: arguments of :class:`mixseg.transforms.NoisyLabel`, which makes the masks of items
            that are flagged ``distort`` wrong on purpose; None leaves all as they are.
        reference: keep the mask as it was before ``noise`` under ``reference``.
        neighbors: slices on each side that the network sees as further channels, see
            :class:`mixseg.transforms.StackNeighbors`.

    Raises:
        ValueError: another ``resampling``, or a size that is not of a slice.
    """

    slice_size: int | Sequence[int]
    crop_size: Sequence[int]
    spatial_size: Sequence[int]
    noise: Mapping[str, Any] | None = None
    reference: bool = False
    neighbors: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("crop_size", 0), ("spatial_size", 1)):
            sizes = getattr(self, name)
            if len(sizes) != 2 or min(sizes) < least:
                raise ValueError(f"{name} needs two sizes of at least {least}, got {list(sizes)}")

    def _resized(self, size: int | Sequence[int], label_keys: Sequence[str]) -> Any:
        return ResizeToSized("image", size, label_keys, self.num_classes, self.resampling)

    def _load(self, *keys: str) -> list[Any]:
        return [*super()._load(*keys), AddDepthd(keys, allow_missing_keys=True)]

    def _weak_grid(self) -> list[Any]:
        made = [key for key in self._label_keys() if key != "weak_label"]
        keys = self._label_keys() if self.weak_label == "noise" else made
        return [self._resized(self.slice_size, keys)]

    def _to_grid(self, *label_keys: str) -> list[Any]:
        crop = (*self.crop_size, -1)
        steps: list[Any] = [] if label_keys else [self._resized(self.slice_size, ())]
        steps.append(ResizeWithPadOrCropd("image", crop, mode="edge"))
        if label_keys:
            steps.append(
                ResizeWithPadOrCropd(
                    label_keys, crop, constant_values=self.num_classes, allow_missing_keys=True
                )
            )
        steps.append(self._resized(self.spatial_size, label_keys))
        if self.neighbors:
            steps.append(StackNeighborsd("image", neighbors=self.neighbors))
        return steps

    def _label_keys(self) -> tuple[str, ...]:
        return (*super()._label_keys(), "reference") if self.reference else super()._label_keys()

    def _made_wrong(self) -> list[Any]:
        """Masks made wrong on purpose, and what lies beside them."""
        clean = ["reference"] if self.reference else []
        steps: list[Any] = []
        if names := clean + (["weak_label"] if self.weak_label == "noise" else []):
            copied = CopyItemsd("label", len(names), names, allow_missing_keys=True)
            steps.append(copied)
        if self.noise is None:
            return steps
        made: dict[str, Any] = {"num_classes": self.num_classes, "allow_missing_keys": True}
        made |= self.noise
        steps.append(NoisyLabeld("label", flag_key="distort", **made))
        if self.weak_label == "noise":  # of all cases, by the same rule
            steps.append(NoisyLabeld("weak_label", flag_key=None, **made))
        return steps


@dataclass(kw_only=True, eq=False, repr=False)
class VolumePreprocessing(_Preprocessing):
    """Volumes with voxels of one size, for a network in 3D.

    A volume is turned to ``orientation``, margins that hold nothing but its smallest value are cut
    off (fill around a resampled or padded scan would decide its mean and sd), its intensities are
    rescaled, and it is resized to ``spacing``. Masks are eroded into scribbles in the file's own
    grid. Predictions in the margins are background.

    Args:
        source_classes: see :class:`SlicePreprocessing`, as the other arguments that it has, too.
        spacing: (x, y, z) voxel size in mm.
        erosion_axis: slices across this axis are eroded; None erodes in 3D.
        free_negatives: see there, but in voxels of the file's own grid, and in 3D.
        resampling: ``"area"``, or ``"nearest"`` neighbor for label maps as in the papers that the
            methods come from; then the image is interpolated linearly by
            ``monai.transforms.Spacing`` and its intensities are rescaled afterwards.
        center_size: (x, y, z) size in mm of the central box that evaluation and inference see,
            None for a whole axis: for scans that show far more than those of the training, which
            is not cropped. Predictions outside the box are background.
    """

    spatial_dims: ClassVar[int | None] = 3
    distance: ClassVar[Literal["slice", "volume"]] = "volume"

    spacing: Sequence[float]
    orientation: str | None = "RAS"
    normalization: str = "zscore"
    erosion_axis: int | None = 2
    center_size: Sequence[float | None] | None = None

    @property
    def slice_axis(self) -> int | None:
        """Axis across which slices are eroded."""
        return self.erosion_axis

    def _content(self, *keys: str) -> list[Any]:
        return [
            CropForegroundd(
                keys,
                source_key="image",
                select_fn=above_minimum,
                allow_smaller=False,
                start_coord_key=None,
                end_coord_key=None,
                allow_missing_keys=True,
            )
        ]

    def _region(self) -> list[Any]:
        return [] if self.center_size is None else [CropToCenterd("image", self.center_size)]

    def _to_grid(self, *label_keys: str) -> list[Any]:
        if self.resampling == "area":
            return [ResizeToSpacingd("image", self.spacing, label_keys, self.num_classes)]
        steps = [Spacingd("image", pixdim=self.spacing, mode="bilinear")]
        if label_keys:
            steps.append(
                Spacingd(label_keys, pixdim=self.spacing, mode="nearest", allow_missing_keys=True)
            )
        return steps

    def _rescaled(self, grid: Sequence[Any]) -> list[Any]:
        return super()._rescaled(grid) if self.resampling == "area" else [*grid, self.rescale]
