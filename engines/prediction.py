"""The one way from a prepared image to a mask: passes of the network, then the image's own grid."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from monai.inferers import SliceInferer
from monai.transforms import Activationsd, AsDiscreted, Compose, Invertd, SaveImaged
from torch import Tensor

from mixseg.transforms import KeepMostProbableComponentd

__all__ = ["MirroredSliceInferer", "mask_postprocessing"]


class MirroredSliceInferer(SliceInferer):
    """MONAI's ``SliceInferer`` that averages the predictions of mirrored slices.

    Args:
        roi_size: (height, width) of a window in a slice.
        mirror_axes: axes of the slice to mirror along, 0 and 1; every combination of them is a
            pass. Empty for one pass.
        sw_batch_size: slices a forward pass, each mirrored pass by itself.
    """

    def __init__(
        self, roi_size: Sequence[int], mirror_axes: Sequence[int] = (), sw_batch_size: int = 24
    ) -> None:
        super().__init__(roi_size=tuple(roi_size), spatial_dim=2, sw_batch_size=sw_batch_size)
        if not set(mirror_axes) <= {0, 1}:
            raise ValueError(f"mirror_axes holds axes of a slice, 0 and 1, got {mirror_axes}")
        axes = [axis + 2 for axis in mirror_axes]
        self._passes = [
            flipped
            for count in range(len(axes) + 1)
            for flipped in itertools.combinations(axes, count)
        ]

    def __call__(
        self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Logits of volumes.

        Args:
            inputs: (B, channels, H, W, D).
            network: slices (n, channels, H, W) → logits (n, C, H, W), or a tuple of them.
            args: passed to ``network``.
            kwargs: passed to ``network``.

        Returns:
            Logits (B, C, H, W, D) or a tuple of them. With several passes the logarithm of the
            mean of their probabilities, so that its softmax is that mean.
        """
        averaged = partial(self._averaged, network) if len(self._passes) > 1 else network
        return super().__call__(inputs, averaged, *args, **kwargs)

    def _averaged(
        self, network: Callable[..., Any], slices: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        total: list[Tensor] = []
        single = True
        for axes in self._passes:
            output = network(slices.flip(axes), *args, **kwargs)
            single = isinstance(output, Tensor)
            logits = (output,) if single else output
            passed = [F.log_softmax(z.float(), dim=1).flip(axes) for z in logits]
            if total:
                passed = [torch.logaddexp(a, b) for a, b in zip(total, passed, strict=True)]
            total = passed
        means = tuple(z - math.log(len(self._passes)) for z in total)
        return means[0] if single else means


def mask_postprocessing(
    preprocessing: Compose,
    *,
    output_dir: str | os.PathLike[str],
    output_postfix: str,
    output_ext: str = ".nii.gz",
    one_component: bool = True,
) -> Compose:
    """From logits under ``pred`` to a mask file in the grid of the image's file.

    Args:
        preprocessing: transforms that the image went through, which are undone.
        output_dir: folder of the masks.
        output_postfix: of the masks' names, ``<image>_<postfix><ext>``.
        output_ext: of the masks' files; ``".png"`` for pictures.
        one_component: keep of each class the most probable component, see
            :class:`mixseg.transforms.KeepMostProbableComponent`.
    """
    writer = "PILWriter" if output_ext == ".png" else "mixseg.data.NativeNiftiWriter"
    return Compose(
        [
            Activationsd("pred", softmax=True),
            Invertd("pred", transform=preprocessing, orig_keys="image", nearest_interp=False),
            *([KeepMostProbableComponentd("pred")] if one_component else []),
            AsDiscreted("pred", argmax=True),
            SaveImaged(
                "pred",
                output_dir=output_dir,
                output_postfix=output_postfix,
                output_ext=output_ext,
                output_dtype="uint8",
                resample=False,
                separate_folder=False,
                writer=writer,
            ),
        ]
    )
