"""Loss terms of discriminators, and of networks that learn from them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mixseg.losses._common import divisor, in_full_precision


def real_or_fake(scores: Tensor, real: bool, *, mask: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy of a discriminator's scores with one target for all of them.

    -log σ(s) where the target is 1, real, and -log (1 - σ(s)) where it is 0, fake: the loss of the
    discriminator (Hung et al., BMVC 2018, eq. 1, there a sum) and, with ``real`` on predictions,
    what a network that deceives it minimizes (eq. 4).

    Args:
        scores: of any shape, floating point, before the sigmoid: one for each voxel or image.
        real: the target of all scores.
        mask: bool, of the scores' shape; scores to average over, None for all.

    Returns:
        Scalar >= 0; float32 for half-precision scores. 0 with zero gradient when the mask selects
        nothing.

    Raises:
        TypeError: scores not floating point, or mask not bool.
        ValueError: the mask has another shape.

    Examples:
        >>> scores = torch.tensor([0.0, 50.0])  # undecided, and sure that it is real
        >>> round(real_or_fake(scores, real=True).item(), 4)  # mean of ln 2 and 0
        0.3466
        >>> round(real_or_fake(scores, False, mask=torch.tensor([True, False])).item(), 4)
        0.6931
    """
    if not scores.is_floating_point():
        raise TypeError(f"scores must be floating point, got {scores.dtype}")
    scores = in_full_precision(scores)
    values = F.softplus(-scores if real else scores)
    if mask is None:
        return values.mean()
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be bool, got {mask.dtype}")
    if mask.shape != scores.shape:
        raise ValueError(
            f"mask must have the shape {tuple(scores.shape)} of the scores, got {tuple(mask.shape)}"
        )
    return torch.where(mask, values, 0).sum() / divisor(mask.sum(), values)


def feature_matching(real: Tensor, fake: Tensor) -> Tensor:
    """Mean absolute difference of the mean features of two sets of images.

    Mittal et al., 'Semi-supervised semantic segmentation with high- and low-level consistency',
    TPAMI 2019, its feature-matching loss: 1/F Σ_f |mean_b real_bf - mean_b fake_bf|.

    Args:
        real: (B, F), floating point, features of real pairs.
        fake: (B', F), those of predicted pairs.

    Returns:
        Scalar >= 0; float32 for half precision. 0 with zero gradient where either set is empty.

    Raises:
        ValueError: not two matrices with the same number of features.

    Examples:
        >>> feature_matching(torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.ones(1, 2)).item()
        1.0
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"features must be (B, F) and (B', F), got {tuple(real.shape)} and {tuple(fake.shape)}"
        )
    if not (len(real) and len(fake)):
        return 0 * (real.float().sum() + fake.float().sum())
    means = [in_full_precision(features).mean(dim=0) for features in (real, fake)]
    return (means[0] - means[1]).abs().mean()


def labeled_maps(label: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """One-hot probabilities of a mask, and where it is labeled.

    Args:
        label: (B, 1, *spatial), 0…C−1 and C = unlabeled.
        num_classes: C.

    Returns:
        One-hot maps (B, C, *spatial), float32, 0 in every class where unlabeled, and a bool map
        (B, 1, *spatial), true where labeled.

    Examples:
        >>> maps, labeled = labeled_maps(torch.tensor([[[0, 1, 2]]]), 2)  # the last is unlabeled
        >>> maps[0].tolist(), labeled[0, 0].tolist()
        ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [True, True, False])
    """
    plain = label.as_subclass(Tensor)
    maps = F.one_hot(plain[:, 0].long(), num_classes + 1)[..., :num_classes].movedim(-1, 1)
    return maps.float(), plain < num_classes
