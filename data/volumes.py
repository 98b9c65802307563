"""Three-dimensional training crops from cached volumes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from monai.transforms.traits import RandomizableTrait
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset, get_worker_info

from mixseg.data.case_cache import IMAGE_DTYPES, CachedCase, load_cases, plain_tensor


@dataclass(frozen=True)
class _Draw:
    """One random crop.

    Attributes:
        start: index of the crop's first voxel in the cached volume; negative where the volume is
            smaller than the crop and padded.
        quarter_turns: rotation by 90° from the first spatial axis to the second.
        flips: spatial axes that are mirrored after the rotation.
    """

    start: tuple[int, int, int]
    quarter_turns: int
    flips: frozenset[int]


class VolumeDataset(Dataset):
    """Random crops of volumes that are prepared once and kept in compact types.

    An item is a case, and every draw of it another crop: its place is uniform over all places
    inside the volume; then each of ``flip_axes`` is mirrored with probability ½ and, with
    ``rotate``, the crop turned by 0, 90, 180 or 270° in the plane of the first two axes, all alike
    for the image and its labels. (UA-MT mirrors exactly one of these axes in each draw, which
    reaches only half of the eight positions.)

    Only the voxels of the crop are read, and only they become float32. A volume smaller than the
    crop is padded on both sides alike: the image with 0, its mean after z-scoring and what
    sliding-window inference pads with, labels with C (unlabeled), so that no supervised term sees
    the padding.

    A draw depends on the seed, the epoch, the batch's number in the epoch, the case and its
    repetition in the batch: not on the number of workers, nor on what else is in the batch, so
    that a resumed run repeats them and processes draw what one process with their batches together
    would.

    Args:
        data: one dictionary a case: ``image``, ``label`` (absent without annotation),
            ``supervision`` (absent: read from the label's values) and ``case_id``.
        transform: deterministic transforms of a case, from files to ``image`` (channels, H, W, D)
            and ``label`` (1, H, W, D), scribbles from masks included: they run once a case.
        num_classes: C, background included; a label holds 0…C−1 and C = unlabeled.
        crop_size: (h, w, d) of a crop, voxels.
        image_dtype: ``"float16"``, which rounds to 11 significant bits (a z-scored image by at
            most 0.002 below |z| = 8), or ``"float32"``, of the cached images. Labels are uint8.
        device: where cached volumes lie and crops are cut and turned. On CUDA the offsets are
            drawn on the CPU and nothing waits for the device; the loader needs ``num_workers=0``.
        cache_dir: folder for sets larger than memory. Cases lie there as plain arrays, of which a
            crop reads only its rows, and stay for later runs with the same files and transforms (a
            change in a transform's code is not noticed: empty the folder then). None keeps the
            volumes in memory.
        flip_axes: spatial axes (0, 1, 2) to mirror at random.
        rotate: turn in the plane of axes 0 and 1; needs ``h == w``.
        random_transform: further random transforms of one crop, a dictionary with ``image``
            (channels, h, w, d) float32 and ``label`` (1, h, w, d) uint8 that keep these shapes.
        label_keys: integer maps that are cut along with the image where a case has them.
        seed: of the draws.
        num_workers: threads that read the files; None for one a core, at most eight.
        progress: show a bar while reading.

    A batch (``__getitems__``):
        ``image`` float32 (B, channels, h, w, d); ``label`` and further maps uint8 (B, 1, h, w, d),
        C everywhere where a case has none; ``supervision`` and ``case_id`` lists of B strings;
        ``crop_start`` int64 (B, 3), on the CPU: the crop's first voxel in the prepared volume,
        before mirroring and rotation, negative where it is padded. An item has the same keys
        without the leading axis, and is the draw of the epoch's first batch.

    Raises:
        ValueError: no case at all; numbers of channels that differ between cases; an argument out
            of range; and what :func:`mixseg.data.case_cache.load_cases` raises. The message names
            the case.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable | Sequence[Callable] | None = None,
        *,
        num_classes: int,
        crop_size: Sequence[int],
        image_dtype: str = "float16",
        device: str | torch.device = "cpu",
        cache_dir: str | os.PathLike[str] | None = None,
        flip_axes: Sequence[int] = (0, 1),
        rotate: bool = True,
        random_transform: Callable | None = None,
        label_keys: Sequence[str] = ("label", "weak_label"),
        seed: int = 0,
        num_workers: int | None = None,
        progress: bool = True,
    ) -> None:
        if not data:
            raise ValueError("there is no case to train on")
        if image_dtype not in IMAGE_DTYPES:
            raise ValueError(
                f"image_dtype must be one of {list(IMAGE_DTYPES)}, got {image_dtype!r}"
            )
        sizes = tuple(int(size) for size in crop_size)
        if len(sizes) != 3 or min(sizes) < 1:
            raise ValueError(f"crop_size needs three sizes of at least 1, got {list(crop_size)}")
        if not set(flip_axes) <= {0, 1, 2}:
            raise ValueError(f"flip_axes holds spatial axes 0, 1 and 2, got {list(flip_axes)}")
        if rotate and sizes[0] != sizes[1]:
            raise ValueError(
                f"rotate turns crops by 90° and needs equal first two sizes, got crop_size "
                f"{list(sizes)}: make them equal, or set rotate to false (mirroring both axes is "
                "the turn by 180°)"
            )
        pipeline = transform if isinstance(transform, Compose) else Compose(transform or [])
        frozen = [
            type(step).__name__
            for step in pipeline.flatten().transforms
            if isinstance(step, RandomizableTrait)
        ]
        if frozen:
            raise ValueError(
                f"{', '.join(frozen)} in transform would draw only once: cases are "
                "prepared once; give random transforms as random_transform"
            )
        self.data = list(data)
        self.num_classes = num_classes
        self.crop_size = (sizes[0], sizes[1], sizes[2])
        self.flip_axes = tuple(sorted(set(flip_axes)))
        self.rotate = rotate
        self.random_transform = random_transform
        self.label_keys = tuple(label_keys)
        self.seed = seed
        self.epoch = 1
        self.device = torch.device(device)
        self._batches = 0
        self._cases = load_cases(
            self.data,
            pipeline,
            num_classes=num_classes,
            label_keys=self.label_keys,
            image_dtype=image_dtype,
            device=self.device,
            cache_dir=cache_dir,
            num_workers=num_workers,
            progress=progress,
        )
        self.channels = self._cases[0].channels
        for case in self._cases:
            if case.channels != self.channels:
                raise ValueError(
                    f"{case.case_id}: the image has {case.channels} channels, that of "
                    f"{self._cases[0].case_id} has {self.channels}"
                )
        self.supervision = [case.supervision for case in self._cases]
        self.case_ids = [case.case_id for case in self._cases]

    @property
    def cached_bytes(self) -> int:
        """Memory that the cached volumes take, on ``device``; 0 with ``cache_dir``."""
        return sum(t.nbytes for case in self._cases for t in case.maps.values())

    def set_epoch(self, epoch: int) -> None:
        """Choose the draws of the next pass (epochs count from 1)."""
        self.epoch = epoch
        self._batches = 0

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, index: int) -> dict[str, Any]:
        batch = self._batch([index], 0)
        return {key: values[0] for key, values in batch.items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """The next batch of the epoch, ready to train on."""
        number, worker = self._batches, get_worker_info()
        self._batches += 1
        if worker is not None:
            if self.device.type != "cpu":
                raise RuntimeError(
                    f"the volumes lie on {self.device}, which worker processes cannot use: set "
                    "num_workers to 0"
                )
            # Each worker counts its own batches; the loader deals them in turn.
            number = number * worker.num_workers + worker.id
        return self._batch(indices, number)

    def _batch(self, indices: Sequence[int], number: int) -> dict[str, Any]:
        count = len(indices)
        batch: dict[str, Any] = {
            "image": torch.empty((count, self.channels, *self.crop_size), device=self.device)
        }
        for key in self.label_keys:
            shape = (count, 1, *self.crop_size)
            batch[key] = torch.empty(shape, dtype=torch.uint8, device=self.device)
        starts = []
        for position, index in enumerate(indices):
            case, repetition = self._cases[index], list(indices[:position]).count(index)
            rng = np.random.default_rng((self.seed, self.epoch, number, index, repetition))
            draw = self._draw(rng, case)
            self._cut(case, draw, {key: stack[position] for key, stack in batch.items()})
            if self.random_transform is not None:
                self._augment(rng, case, batch, position)
            starts.append(draw.start)
        batch["supervision"] = [self.supervision[i] for i in indices]
        batch["case_id"] = [self.case_ids[i] for i in indices]
        batch["crop_start"] = torch.tensor(starts)
        return batch

    def _draw(self, rng: np.random.Generator, case: CachedCase) -> _Draw:
        places = [
            int(rng.integers(size - crop + 1)) if size > crop else -((crop - size) // 2)
            for size, crop in zip(case.shape, self.crop_size, strict=True)
        ]
        flips = frozenset(axis for axis in self.flip_axes if rng.random() < 0.5)
        turns = int(rng.integers(4)) if self.rotate else 0
        return _Draw((places[0], places[1], places[2]), turns, flips)

    def _cut(self, case: CachedCase, draw: _Draw, out: Mapping[str, Tensor]) -> None:
        """Copy the drawn crop of every map into ``out``, turned and converted on the way."""
        box, margins = [], []
        for start, size, wanted in zip(draw.start, case.shape, self.crop_size, strict=True):
            box.append(slice(max(start, 0), min(start + wanted, size)))
            margins.append((max(-start, 0), max(start + wanted - size, 0)))
        # pad() counts from the last axis.
        padding = [width for pair in reversed(margins) for width in pair]
        for key, place in out.items():
            fill = 0 if key == "image" else self.num_classes
            crop = case.read(key, (box[0], box[1], box[2]))
            if crop is None:
                place.fill_(fill)
                continue
            crop = crop.to(self.device, non_blocking=True)
            if any(padding):
                crop = pad(crop, padding, value=fill)
            place.copy_(_turned(crop, draw))

    def _augment(
        self, rng: np.random.Generator, case: CachedCase, batch: dict[str, Any], position: int
    ) -> None:
        """Run the random transforms on one crop of the batch."""
        transform: Any = self.random_transform
        if hasattr(transform, "set_random_state"):
            transform.set_random_state(seed=int(rng.integers(2**32)))
        keys = ("image", *self.label_keys)
        result = transform({key: batch[key][position].clone() for key in keys})
        for key in keys:
            changed, place = plain_tensor(result[key]), batch[key][position]
            if changed.shape != place.shape:
                raise ValueError(
                    f"{case.case_id}: random_transform makes {key} {tuple(changed.shape)} out of "
                    f"{tuple(place.shape)}; crops must keep their size"
                )
            place.copy_(changed)


def _turned(crop: Tensor, draw: _Draw) -> Tensor:
    """``crop.rot90(turns, (1, 2)).flip(…)`` of (channels, h, w, d) with one copy at most.

    A quarter turn is a mirrored axis and a transposition, which is a view; mirroring after the
    transposition is mirroring the other axis before it.
    """
    mirrored: set[int] = set(({}, {2}, {1, 2}, {1})[draw.quarter_turns])
    transposed = draw.quarter_turns % 2 == 1
    for axis in draw.flips:
        dim = axis + 1
        mirrored ^= {3 - dim if transposed and dim < 3 else dim}
    if mirrored:
        crop = crop.flip(sorted(mirrored))
    return crop.transpose(1, 2) if transposed else crop
