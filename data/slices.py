"""Two-dimensional training items from cached volumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset
from monai.transforms import Compose
from torch import Tensor
from torch.utils.data import Dataset

from mixseg.data.case_cache import (
    case_id_of,
    check_finite,
    plain_tensor,
    supervision_kind,
    unlabeled_map,
)


class SliceDataset(Dataset):
    """Slices of volumes, cached once as two arrays and handed out in whole batches.

    Args:
        data: one dictionary a case: ``image``, ``label`` (absent without annotation),
            ``supervision`` (absent: read from the label's values) and ``case_id``.
        transform: deterministic transforms of a case, from files to ``image`` (channels, H, W, D)
            and ``label`` (1, H, W, D), or without D for pictures, each of which is one slice;
            in-plane sizes must agree afterwards.
        num_classes: C, background included; a label holds 0…C−1 and C = unlabeled.
        slice_transform: random transforms of one slice, a dictionary with ``image``
            (channels, H, W) and ``label`` (1, H, W); seeded by epoch and batch, so that neither a
            resume nor the number of workers changes what is drawn.
        label_keys: integer maps that are cut along with the image where a case has them.
        seed: of ``slice_transform``.
        num_workers: threads that read the files.
        progress: show a bar while reading.

    An item, and a batch with one more leading axis:
        ``image`` float32 (channels, H, W); ``label`` and further maps uint8 (1, H, W);
        ``supervision`` and ``case_id`` strings; ``slice_index``, the slice in its volume, and
        ``index``, the item in this dataset, int.

    Raises:
        ValueError: no case at all, in-plane sizes that differ, or an image with NaN or infinite
            values; the message names the case.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable | None = None,
        *,
        num_classes: int = 2,
        slice_transform: Callable | None = None,
        label_keys: Sequence[str] = ("label", "weak_label"),
        seed: int = 0,
        num_workers: int | None = None,
        progress: bool = True,
    ) -> None:
        if not data:
            raise ValueError("there is no case to train on")
        self.data = list(data)
        self.num_classes = num_classes
        self.slice_transform = slice_transform
        self.seed = seed
        self.epoch = 1
        volumes = CacheDataset(
            self.data, transform or Compose([]), num_workers=num_workers, progress=progress
        )
        self.supervision: list[str] = []
        self.case_ids: list[str] = []
        self.slice_indices: list[int] = []
        images: list[Tensor] = []
        maps: dict[str, list[Tensor]] = {key: [] for key in label_keys}
        for i in range(len(volumes)):
            item = volumes[i]
            case_id = case_id_of(item, self.data[i], i)
            image = _slices_first(item["image"]).to(torch.float32)
            check_finite(image, case_id)
            if images and image.shape[1:] != images[0].shape[1:]:
                raise ValueError(
                    f"{case_id}: slices of {tuple(image.shape[1:])} (channels, H, W) among slices "
                    f"of {tuple(images[0].shape[1:])}; crop or resize them to one size"
                )
            images.append(image)
            for key in label_keys:
                maps[key].append(self._label(item, key, image))
            kind = supervision_kind(item, maps[label_keys[0]][-1], num_classes)
            self.supervision += [kind] * len(image)
            self.case_ids += [case_id] * len(image)
            self.slice_indices += range(len(image))
        self._maps = {key: torch.cat(parts) for key, parts in maps.items()}
        self._maps["image"] = torch.cat(images)

    def _label(self, item: Mapping[str, Any], key: str, image: Tensor) -> Tensor:
        if key in item:
            return _slices_first(item[key]).to(torch.uint8)
        return unlabeled_map((image.shape[0], 1, *image.shape[2:]), self.num_classes)

    def set_epoch(self, epoch: int) -> None:
        """Choose the random states of an epoch's transforms."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.supervision)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item: dict[str, Any] = {key: stack[index] for key, stack in self._maps.items()}
        if self.slice_transform is not None:
            item = self.slice_transform({key: tensor.clone() for key, tensor in item.items()})
            item = {key: item[key].as_subclass(Tensor) for key in self._maps}
        item["supervision"] = self.supervision[index]
        item["case_id"] = self.case_ids[index]
        item["slice_index"] = self.slice_indices[index]
        item["index"] = index
        return item

    def __getitems__(self, indices: list[int]) -> dict[str, Any] | list[dict[str, Any]]:
        """A batch; without random transforms one gather an array instead of a copy an item."""
        if self.slice_transform is not None:
            # Seeded by batch: the same draws whichever worker makes it, others in each batch.
            if hasattr(self.slice_transform, "set_random_state"):
                sequence = np.random.SeedSequence((self.seed, self.epoch, *indices))
                self.slice_transform.set_random_state(seed=int(sequence.generate_state(1)[0]))
            return [self[index] for index in indices]
        chosen = torch.as_tensor(np.asarray(indices))
        batch: dict[str, Any] = {key: stack[chosen] for key, stack in self._maps.items()}
        batch["supervision"] = [self.supervision[i] for i in indices]
        batch["case_id"] = [self.case_ids[i] for i in indices]
        batch["slice_index"] = torch.as_tensor([self.slice_indices[i] for i in indices])
        batch["index"] = chosen
        return batch


def _slices_first(volume: Any) -> Tensor:
    """(channels, H, W, D), or (channels, H, W) with D = 1, → contiguous (D, channels, H, W)."""
    tensor = plain_tensor(volume)
    return (tensor[None] if tensor.ndim == 3 else tensor.movedim(-1, 0)).contiguous()
