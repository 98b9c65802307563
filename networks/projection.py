"""Heads that project features to soft cluster assignments."""

from __future__ import annotations

from typing import cast

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn


class _ProjectionHead(nn.Module):
    """Sub-heads as one layer with heads · clusters outputs."""

    layer: nn.Module

    def __init__(self, in_channels: int, clusters: int, heads: int) -> None:
        super().__init__()
        if in_channels < 1:
            raise ValueError(f"in_channels must be at least 1, got {in_channels}")
        if clusters < 2:
            raise ValueError(f"clusters must be at least 2, got {clusters}")
        if heads < 1:
            raise ValueError(f"heads must be at least 1, got {heads}")
        self.in_channels = in_channels
        self.clusters = clusters
        self.heads = heads

    def _check(self, features: Tensor, spatial_dims: tuple[int, ...]) -> None:
        shape = tuple(features.shape)
        if features.ndim - 2 not in spatial_dims or shape[1] != self.in_channels:
            axes = "H, W, D" if spatial_dims == (3,) else "H, W"
            axes += "[, D]" if len(spatial_dims) == 2 else ""
            raise ValueError(
                f"expected features of shape (B, {self.in_channels}, {axes}), got {shape}"
            )

    def _assign(self, features: Tensor) -> tuple[Tensor, ...]:
        scores = self.layer(features)
        # In half precision the rows would not sum to 1, and mutual information would drift by it.
        wide = torch.float32 if scores.dtype in (torch.float16, torch.bfloat16) else None
        return tuple(s.softmax(dim=1, dtype=wide) for s in scores.chunk(self.heads, dim=1))


class GlobalProjectionHead(_ProjectionHead):
    """Average pool, linear layer, softmax: one soft cluster of a whole image and sub-head.

    The head of GLMI's global term (Peng et al., MELBA 2021), there at the deepest encoder level
    with 20 clusters, more than there are classes, and five sub-heads. It has
    heads · clusters · (in_channels + 1) parameters.

    Args:
        in_channels: channels of the features.
        clusters: K >= 2.
        heads: sub-heads with weights of their own.

    Raises:
        ValueError: on an option out of range, or features of another shape.

    Examples:
        >>> head = GlobalProjectionHead(64, clusters=20, heads=5)
        >>> [tuple(z.shape) for z in head(torch.zeros(4, 64, 7, 7))]
        [(4, 20), (4, 20), (4, 20), (4, 20), (4, 20)]
    """

    def __init__(self, in_channels: int, clusters: int = 20, heads: int = 5) -> None:
        super().__init__(in_channels, clusters, heads)
        self.layer = nn.Linear(in_channels, heads * clusters)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Assignments (B, K) of each sub-head, rows summing to 1."""
        self._check(features, (2, 3))
        return self._assign(features.flatten(2).mean(dim=2))


class LocalProjectionHead(_ProjectionHead):
    """1×1 convolution, softmax: one soft cluster of each voxel and sub-head.

    The head of GLMI's local term (Peng et al., MELBA 2021), there at two decoder levels. It has
    heads · clusters · (in_channels + 1) parameters.

    Args:
        in_channels: channels of the features.
        clusters: K >= 2.
        heads: sub-heads with weights of their own.
        spatial_dims: 2 or 3.

    Raises:
        ValueError: on an option out of range, or features of another shape.

    Examples:
        >>> head = LocalProjectionHead(16, clusters=20, heads=2, spatial_dims=3)
        >>> [tuple(z.shape) for z in head(torch.zeros(1, 16, 8, 8, 4))]
        [(1, 20, 8, 8, 4), (1, 20, 8, 8, 4)]
    """

    def __init__(
        self, in_channels: int, clusters: int = 20, heads: int = 5, *, spatial_dims: int = 2
    ) -> None:
        super().__init__(in_channels, clusters, heads)
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}")
        self.spatial_dims = spatial_dims
        convolution = Conv[Conv.CONV, spatial_dims]
        self.layer = cast(nn.Module, convolution(in_channels, heads * clusters, kernel_size=1))

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Assignments (B, K, H, W[, D]) of each sub-head, summing to 1 at each voxel."""
        self._check(features, (self.spatial_dims,))
        return self._assign(features)
