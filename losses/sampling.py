"""Samples of uncertain logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mixseg.losses._common import check_same_shape, prepare_logits


def _prepared(values: Tensor, name: str) -> Tensor:
    if values.ndim == 2:  # of a whole image
        return prepare_logits(values.unsqueeze(-1), name=name).squeeze(-1)
    return prepare_logits(values, name=name)


def sample_logits(mean: Tensor, log_variance: Tensor, *, samples: int = 1) -> Tensor:
    """Logits drawn from N(μ, σ²), z = μ + σ ε, through which gradients reach μ and σ.

    Wu et al., 'Semi-supervised semantic segmentation via entropy minimization', ICME 2021, §3.1,
    after Kingma and Welling: one ε of a standard normal distribution for each class and pixel, from
    torch's global generator. The mean over ε of the cross-entropy of one sample is never below the
    cross-entropy of μ, whatever the label, so that such training shrinks σ, the more the less
    certain the prediction is. With several samples their probabilities are averaged before the
    logarithm, as by Kendall and Gal (NeurIPS 2017, eq. 12): σ then lowers the cost of a wrong
    prediction.

    Args:
        mean: μ, (B, C, *spatial) or (B, C), floating point, C >= 2.
        log_variance: log σ², same shape; exp of its half must be representable.
        samples: S >= 1.

    Returns:
        Logits of the shape of ``mean``: the sample, or for S > 1 the logarithm of the mean of S
        softmaxes; float32 for half precision.

    Raises:
        TypeError: not floating point.
        ValueError: shapes differ, or ``samples`` below 1.

    Examples:
        Without variance the sample is the mean:

        >>> mean = torch.tensor([[1.0, -2.0]])
        >>> sample_logits(mean, torch.full((1, 2), -200.0)).tolist()
        [[1.0, -2.0]]
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    check_same_shape(mean, log_variance, ("mean", "log_variance"))
    mean = _prepared(mean, "mean")
    deviation = (0.5 * _prepared(log_variance, "log_variance")).exp()
    if samples == 1:
        return mean + deviation * torch.randn_like(mean)
    draws = [(mean + deviation * torch.randn_like(mean)).log_softmax(dim=1) for _ in range(samples)]
    return torch.stack(draws).logsumexp(dim=0) - math.log(samples)
