"""Of several components of a predicted class, the one that the network is surest of."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.config.type_definitions import NdarrayOrTensor
from monai.transforms.transform import Transform
from monai.utils.enums import TransformBackends
from monai.utils.type_conversion import convert_to_dst_type, convert_to_tensor
from scipy import ndimage

from mixseg.transforms.arrays import OfEachKey

OUTPUTS = ("labels", "probabilities")


def _removed(probabilities: torch.Tensor, labels: np.ndarray) -> list[tuple[int, Any, np.ndarray]]:
    """Class, bounding box and, inside it, the mask of the components that are not kept."""
    found = []
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        structure = ndimage.generate_binary_structure(labels.ndim, labels.ndim)
        parts, count = ndimage.label(labels[box] == value, structure)
        if count > 1:
            weights = probabilities[value][box].float().cpu().numpy()
            # In double precision: a component of a million voxels is compared with a small one.
            sums = np.bincount(parts.ravel(), weights.ravel().astype(np.float64))
            kept = 1 + int(sums[1:].argmax())
            found.append((value, box, (parts > 0) & (parts != kept)))
    return found


class KeepMostProbableComponent(Transform):
    """Keep, of each predicted foreground class, the component with the largest summed probability.

    A class's components are the connected parts (8 neighbors in 2D, 26 in 3D) of the voxels where
    it is the most probable one; each is weighed by the sum of the class's probability over its
    voxels, and all but the heaviest become background. The largest component by voxels
    (:class:`monai.transforms.KeepLargestConnectedComponent`) can be a wide region that the network
    hardly believes in. Of components that weigh the same, the first in array order is kept.

    Args:
        output: ``"labels"`` for the label map; ``"probabilities"`` for the input with each removed
            voxel's probability of its class moved to the background, so that it still sums to one
            and its most probable class is that of the label map.

    Raises:
        ValueError: another ``output``.

    Examples:
        Three voxels of 0.6 weigh less than two of 0.95:

        >>> foreground = np.array([[0.6, 0.6, 0.6, 0.1, 0.95, 0.95]], dtype=np.float32)
        >>> probabilities = np.stack([1 - foreground, foreground])
        >>> print(KeepMostProbableComponent()(probabilities)[0])
        [[0 0 0 0 1 1]]
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]  # noqa: RUF012

    def __init__(self, output: str = "labels") -> None:
        if output not in OUTPUTS:
            raise ValueError(f"output must be one of {OUTPUTS}, got {output!r}")
        self.output = output

    def __call__(self, probabilities: NdarrayOrTensor) -> NdarrayOrTensor:
        """Clean one prediction.

        Args:
            probabilities: (C, H, W) or (C, H, W, D), C ≥ 2, background first, as a softmax gives
                them; a common factor, as in a sum of two networks, changes nothing.

        Returns:
            In the container of the input, with its metadata: the label map, uint8 (1, *spatial)
            with values 0…C−1, or the probabilities, in the input's shape and dtype.

        Raises:
            ValueError: another shape.
        """
        if probabilities.ndim not in (3, 4) or not 2 <= probabilities.shape[0] <= 255:
            raise ValueError(
                "probabilities must have the shape (C, H, W) or (C, H, W, D) with 2 to 255 "
                f"classes, got {tuple(probabilities.shape)}"
            )
        tensor = convert_to_tensor(probabilities, track_meta=False)
        # Of equal probabilities the first class; `argmax` takes six times as long along axis 0.
        labels = tensor.max(dim=0).indices.to(torch.uint8).cpu().numpy()
        removed = _removed(tensor, labels)
        if self.output == "labels":
            for _, box, mask in removed:
                labels[box][mask] = 0
            return convert_to_dst_type(labels[None], probabilities, dtype=np.uint8)[0]
        cleaned = tensor.clone()
        for value, box, mask in removed:
            where = torch.as_tensor(mask, device=cleaned.device)
            background, foreground = cleaned[0][box], cleaned[value][box]
            background[where] += foreground[where]
            foreground[where] = 0
        return convert_to_dst_type(cleaned, probabilities)[0]


class KeepMostProbableComponentd(OfEachKey):
    """Dictionary form of :class:`KeepMostProbableComponent`, with its arguments."""

    array = KeepMostProbableComponent
    backend = KeepMostProbableComponent.backend
