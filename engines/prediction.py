"""The one way from a prepared image to a mask: passes of the network, then the image's own grid."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from monai.engines import SupervisedEvaluator
from monai.inferers import SliceInferer
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    Invertd,
    KeepLargestConnectedComponentd,
    SaveImaged,
)
from torch import Tensor, nn

from mixseg.engines.inferers import mirrorings
from mixseg.engines.precision import autocast_dtype
from mixseg.transforms import KeepMostProbableComponentd

#: Suffix of a mask → what writes it.
_WRITERS = {
    **dict.fromkeys((".nii.gz", ".nii"), "mixseg.data.NativeNiftiWriter"),
    **dict.fromkeys((".nrrd", ".mha"), "mixseg.data.NativeItkWriter"),
    ".png": "PILWriter",
}


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
        self._passes = mirrorings(mirror_axes)

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
            Logarithms (B, C, H, W, D), float32, of the mean of the passes' probabilities, or a
            tuple of them.
        """
        return super().__call__(inputs, partial(self._averaged, network), *args, **kwargs)

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
    keep_component: str | None = None,
    largest_component: bool = False,
) -> Compose:
    """From logits under ``pred`` to a mask file in the grid of the image's file.

    Args:
        preprocessing: transforms that the image went through, which are undone.
        output_dir: folder of the masks.
        output_postfix: of the masks' names, ``<image>_<postfix><ext>``.
        output_ext: of the masks' files: ``".nii.gz"``, ``".nii"``, ``".nrrd"``, ``".mha"``, or
            ``".png"`` for pictures.
        keep_component: ``"most_probable"`` keeps of each class one component, see
            :class:`mixseg.transforms.KeepMostProbableComponent`, ``"largest"`` the largest by
            voxels; None keeps all.
        largest_component: the same as ``keep_component="largest"``.

    Raises:
        ValueError: another ``keep_component`` or ``output_ext``.
    """
    keep_component = "largest" if largest_component else keep_component
    if keep_component not in (None, "largest", "most_probable"):
        raise ValueError(
            f"keep_component must be most_probable, largest or null, got {keep_component!r}"
        )
    most_probable = KeepMostProbableComponentd("pred", output="probabilities")
    if output_ext not in _WRITERS:
        raise ValueError(f"output_ext must be one of {', '.join(_WRITERS)}, got {output_ext!r}")
    return Compose(
        [
            Activationsd("pred", softmax=True),
            Invertd("pred", transform=preprocessing, orig_keys="image", nearest_interp=False),
            *([most_probable] if keep_component == "most_probable" else []),
            AsDiscreted("pred", argmax=True),
            *([KeepLargestConnectedComponentd("pred")] if keep_component == "largest" else []),
            SaveImaged(
                "pred",
                output_dir=output_dir,
                output_postfix=output_postfix,
                output_ext=output_ext,
                output_dtype="uint8",
                resample=False,
                separate_folder=False,
                writer=_WRITERS[output_ext],
            ),
        ]
    )


class Predictor(SupervisedEvaluator):
    """MONAI's evaluator for images without a label, in mixed precision on the CPU, too.

    Images below the folder that the masks are written to are left out: they are the masks of an
    earlier run where that folder lies in the folder of the images.

    Args:
        device: where the network runs.
        val_data_loader: batches with ``image``.
        network: the network.
        amp: see :func:`mixseg.engines.autocast_dtype`.
        options: further arguments of ``monai.engines.SupervisedEvaluator``.

    Raises:
        ValueError: all images are below the folder of the masks.
    """

    def __init__(
        self,
        device: str | torch.device,
        val_data_loader: Any,
        network: nn.Module,
        *,
        amp: bool | str = False,
        **options: Any,
    ) -> None:
        device = torch.device(device)
        self._dtype = autocast_dtype(amp, device)
        _leave_out_masks(val_data_loader, options.get("postprocessing"))
        super().__init__(device=device, val_data_loader=val_data_loader, network=network, **options)

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
        kind = engine.state.device.type
        with torch.autocast(kind, self._dtype, enabled=self._dtype is not None):
            output: dict[str, Any] = super()._iteration(engine, batchdata)
        return output


def _leave_out_masks(loader: Any, postprocessing: Any) -> None:
    """Take images below the folders that are written to out of the loader's dataset."""
    folders = [
        Path(step.saver.folder_layout.output_dir).resolve()
        for step in getattr(postprocessing, "transforms", ())
        if isinstance(step, SaveImaged)
    ]
    dataset: Any = getattr(loader, "dataset", None)
    data = getattr(dataset, "data", None)
    if not isinstance(data, list) or not all(isinstance(i, dict) and "image" in i for i in data):
        return
    images = [Path(item["image"]).resolve() for item in data]
    kept = [
        item
        for item, image in zip(data, images, strict=True)
        if not any(folder in image.parents for folder in folders)
    ]
    if data and not kept:
        raise ValueError(
            f"all images are in the folder of the masks, '{folders[0]}': set --output_dir to "
            "another one, for example a folder in it"
        )
    dataset.data = kept
