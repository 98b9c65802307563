"""Sharpened predictions as targets, more sharpened where a pixel is uncertain and not noisy."""

from __future__ import annotations

import torch
from torch import Tensor

from mixseg.losses._common import LossModule, prepare_logits, voxel_map
from mixseg.losses.consistency import softmax_mse


def _check_minimum(minimum: float) -> None:
    if not 0 < minimum <= 1:
        raise ValueError(f"the smallest temperature must lie in (0, 1], got {minimum}")


@torch.no_grad()
def adaptive_temperature(logits: Tensor, log_variance: Tensor, *, minimum: float = 0.01) -> Tensor:
    """Temperature of each voxel from its confidence and variance, eqs. 6 and 7.

    Wu et al., 'Semi-supervised semantic segmentation via entropy minimization', ICME 2021:
    c = max softmax(μ) + σ², and T = (c - min c) / (max c - min c). The variance is that of the
    most probable class, whose probability it is added to. Minimum and maximum are over the voxels
    of an image, so that what others share its batch does not matter. The least certain voxel of an
    image has T = 0, whose target would be one-hot: T is clamped from below.

    Args:
        logits: μ, (B, C, *spatial), floating point, C >= 2.
        log_variance: log σ², same shape; its exp must be representable.
        minimum: smallest T, in (0, 1].

    Returns:
        (B, *spatial) within [minimum, 1], without a gradient; 1, no sharpening, all over an image
        whose voxels are all alike. float32 for half-precision logits.

    Raises:
        TypeError: not floating point.
        ValueError: shapes differ, or a minimum out of range.

    Examples:
        Three pixels without variance: confidences ½, ¾ and 1.

        >>> logits = torch.tensor([[[0.5, 0.25, 0.0], [0.5, 0.75, 1.0]]]).log()
        >>> none = torch.full((1, 2, 3), -50.0)
        >>> [round(t, 4) for t in adaptive_temperature(logits, none).flatten().tolist()]
        [0.01, 0.5, 1.0]
    """
    _check_minimum(minimum)
    if logits.shape != log_variance.shape:
        raise ValueError(
            "logits and log_variance must have the same shape, got "
            f"{tuple(logits.shape)} and {tuple(log_variance.shape)}"
        )
    confidence, predicted = prepare_logits(logits).softmax(dim=1).max(dim=1, keepdim=True)
    variance = prepare_logits(log_variance, name="log_variance").gather(1, predicted).exp()
    certainty = (confidence + variance).squeeze(1)
    axes = tuple(range(1, certainty.ndim))
    low, high = (f(certainty, dim=axes, keepdim=True) for f in (torch.amin, torch.amax))
    spread = high - low
    temperature = torch.where(spread > 0, (certainty - low) / spread, 1)
    return temperature.clamp(min=minimum)


def sharpened_consistency(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Mean squared difference of a prediction and itself sharpened, the latter fixed.

    Wu et al., ICME 2021, eqs. 5 and 8: Sharpen(p, T) = p^{1/T} / Σ_c p_c^{1/T} is a target without
    a gradient. It is the softmax of log p / T, which a small T makes large and does not overflow.
    Eq. 8 divides by N, taken as voxels times classes, a mean squared error.

    Args:
        logits: (B, C, *spatial), floating point, C >= 2.
        temperature: T > 0, one number (MixMatch's sharpening) or (B, *spatial) or
            (B, 1, *spatial), as of `adaptive_temperature`. At 1 the term is 0.

    Returns:
        Scalar within [0, 2/C]; float32 for half-precision logits.

    Raises:
        TypeError: logits not floating point.
        ValueError: a number that is not positive, or a map of another shape.

    Examples:
        >>> logits = torch.tensor([[[0.75], [0.25]]]).log()  # (1, 2 classes, 1 pixel)
        >>> round(sharpened_consistency(logits, 0.5).item(), 4)  # target (0.9, 0.1)
        0.0225
    """
    log_p = prepare_logits(logits).detach().log_softmax(dim=1)
    if isinstance(temperature, Tensor):
        temperature = voxel_map(temperature, log_p, name="temperature").detach().unsqueeze(1)
    elif not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return softmax_mse(logits, log_p / temperature)


class SharpeningLoss(LossModule):
    """Module form of `sharpened_consistency`, the temperature adaptive or fixed.

    Args:
        temperature: T of all voxels; None for `adaptive_temperature`.
        minimum: smallest adaptive T.

    Raises:
        ValueError: on an option out of range.
    """

    def __init__(self, temperature: float | None = None, minimum: float = 0.01) -> None:
        super().__init__()
        if temperature is not None and not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        _check_minimum(minimum)
        self.temperature = temperature
        self.minimum = minimum

    def forward(self, logits: Tensor, log_variance: Tensor) -> Tensor:
        """Scalar loss of logits and their log-variance, which a fixed T does not read."""
        if self.temperature is not None:
            return sharpened_consistency(logits, self.temperature)
        temperature = adaptive_temperature(logits, log_variance, minimum=self.minimum)
        return sharpened_consistency(logits, temperature)
