"""Cross-entropy over the labeled voxels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixseg.losses._common import divisor, prepare_logits, voxel_map

Normalization = Literal["labeled", "all"]


def _check_normalization(normalization: str) -> None:
    if normalization not in get_args(Normalization):
        raise ValueError(
            f"normalization must be one of {get_args(Normalization)}, got {normalization!r}"
        )


def partial_cross_entropy(
    logits: Tensor,
    label: Tensor,
    *,
    normalization: Normalization = "labeled",
    class_weight: Tensor | None = None,
) -> Tensor:
    """Cross-entropy over labeled voxels: L_s on full masks, L_w on partial labels.

    Liu et al. (ConfKD, journal version), eqs. 1 and 2: -Σ_l y_l^T log p_l over the labeled voxels.
    With no unlabeled voxel this is the ordinary mean cross-entropy: L_s is the same function.
    The softmax comes first and the mask after it: an unlabeled voxel changes neither the value nor
    any gradient.

    Args:
        logits: (B, C, *spatial), floating point, C >= 2.
        label: (B, 1, *spatial) or (B, *spatial), integer or float dtype holding 0..C-1, or C where
            unlabeled. Other values are refused when data are loaded and not checked here.
        normalization: "labeled" divides by the number of labeled voxels in the batch (under DDP
            in the batches of all processes, by their mean). "all"
            divides by the number of all voxels in the batch, which is the papers' sum normalized by
            the number of images, up to the constant image size; a sparse scribble then weighs less
            than a full mask.
        class_weight: (C,) factor of each class, on the device of the logits. It scales the sum and
            not the divisor, so that a weight of 2 doubles what a class adds, whatever the others
            are (`torch.nn.CrossEntropyLoss` divides by the summed weights instead).

    Returns:
        Scalar >= 0 in nats; float32 for half-precision logits. 0 with zero gradient, never NaN,
        when no voxel is labeled.

    Raises:
        TypeError: logits not floating point.
        ValueError: shapes do not match, or an unknown normalization.

    Examples:
        >>> logits = torch.tensor([[[0.25, 0.5], [0.75, 0.5]]]).log()  # 2 classes, 2 pixels
        >>> label = torch.tensor([[[1, 2]]])  # the second pixel is unlabeled
        >>> round(partial_cross_entropy(logits, label).item(), 4)  # -ln 0.75
        0.2877
        >>> round(partial_cross_entropy(logits, label, normalization="all").item(), 4)
        0.1438
    """
    _check_normalization(normalization)
    logits = prepare_logits(logits)
    num_classes = logits.shape[1]
    target = voxel_map(label, logits, name="label").long()
    if class_weight is not None:
        if class_weight.shape != (num_classes,):
            raise ValueError(
                f"class_weight must have shape ({num_classes},) to match logits of shape "
                f"{tuple(logits.shape)}, got {tuple(class_weight.shape)}"
            )
        class_weight = class_weight.to(logits.dtype)
    total = F.cross_entropy(
        logits, target, weight=class_weight, ignore_index=num_classes, reduction="sum"
    )
    if normalization == "all":
        return total / max(target.numel(), 1)
    return total / divisor((target != num_classes).sum(), total)


class PartialCrossEntropyLoss(nn.Module):
    """Module form of `partial_cross_entropy`.

    Args:
        normalization: "labeled" or "all", see `partial_cross_entropy`.
        class_weight: C non-negative factors, or None. A buffer, so that it follows `.to(device)`,
            but outside `state_dict`: it is configuration, not a trained value.

    Raises:
        ValueError: unknown normalization; class_weight not one-dimensional, or with a negative or
            non-finite entry.
    """

    class_weight: Tensor | None

    def __init__(
        self,
        normalization: Normalization = "labeled",
        class_weight: Sequence[float] | Tensor | None = None,
    ) -> None:
        super().__init__()
        _check_normalization(normalization)
        self.normalization: Normalization = normalization
        weight = None
        if class_weight is not None:
            weight = torch.as_tensor(class_weight, dtype=torch.float32)
            if weight.ndim != 1 or not bool((weight.isfinite() & (weight >= 0)).all()):
                raise ValueError(
                    "class_weight must be one finite, non-negative number per class, "
                    f"got {weight.tolist()}"
                )
        self.register_buffer("class_weight", weight, persistent=False)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Scalar loss of logits (B, C, *spatial) and label (B, 1, *spatial) or (B, *spatial)."""
        return partial_cross_entropy(
            logits, label, normalization=self.normalization, class_weight=self.class_weight
        )

    def extra_repr(self) -> str:
        """Arguments shown by print."""
        weight = None if self.class_weight is None else self.class_weight.tolist()
        return f"normalization={self.normalization!r}, class_weight={weight}"
