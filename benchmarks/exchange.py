"""A candidate for the flagship: regions exchanged between fully and weakly labeled images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mixseg.transforms import BatchAugmentation


class ExchangeRegions(BatchAugmentation):
    """The recipe's augmentation, then exchange a box between the images of a batch, labels too.

    The first image changes places with the last, the second with the last but one, and so on: of a
    mixed batch, whose full masks come first, fully labeled images with weakly labeled ones (Bai et
    al., BCP, CVPR 2023, without its pseudo-labels).

    Args:
        share: of a side that the box takes, BCP's 2/3.
        probability: that a batch exchanges boxes.
        arguments: of :class:`mixseg.transforms.BatchAugmentation`.
    """

    def __init__(self, *, share: float = 2 / 3, probability: float = 0.5, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.share = share
        self.probability = probability

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Augment a batch by a new draw; see the base class."""
        out = super().__call__(batch)
        shape = out["image"].shape
        draw = torch.rand(1 + self.spatial_dims, generator=self.generator).tolist()
        if draw[0] >= self.probability:
            return out
        box: list[slice] = []
        for side, place in zip(shape[2:], draw[1:], strict=True):
            width = round(side * self.share)
            start = round(place * (side - width))
            box.append(slice(start, start + width))
        inside = (..., *box)
        for key, value in out.items():
            if isinstance(value, Tensor) and (len(value), *value.shape[2:]) == (
                len(out["image"]),
                *shape[2:],
            ):
                exchanged = value.clone()
                exchanged[inside] = value.flip(0)[inside]
                out[key] = exchanged
        return out
