"""Images and labels from their files, a depth axis for pictures, and scaled intensities."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from monai.config.type_definitions import KeysCollection, NdarrayOrTensor
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import to_affine_nd
from monai.transforms import (
    ClipIntensityPercentiles,
    EnsureChannelFirst,
    NormalizeIntensity,
    ScaleIntensity,
    ScaleIntensityRange,
)
from monai.transforms.transform import MapTransform, Transform
from monai.utils.enums import MetaKeys, TransformBackends
from monai.utils.misc import ImageMetaKey

from mixseg.files.reading import VolumeReader, subject_name
from mixseg.transforms.arrays import OfEachKey

NORMALIZATIONS = ("minmax", "zscore", "percentile", "fixed")

_UNITS = "xyzt_units"
_UNKNOWN = 0  # NIfTI-1 code


class LoadVolumed(MapTransform):
    """Paths → (channels, *spatial) float32 with metadata, see :class:`mixseg.files.VolumeReader`.

    What MONAI's ``LoadImaged`` does, by the reader that checks and planning have: MONAI chooses
    among the readers that happen to be installed, and falls back on another where one fails.

    Args:
        keys: of paths; a list of paths holds the channels of one image.
        allow_missing_keys: pass on items that lack a key.

    Raises:
        UnreadableError: a file that cannot be read; names it and the fault.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.reader = VolumeReader()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the paths of each key by their image."""
        d = dict(data)
        for key in self.key_iterator(d):
            opened = self.reader.read(d[key])
            array, meta = self.reader.get_data(opened)
            meta[ImageMetaKey.FILENAME_OR_OBJ] = subject_name(opened[0])
            # A copy in any case: the reader's array may be bytes of another order, or read-only.
            image = MetaTensor.ensure_torch_and_prune_meta(array.astype("float32"), meta)
            d[key] = EnsureChannelFirst()(image, meta_dict=meta)
        return d


class AddDepth(Transform):
    """Turn a two-dimensional image into a volume of one slice; leave volumes as they are.

    A picture (PNG, BMP, JPEG) has no geometry: its metadata get units that say so, that a pixel
    does not count as a millimeter.
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]  # noqa: RUF012 (MONAI's way)

    def __call__(self, image: NdarrayOrTensor) -> NdarrayOrTensor:
        """Add the slice axis where it is missing.

        Args:
            image: (channels, H, W) or (channels, H, W, D).

        Returns:
            (channels, H, W, 1), or ``image`` itself if it is a volume. A MetaTensor keeps its
            metadata, with an affine of 4×4.

        Raises:
            ValueError: another number of axes.
        """
        if image.ndim == 4:
            return image
        if image.ndim != 3:
            raise ValueError(
                "an image must have the shape (channels, H, W) or (channels, H, W, D), got "
                f"{tuple(image.shape)}"
            )
        volume = image[..., None]
        if isinstance(volume, MetaTensor):
            volume.affine = to_affine_nd(3, volume.affine)
            if MetaKeys.ORIGINAL_AFFINE in volume.meta:
                original = volume.meta[MetaKeys.ORIGINAL_AFFINE]
                volume.meta[MetaKeys.ORIGINAL_AFFINE] = to_affine_nd(3, original)
            else:
                volume.meta[_UNITS] = _UNKNOWN
        return volume


class StackNeighbors(Transform):
    """Show a network in 2D the slices on both sides of each slice, as further channels.

    Args:
        neighbors: n, slices on each side; 0 leaves the image as it is.

    Raises:
        ValueError: n is negative.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 (MONAI's way)

    def __init__(self, neighbors: int = 1) -> None:
        if neighbors < 0:
            raise ValueError(f"neighbors must not be negative, got {neighbors}")
        self.neighbors = neighbors

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Stack the neighbors of each slice.

        Args:
            image: (channels, H, W, D), slices along the last axis.

        Returns:
            ((2n + 1)·channels, H, W, D) of the same type and metadata: the channels of the slice
            n before, …, of the slice itself, …, of the slice n after. Beyond the first and the
            last slice, these stand in.

        Examples:
            >>> StackNeighbors(1)(torch.tensor([[[[1, 2, 3]]]])).squeeze().tolist()
            [[1, 1, 2], [1, 2, 3], [2, 3, 3]]
        """
        shifts = torch.arange(-self.neighbors, self.neighbors + 1)[:, None]
        places = (torch.arange(image.shape[-1]) + shifts).clamp(0, image.shape[-1] - 1)
        return image[..., places].movedim(-2, 0).flatten(0, 1)


class RescaleIntensity(Transform):
    """Bring the intensities of an image to the range that the network is trained on.

    Args:
        rule: ``"minmax"`` scales each image to 0…1 by its own minimum and maximum, all channels
            together; ``"zscore"`` gives each channel of each image mean 0 and variance 1;
            ``"percentile"`` does so after clipping the channel at its 0.5 and 99.5 percentiles, so
            that a few bright voxels do not decide;
            ``"fixed"`` does the same to every image: clip to ``clip``, subtract ``mean``, divide
            by ``sd`` (for CT and for pictures, whose values mean the same everywhere).
        clip: lowest and highest gray value of ``"fixed"``.
        mean: of ``"fixed"``.
        sd: of ``"fixed"``, positive.

    Raises:
        ValueError: an unknown rule, an empty range, or an sd that is not positive.
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]  # noqa: RUF012 (MONAI's way)

    def __init__(
        self,
        rule: str = "minmax",
        clip: Sequence[float] = (0.0, 1.0),
        mean: float = 0.0,
        sd: float = 1.0,
    ) -> None:
        if rule not in NORMALIZATIONS:
            raise ValueError(f"rule must be one of {NORMALIZATIONS}, got {rule!r}")
        if len(clip) != 2 or not clip[0] < clip[1]:
            raise ValueError(f"clip needs a lower and a higher value, got {list(clip)}")
        if not sd > 0:
            raise ValueError(f"sd must be positive, got {sd}")
        self.rule = rule
        self.minmax = ScaleIntensity()
        self.clip_outliers = ClipIntensityPercentiles(0.5, 99.5, channel_wise=True)
        low, high = clip
        self.fixed = ScaleIntensityRange(
            low, high, b_min=(low - mean) / sd, b_max=(high - mean) / sd, clip=True
        )

    def __call__(self, image: NdarrayOrTensor) -> NdarrayOrTensor:
        """Rescale one image.

        Args:
            image: (channels, *spatial).

        Returns:
            float32 of the same shape and metadata.
        """
        if self.rule == "minmax":
            return self.minmax(image)
        if self.rule == "fixed":
            return self.fixed(image)
        if self.rule == "percentile":
            image = self.clip_outliers(image)
        if len(image) == 1:
            return NormalizeIntensity()(image)
        # By channel, MONAI writes into the array that it is given.
        return NormalizeIntensity(channel_wise=True)(deepcopy(image))


class AddDepthd(OfEachKey):
    """Dictionary form of :class:`AddDepth`, with its arguments."""

    array = AddDepth
    backend = AddDepth.backend


class StackNeighborsd(OfEachKey):
    """Dictionary form of :class:`StackNeighbors`, with its arguments."""

    array = StackNeighbors
    backend = StackNeighbors.backend


class RescaleIntensityd(OfEachKey):
    """Dictionary form of :class:`RescaleIntensity`, with its arguments."""

    array = RescaleIntensity
    backend = RescaleIntensity.backend
