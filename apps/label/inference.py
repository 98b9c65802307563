"""Inference of the server: the bundle's own pipeline, and the entropy of its predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monailabel.tasks.infer.bundle import BundleInferTask

from mixseg.apps.label.brush import segment_names
from mixseg.apps.label.model import model_classes
from mixseg.engines.precision import autocast_dtype
from mixseg.losses.entropy import shannon_entropy


class StudentInferTask(BundleInferTask):
    """``inference.yaml`` behind MONAI Label's interface.

    Beyond the parent: the network runs in the precision that the bundle's ``amp`` chooses on the
    device, so that masks are those of ``monai.bundle run inference``; weights must fit the network
    exactly, where the parent leaves what does not fit at random; masks are uint8 unless the client
    asks for another type; two more segments are offered to draw with
    (:class:`mixseg.apps.label.brush.BrushLabel`); and no transform sees the plain ``image_path``
    that the parent puts beside ``image``, which MONAI's Spacingd takes for metadata and fails on.
    """

    def __init__(self, folder: Path, conf: Mapping[str, str]) -> None:
        super().__init__(str(folder), dict(conf), type="segmentation", load_strict=True)
        config = self.bundle_config
        self.amp = config.get_parsed_content("amp") if "amp" in config else False
        classes = model_classes(folder)
        self.num_classes = len(classes)
        self.labels = segment_names(classes)
        # Clients hand over volumes, also where the network sees slices.
        self.dimension = 3

    def run_pre_transforms(
        self, data: dict[str, Any], transforms: Sequence[Callable]
    ) -> dict[str, Any]:
        """The bundle's ``preprocessing``."""
        return self._without_texts(data, transforms, super().run_pre_transforms)

    def run_inferer(
        self, data: dict[str, Any], convert_to_batch: bool = True, device: str = "cuda"
    ) -> dict[str, Any]:
        """The bundle's ``inferer``, in its precision."""
        dtype = autocast_dtype(self.amp, device)
        with torch.autocast(torch.device(device).type, dtype, enabled=dtype is not None):
            return dict(super().run_inferer(data, convert_to_batch, device))

    def run_post_transforms(
        self, data: dict[str, Any], transforms: Sequence[Callable]
    ) -> dict[str, Any]:
        """The bundle's ``postprocessing`` but for the files that it writes."""
        return self._without_texts(data, transforms, super().run_post_transforms)

    def writer(
        self, data: dict[str, Any], extension: str | None = None, dtype: Any = None
    ) -> tuple[Any, Any]:
        """The mask's file and the answer's JSON."""
        data.setdefault("result_dtype", "uint8")
        return super().writer(data, extension, dtype)

    def entropy(self, image: str, device: str) -> float:
        """Uncertainty of the student about a scan.

        The quantity that the entropy term of the method lowers: Shannon entropy of the softmax,
        averaged over all voxels that the network sees, here divided by ln C.

        Returns:
            0 (sure everywhere) to 1 (all classes alike everywhere).
        """
        data: dict[str, Any] = {
            "image": image,
            "image_path": image,
            "device": device,
            "model_filename": "model.pt",
            "logging": "WARNING",
        }
        data = self.run_pre_transforms(data, self.pre_transforms(data))
        data = self.run_inferer(data, device=device)
        logits = torch.as_tensor(data[self.output_label_key]).as_subclass(torch.Tensor)
        return float(shannon_entropy(logits[None])) / math.log(self.num_classes)

    def _without_texts(
        self,
        data: dict[str, Any],
        transforms: Sequence[Callable],
        run: Callable[[dict[str, Any], Sequence[Callable]], dict[str, Any]],
    ) -> dict[str, Any]:
        hidden = {
            key: value
            for key, value in data.items()
            if key.startswith((f"{self.key_image}_", f"{self.key_pred}_"))
            and not isinstance(value, Mapping)
        }
        visible = {key: value for key, value in data.items() if key not in hidden}
        return {**run(visible, transforms), **hidden}
