"""V-Net with one shared encoder and a teacher and a student decoder."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.layers.factories import Conv
from monai.networks.layers.utils import get_norm_layer
from torch import Tensor, nn

from mixseg.networks.dual_branch.base import DualBranchNetwork, dropout_layer, norm_name

_Norm = str | tuple[str, dict[str, object]]


def _normalized(conv: nn.Module, spatial_dims: int, channels: int, norm: _Norm) -> list[nn.Module]:
    """A convolution, then normalization and ReLU."""
    return [conv, get_norm_layer(norm, spatial_dims, channels), nn.ReLU(inplace=True)]


def _block(spatial_dims: int, level: int, channels: int, norm: _Norm, inputs: int) -> nn.Sequential:
    """The 3×3×3 convolutions of one level: 1, 2, 3, 3, 3, … from the top."""
    conv = Conv[Conv.CONV, spatial_dims]
    layers: list[nn.Module] = []
    for i in range(min(level + 1, 3)):
        c_in = inputs if i == 0 else channels
        layers += _normalized(
            conv(c_in, channels, kernel_size=3, padding=1), spatial_dims, channels, norm
        )
    return nn.Sequential(*layers)


class _Encoder(nn.Module):
    """Contracting path and bottleneck: image → (deepest features, skips from top to bottom)."""

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        features: Sequence[int],
        norm: _Norm,
        dropout: float,
    ) -> None:
        super().__init__()
        conv = Conv[Conv.CONV, spatial_dims]
        self.blocks = nn.ModuleList()
        self.downs = nn.ModuleList()
        for level, channels in enumerate(features):
            inputs = channels if level else in_channels
            self.blocks.append(_block(spatial_dims, level, channels, norm, inputs))
            if level + 1 < len(features):
                deeper = features[level + 1]
                down = conv(channels, deeper, kernel_size=2, stride=2)
                self.downs.append(nn.Sequential(*_normalized(down, spatial_dims, deeper, norm)))
        self.dropout = dropout_layer(spatial_dims, dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        skips = []
        for block, down in zip(self.blocks, self.downs, strict=False):
            x = block(x)
            skips.append(x)
            x = down(x)
        return self.dropout(self.blocks[-1](x)), skips


class _Decoder(nn.Module):
    """Expanding path with its 1×1×1 head: (deepest features, skips) → logits."""

    def __init__(
        self,
        spatial_dims: int,
        features: Sequence[int],
        out_channels: int,
        norm: _Norm,
        dropout: float,
    ) -> None:
        super().__init__()
        transposed = Conv[Conv.CONVTRANS, spatial_dims]
        self.ups = nn.ModuleList()
        self.blocks = nn.ModuleList()
        for level in range(len(features) - 2, -1, -1):
            channels = features[level]
            up = transposed(features[level + 1], channels, kernel_size=2, stride=2)
            self.ups.append(nn.Sequential(*_normalized(up, spatial_dims, channels, norm)))
            self.blocks.append(_block(spatial_dims, level, channels, norm, channels))
        self.dropout = dropout_layer(spatial_dims, dropout)
        self.head = Conv[Conv.CONV, spatial_dims](features[0], out_channels, kernel_size=1)

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        for up, block, skip in zip(self.ups, self.blocks, reversed(skips), strict=True):
            x = block(up(x) + skip)
        return self.head(self.dropout(x))


class DualBranchVNet(DualBranchNetwork):
    """V-Net with a shared encoder and bottleneck and two decoders, teacher and student.

    The V-Net of UA-MT (Yu et al., MICCAI 2019; ``code/networks/vnet.py`` of its repository),
    whose setting the journal version of ConfKD follows for the left atrium (Liu et al., 2021,
    §4, 'Implementation details'). Unlike the original V-Net it has plain blocks: 1, 2, 3, 3, 3
    convolutions of 3×3×3 going down and 3, 3, 2, 1 going up, each with normalization and ReLU,
    as have the convolutions of stride 2 between the levels; skips are added; dropout of whole
    channels follows the bottleneck and precedes the head. Weights start from PyTorch's defaults,
    as in UA-MT. With 1 input channel, 2 classes and the default features it has 9,448,866
    parameters with one decoder.

    The branches part after the bottleneck and its dropout. The journal duplicates 'the decoding
    path' of U-Net and V-Net and keeps the encoder that of the single branch. Its V-Net was not
    released, so the border is where UA-MT's code has it: the ``encoder`` there ends with the
    bottleneck and its dropout, the ``decoder`` begins with the transposed convolution. (The
    released U-Net of ConfKD shares that convolution too; see :class:`DualBranchUNet`.) Both
    branches thus see the same dropped channels at the bottleneck, and each draws its own before
    its head.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: number of classes C, background included, at least 2.
        features: channels of each level, bottleneck last; at least two. Level i, counted from
            0, has ``min(i + 1, 3)`` convolutions.
        dropout: probability that a channel is dropped at the bottleneck and before the head, in
            [0, 1); 0.5 in UA-MT.
        norm: ``"batch"`` (UA-MT), ``"instance"``, ``"group"`` (16 groups, or the most below 16
            that divide all features) or ``"none"``; with scale and shift.
        branches: decoders to build, 2 (teacher and student) or 1 (main).
        branch: what ``forward`` returns when it is not told otherwise.

    Shapes:
        image (B, in_channels, H, W[, D]), float → logits (B, C, H, W[, D]). Every side must be a
        multiple of :attr:`size_divisor`, ``2**(len(features) - 1)``. With ``norm="instance"``,
        and with ``norm="batch"`` in training on a single image, one side must be larger.

    Raises:
        ValueError: on an option out of range, or an image of a size, rank or channel count that
            the network cannot take.

    Examples:
        >>> import torch
        >>> network = DualBranchVNet(features=(2, 4, 8), branch="student")
        >>> network.size_divisor
        4
        >>> tuple(network(torch.zeros(1, 1, 16, 16, 8)).shape)
        (1, 2, 16, 16, 8)
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 2,
        features: Sequence[int] = (16, 32, 64, 128, 256),
        dropout: float = 0.5,
        norm: str | None = "batch",
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
            branches=branches,
            branch=branch,
        )
        name = norm_name(norm, features)
        self.encoder = _Encoder(spatial_dims, in_channels, features, name, dropout)
        self._build_decoders(lambda: _Decoder(spatial_dims, features, out_channels, name, dropout))
