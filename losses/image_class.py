"""Classes of a whole image, learned from its mask, and their agreement with the pixels'."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mixseg.losses._common import LossModule, divisor, prepare_logits


def classes_present(label: Tensor, num_classes: int) -> Tensor:
    """Classes with at least one labeled voxel in an image.

    Args:
        label: (B, *spatial) or (B, 1, *spatial), 0..C-1, or C where unlabeled.
        num_classes: C.

    Returns:
        (B, C), bool; a row is False altogether where nothing is labeled.

    Examples:
        >>> classes_present(torch.tensor([[[0, 2, 3]], [[3, 3, 3]]]), num_classes=3).tolist()
        [[True, False, True], [False, False, False]]
    """
    flat = label.as_subclass(Tensor).flatten(1)
    return torch.stack([(flat == c).any(dim=1) for c in range(num_classes)], dim=1)


def image_class_cross_entropy(class_logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of an image's class logits with the classes that its mask has.

    The second sum of eq. 2 of Wu et al., 'Semi-supervised semantic segmentation via entropy
    minimization', ICME 2021, which leaves the activation open. Here it is the softmax, which eq. 9
    applies to the same logits, and the target is divided by its sum: n classes that are present
    have the target 1/n each. A class is then below 1/C, the threshold of eq. 9, where it is less
    probable than if all were present.

    Unlabeled voxels show no class: they change neither the value nor any gradient. A class that
    an incomplete mask does not show counts as absent.

    Args:
        class_logits: (B, C), floating point, C >= 2.
        label: (B, 1, *spatial) or (B, *spatial), 0..C-1, or C where unlabeled.

    Returns:
        Scalar >= 0 in nats, the mean over images with a labeled voxel; float32 for half-precision
        logits. 0 with zero gradient when there is no such image.

    Raises:
        TypeError: logits not floating point.
        ValueError: the logits are not (B, C), or the label has another batch size.

    Examples:
        Classes 0 and 2 are present: -½ ln ½ - ½ ln ¼.

        >>> logits = torch.tensor([[0.5, 0.25, 0.25]]).log()
        >>> round(image_class_cross_entropy(logits, torch.tensor([[[0, 2, 3]]])).item(), 4)
        1.0397
    """
    logits = _class_logits(class_logits)
    if len(label) != len(logits):
        raise ValueError(
            f"label must have the batch size of class_logits, got {len(label)} and {len(logits)}"
        )
    present = classes_present(label, logits.shape[1]).to(logits.dtype)
    count = present.sum(dim=1, keepdim=True)
    values = F.cross_entropy(logits, present / count.clamp(min=1), reduction="sum")
    return values / divisor((count > 0).sum(), values)


def low_confidence_consistency(
    class_logits: Tensor, logits: Tensor, *, threshold: float | None = None
) -> Tensor:
    """Mean of p_c p_s over the classes that the image is unlikely to have.

    Wu et al., ICME 2021, eq. 9: (1/|p_c < β|) Σ_{p_c < β} p_c p_s, with p_c = softmax μ_c of the
    image and p_s = softmax μ_s of its pixels, over which the mean is taken. It is 0 where pixels
    leave the improbable classes alone. Gradients reach both.

    Args:
        class_logits: μ_c, (B, C), floating point, C >= 2.
        logits: μ_s, (B, C, *spatial).
        threshold: β, in (0, 1]; None is 1/C. Softmaxes sum to 1, so that at 1/C an image that has
            all classes nearly always has one below, by chance; a smaller β leaves it alone.

    Returns:
        Scalar within [0, β), the mean over all such pairs of image and class in the batch;
        float32 for half-precision logits. 0 with zero gradient when there is none.

    Raises:
        TypeError: logits not floating point.
        ValueError: shapes do not match, or a threshold out of range.

    Examples:
        Of three classes the last is improbable; a third of its pixels' probability is ½:

        >>> class_logits = torch.tensor([[0.5, 0.4, 0.1]]).log()
        >>> logits = torch.tensor([[[0.5, 1, 0], [1e-9, 0, 1], [0.5, 0, 0]]]).log()
        >>> round(low_confidence_consistency(class_logits, logits).item(), 4)  # 0.1 · 0.5 / 3
        0.0167
    """
    image = _class_logits(class_logits)
    pixels = prepare_logits(logits)
    if pixels.shape[:2] != image.shape:
        raise ValueError(
            f"class_logits must have shape {tuple(pixels.shape[:2])} to match logits of shape "
            f"{tuple(logits.shape)}, got {tuple(image.shape)}"
        )
    _check_threshold(threshold)
    if threshold is None:
        threshold = 1 / image.shape[1]
    p = image.softmax(dim=1)
    agreement = p * pixels.softmax(dim=1).flatten(2).mean(dim=2)
    selected = p < threshold
    total = torch.where(selected, agreement, 0).sum()
    return total / divisor(selected.sum(), total)


class ClassConsistencyLoss(LossModule):
    """Module form of `low_confidence_consistency`."""

    def __init__(self, threshold: float | None = None) -> None:
        super().__init__()
        _check_threshold(threshold)
        self.threshold = threshold

    def forward(self, class_logits: Tensor, logits: Tensor) -> Tensor:
        """Scalar loss of class logits (B, C) and logits (B, C, *spatial)."""
        return low_confidence_consistency(class_logits, logits, threshold=self.threshold)


def _class_logits(class_logits: Tensor) -> Tensor:
    if class_logits.ndim != 2:
        raise ValueError(f"class_logits must be (B, C), got shape {tuple(class_logits.shape)}")
    return prepare_logits(class_logits.unsqueeze(-1), name="class_logits").squeeze(-1)


def _check_threshold(threshold: float | None) -> None:
    if threshold is not None and not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1], got {threshold}")
