"""Spatial gradients of an encoder's features, compared between its levels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from mixseg.losses._common import LossModule, in_full_precision

Operator = Literal["sobel", "difference"]
Reduction = Literal["mean", "norm"]
Resizing = Literal["pool", "interpolate"]
Levels = Literal["through", "below"]

_POOL: dict[int, Callable[..., Tensor]] = {2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
_LINEAR = {2: "bilinear", 3: "trilinear"}


def _check_choice(name: str, value: str, choices: object) -> None:
    """Raise ValueError where a choice is not one of a Literal's."""
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, got {value!r}")


def _neighbors(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Previous and next values along an axis, the border repeated."""
    # Slices, not convolutions or padding: autocast would run the former in half precision, and
    # the gradient of replicated padding is not deterministic on CUDA.
    size = x.shape[dim]
    before = torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, size - 1)], dim)
    after = torch.cat([x.narrow(dim, 1, size - 1), x.narrow(dim, size - 1, 1)], dim)
    return before, after


def _root(squares: Tensor) -> Tensor:
    """Square root that passes 0 back where it is 0, and not its infinite slope there."""
    # Not vector_norm, which does the same: along a short axis it takes 8 times as long on a CPU.
    zero = squares == 0
    return squares.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)


def gradient_map(
    features: Tensor, *, operator: Operator = "sobel", channel_reduction: Reduction = "mean"
) -> Tensor:
    """Magnitude of the spatial gradient of features, one number per voxel.

    Args:
        features: (B, channels, *spatial), floating point, 2D or 3D.
        operator: ``"sobel"``, central differences smoothed by (1, 2, 1)/4 along every other axis,
            or ``"difference"``, central differences alone. Both give 1 for a ramp that rises by 1
            a voxel; beyond the border its values are repeated.
        channel_reduction: of the channels' magnitudes ‖∇e_c‖, ``"mean"`` or ``"norm"``, their
            2-norm over √channels (the root mean square), so that wide levels weigh no more.

    Returns:
        (B, 1, *spatial), >= 0; float32 for half-precision features. Where the gradient is 0, so is
        what passes back.

    Raises:
        TypeError: features not floating point.
        ValueError: features of another rank, or an unknown choice.

    Examples:
        >>> ramp = torch.tensor([0.0, 3.0, 6.0, 9.0]).expand(1, 1, 3, 4)
        >>> gradient_map(ramp)[0, 0, 1].tolist()  # half at the borders
        [1.5, 3.0, 3.0, 1.5]
    """
    _check_choice("operator", operator, Operator)
    _check_choice("channel_reduction", channel_reduction, Reduction)
    if not features.is_floating_point():
        raise TypeError(f"features must be floating point, got {features.dtype}")
    if features.ndim not in (4, 5):
        raise ValueError(
            f"features must be (B, channels, H, W[, D]), got shape {tuple(features.shape)}"
        )
    x = in_full_precision(features.as_subclass(Tensor))
    axes = range(2, x.ndim)
    squares = torch.zeros_like(x)
    for axis in axes:
        before, after = _neighbors(x, axis)
        part = (after - before) / 2
        if operator == "sobel":
            for other in axes:
                if other != axis:
                    before, after = _neighbors(part, other)
                    part = (before + 2 * part + after) / 4
        squares = squares + part.square()
    if channel_reduction == "mean":
        return _root(squares).mean(dim=1, keepdim=True)
    return _root(squares.mean(dim=1, keepdim=True))


def feature_gradient_regularization(
    features: Sequence[Tensor],
    *,
    operator: Operator = "sobel",
    channel_reduction: Reduction = "mean",
    resizing: Resizing = "pool",
    levels: Levels = "through",
) -> Tensor:
    """Squared difference of each level's gradient map and the accumulated maps down to it, fixed.

    Wu et al., 'Semi-supervised semantic segmentation via entropy minimization', ICME 2021, eq. 4:
    the mean over encoder levels j of (1/|e_j|) ‖Σ_{i<=j} ∇e_i - ∇e_j‖², where the sum passes no
    gradient back. |e_j| are the voxels of its map and the images of the batch.

    The sum includes j itself. The value is therefore that of the levels above, ‖Σ_{i<j} ∇e_i‖²,
    whatever ∇e_j is, and the gradient with respect to ∇e_j is -2 Σ_{i<j} ∇e_i: each level's
    gradients are raised where those above it have edges, by a force that does not end. Level 0
    adds neither value nor gradient. ``levels="below"`` leaves j out of the sum: ∇e_j then has a
    target that it can reach, and level 0 none, so that the mean is over the others.

    Args:
        features: two or more levels from the image downwards, each (B, channels, *spatial).
        operator: see `gradient_map`.
        channel_reduction: see `gradient_map`.
        resizing: how a finer map gets the size of a coarser one: ``"pool"``, the average of the
            voxels, or ``"interpolate"``, linearly between the nearest ones. A factor of 2 is the
            same in both; beyond it interpolation skips voxels.
        levels: ``"through"`` (the paper) or ``"below"``, see above.

    Returns:
        Scalar >= 0; float32 for half-precision features.

    Raises:
        TypeError: features not floating point.
        ValueError: fewer than two levels, levels of other batches or ranks, or an unknown choice.

    Examples:
        Level 0 has the slope 1 everywhere but at the borders, level 1 has none:

        >>> slope = torch.arange(6.0).expand(1, 1, 6, 6)
        >>> levels = [slope, torch.zeros(1, 4, 6, 6)]
        >>> round(feature_gradient_regularization(levels).item(), 4)  # ½ (4 · 1² + 2 · ½²) / 6
        0.375
        >>> round(feature_gradient_regularization(levels, levels="below").item(), 4)
        0.75
    """
    _check_choice("resizing", resizing, Resizing)
    _check_choice("levels", levels, Levels)
    if len(features) < 2:
        raise ValueError(f"features must be of at least two levels, got {len(features)}")
    maps = [
        gradient_map(e, operator=operator, channel_reduction=channel_reduction) for e in features
    ]
    if len({(len(m), m.ndim) for m in maps}) > 1:
        shapes = ", ".join(str(tuple(e.shape)) for e in features)
        raise ValueError(f"all levels must be of the same images, got shapes {shapes}")
    values = []
    first = 0 if levels == "through" else 1
    for j, own in enumerate(maps[first:], start=first):
        above = maps[: j + 1 - first]
        target = torch.stack([_resized(m.detach(), own, resizing) for m in above]).sum(dim=0)
        values.append((target - own).square().sum() / max(own.numel(), 1))
    return torch.stack(values).mean()


def _resized(finer: Tensor, own: Tensor, resizing: Resizing) -> Tensor:
    size = own.shape[2:]
    if finer.shape[2:] == size:
        return finer
    if resizing == "pool":
        return _POOL[len(size)](finer, size)
    return F.interpolate(finer, size=size, mode=_LINEAR[len(size)], align_corners=False)


class FeatureGradientLoss(LossModule):
    """Module form of `feature_gradient_regularization`."""

    def __init__(
        self,
        operator: Operator = "sobel",
        channel_reduction: Reduction = "mean",
        resizing: Resizing = "pool",
        levels: Levels = "through",
    ) -> None:
        super().__init__()
        _check_choice("operator", operator, Operator)
        _check_choice("channel_reduction", channel_reduction, Reduction)
        _check_choice("resizing", resizing, Resizing)
        _check_choice("levels", levels, Levels)
        self.operator: Operator = operator
        self.channel_reduction: Reduction = channel_reduction
        self.resizing: Resizing = resizing
        self.levels: Levels = levels

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Scalar loss of features, each (B, channels, *spatial), from the image downwards."""
        return feature_gradient_regularization(
            features,
            operator=self.operator,
            channel_reduction=self.channel_reduction,
            resizing=self.resizing,
            levels=self.levels,
        )
