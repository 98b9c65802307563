"""Images and labels from their files, by the one reader."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms import EnsureChannelFirst
from monai.transforms.transform import MapTransform
from monai.utils.misc import ImageMetaKey

from mixseg.files.reading import VolumeReader, subject_name

__all__ = ["LoadVolumed"]


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
