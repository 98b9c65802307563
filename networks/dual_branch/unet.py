"""U-Net with one shared encoder and a teacher and a student decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv, Dropout, Pool
from monai.networks.layers.utils import get_norm_layer
from torch import Tensor, nn

from mixseg.networks.dual_branch.base import (
    DualBranchNetwork,
    draw_convolutions,
    norm_name,
    resized,
)


class _DoubleConv(nn.Sequential):
    """Two 3×3 convolutions, each followed by normalization and ReLU."""

    def __init__(
        self, spatial_dims: int, in_channels: int, channels: int, norm: str, padding: int
    ) -> None:
        conv = Conv[Conv.CONV, spatial_dims]
        layers: list[nn.Module] = []
        for c_in in (in_channels, channels):
            layers += [
                conv(c_in, channels, kernel_size=3, padding=padding),
                get_norm_layer(norm_name(norm, (channels,)), spatial_dims, channels),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)


class _Encoder(nn.Module):
    """Contracting path and shared center: image → (center features, skips from top to bottom)."""

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        features: Sequence[int],
        norm: str,
        dropout: float,
        padded: bool,
    ) -> None:
        super().__init__()
        padding = 1 if padded else 0
        self.padded = padded
        *levels, center = features
        channels = (in_channels, *levels)
        self.blocks = nn.ModuleList(
            _DoubleConv(spatial_dims, channels[i], channels[i + 1], norm, padding)
            for i in range(len(levels))
        )
        self.dropout = Dropout[Dropout.DROPOUT, 1](dropout) if dropout else nn.Identity()
        self.pool = Pool[Pool.MAX, spatial_dims](kernel_size=2, stride=2)
        self.center = _DoubleConv(spatial_dims, levels[-1], center, norm, padding)
        self.up = Conv[Conv.CONVTRANS, spatial_dims](center, levels[-1], kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        skips = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == len(self.blocks) - 1:
                x = self.dropout(x)
            pooled = self.pool(x)
            # The released network takes its skips after the pooling.
            skips.append(x if self.padded else pooled)
            x = pooled
        return self.up(self.center(x)), skips


class _Decoder(nn.Module):
    """Expanding path with its 1×1 head: (center features, skips) → logits."""

    def __init__(
        self, spatial_dims: int, features: Sequence[int], out_channels: int, norm: str, padded: bool
    ) -> None:
        super().__init__()
        padding = 1 if padded else 0
        levels = features[:-1]
        self.blocks = nn.ModuleList()
        self.ups = nn.ModuleList()
        for i in range(len(levels) - 1, -1, -1):
            self.blocks.append(_DoubleConv(spatial_dims, 2 * levels[i], levels[i], norm, padding))
            if i > 0:
                self.ups.append(
                    Conv[Conv.CONVTRANS, spatial_dims](
                        levels[i], levels[i - 1], kernel_size=2, stride=2
                    )
                )
        self.head = Conv[Conv.CONV, spatial_dims](levels[0], out_channels, kernel_size=1)

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        for i, block in enumerate(self.blocks):
            skip = skips[-1 - i]
            if skip.shape[2:] != x.shape[2:]:
                skip = resized(skip, x.shape[2:])
            x = block(torch.cat((x, skip), dim=1))
            if i < len(self.ups):
                x = self.ups[i](x)
        return self.head(x)


class DualBranchUNet(DualBranchNetwork):
    """U-Net with a shared encoder and center and two decoders, teacher and student.

    The network of ConfKD (Dolz et al., IPMI 2021; Liu et al., 2021, §3.1 and Fig. 1): the
    teacher ('top') decoder learns from full masks, the student ('bottom') decoder from partial
    labels and from the teacher. With 1 input channel, 2 classes and the default features it has
    31,042,434 parameters with one decoder and 41,137,220 with two (journal, Table 8).

    ``padded=True`` (default) uses padded convolutions and un-pooled skips, so that the logits
    have full resolution. ``padded=False`` is the network that the authors released: unpadded
    convolutions, skips taken after the pooling and resized to the decoder's map, logits resized
    to the input (68×68 for an input of 256×256, hence coarse boundaries). Both have the same
    parameters.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: number of classes C, background included, at least 2.
        features: channels of each level, center last; at least one level and the center.
        dropout: probability at the end of the last encoder level, in [0, 1); 0.5 in the papers.
        norm: normalization with affine parameters, ``"batch"`` (papers) or ``"instance"``.
        padded: see above.
        branches: decoders to build, 2 (teacher and student) or 1 (main).
        branch: what ``forward`` returns when it is not told otherwise.

    Shapes:
        image (B, in_channels, H, W[, D]), float → logits (B, C, H, W[, D]). With
        ``padded=True`` every side must be a multiple of ``2**(len(features) - 1)``; with
        ``padded=False`` every side must be at least :attr:`minimum_size`.

    Raises:
        ValueError: on an option out of range, or an image of a size, rank or channel count that
            the network cannot take.

    Examples:
        >>> network = DualBranchUNet(out_channels=3, features=(4, 8, 16))
        >>> image = torch.zeros(2, 1, 16, 24)
        >>> teacher, student = network(image, branch="both")
        >>> tuple(student.shape)
        (2, 3, 16, 24)
        >>> tuple(network(image, branch="student").shape)  # the teacher is not computed
        (2, 3, 16, 24)
        >>> network(torch.zeros(2, 1, 18, 24))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: every side must be a multiple of 4, got (18, 24); pad or resize ...
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 2,
        features: Sequence[int] = (64, 128, 256, 512, 1024),
        dropout: float = 0.5,
        norm: str = "batch",
        padded: bool = True,
        branches: int = 2,
        branch: str = "both",
    ) -> None:
        super().__init__(
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            out_channels=out_channels,
            features=features,
            dropout=dropout,
            norm=norm,
            norms=("batch", "instance"),
            branches=branches,
            branch=branch,
        )
        self.padded = padded
        self.encoder = _Encoder(spatial_dims, in_channels, features, norm, dropout, padded)
        self._build_decoders(lambda: _Decoder(spatial_dims, features, out_channels, norm, padded))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the convolutions anew, as He et al. (2015); what they leave out is torch's own."""
        draw_convolutions(self)

    @property
    def minimum_size(self) -> int:
        """The smallest spatial side that ``padded=False`` takes (188 for five levels)."""
        size = 1  # of the logits before they are resized; walk back from there to the image
        for i in range(len(self.features) - 1):
            size = size + 4 if i == 0 else math.ceil(size / 2) + 4
        size = math.ceil(size / 2) + 4
        for _ in self.features[:-1]:
            size = 2 * size + 4
        return size

    def _check_sides(self, batch: int, sides: tuple[int, ...]) -> None:
        if self.padded:
            super()._check_sides(batch, sides)
        elif min(sides) < self.minimum_size:
            raise ValueError(
                f"every side must be at least {self.minimum_size} with padded=False, got {sides}"
            )

    def _decode(self, decoder: nn.Module, x: Tensor, skips: list[Tensor], image: Tensor) -> Tensor:
        logits = super()._decode(decoder, x, skips, image)
        return logits if self.padded else resized(logits, image.shape[2:])
