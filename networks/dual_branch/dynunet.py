"""MONAI's DynUNet (nnU-Net) with one shared encoder and a teacher and a student decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence

from monai.networks.nets import DynUNet
from monai.utils import ensure_tuple_rep
from torch import Tensor, nn

from mixseg.networks.dual_branch.base import DualBranchNetwork, dropout_layer, norm_name

_Sizes = Sequence[int | Sequence[int]]


class _Encoder(nn.Module):
    """Contracting path and bottleneck: image → (deepest features, skips from top to bottom)."""

    def __init__(self, net: DynUNet, dropout: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([net.input_block, *net.downsamples, net.bottleneck])
        self.dropout = dropout

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        skips = []
        for block in self.blocks:
            x = block(x)
            skips.append(x)
        return self.dropout(x), skips[:-1]


class _Decoder(nn.Module):
    """Expanding path with its 1×1×1 head: (deepest features, skips) → logits."""

    def __init__(self, net: DynUNet, dropout: nn.Module) -> None:
        super().__init__()
        self.blocks = net.get_upsamples()
        self.dropout = dropout
        self.head = net.get_output_block(0)
        self.apply(net.initialize_weights)

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        for block, skip in zip(self.blocks, reversed(skips), strict=True):
            x = block(x, skip)
        return self.head(self.dropout(x))


class DualBranchDynUNet(DualBranchNetwork):
    """MONAI's DynUNet with a shared encoder and bottleneck and two decoders.

    The architecture of nnU-Net (Isensee et al., Nature Methods 2021): strided convolutions,
    concatenated skips, leaky ReLU. Every block is MONAI's, built and initialized by
    ``monai.networks.nets.DynUNet``, and with the same weights one branch computes what that
    network does. The branches part after the bottleneck, as in :class:`DualBranchVNet`, whose
    arguments this network takes too.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: number of classes C, background included, at least 2.
        features: channels of each level, bottleneck last; at least three.
        dropout: probability that a channel is dropped at the bottleneck and before the head, in
            [0, 1). MONAI's own argument, which drops after every convolution and so in the
            logits, is not used.
        norm: ``"instance"`` (nnU-Net), ``"batch"``, ``"group"`` (16 groups, or the most below 16
            that divide all features) or ``"none"``; with scale and shift.
        kernel_size: of the convolutions of each level, odd; one number, or one per level, each
            a number or one per axis.
        strides: of each level, 1 or 2, the first 1; a number or one per axis for each. None: 2
            below the first level. For thick slices nnU-Net gives the upper levels a stride and a
            kernel of 1 on their axis.
        res_block: residual blocks in the encoder.
        branches: decoders to build, 2 (teacher and student) or 1 (main).
        branch: what ``forward`` returns when it is not told otherwise.

    Shapes:
        image (B, in_channels, H, W[, D]), float → logits (B, C, H, W[, D]). Every side must be a
        multiple of :attr:`size_divisor`, the product of the strides. With ``norm="instance"``,
        and with ``norm="batch"`` in training on a single image, one side must be larger.

    Raises:
        ValueError: on an option out of range, or an image of a size, rank or channel count that
            the network cannot take.

    Examples:
        Thick slices: the upper levels leave the third axis alone.

        >>> import torch
        >>> network = DualBranchDynUNet(
        ...     features=(2, 4, 8), kernel_size=((3, 3, 1), 3, 3), strides=(1, (2, 2, 1), 2),
        ...     branch="student",
        ... )
        >>> network.size_divisor
        (4, 4, 2)
        >>> tuple(network(torch.zeros(1, 1, 16, 16, 4)).shape)
        (1, 2, 16, 16, 4)
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 2,
        features: Sequence[int] = (32, 64, 128, 256, 320),
        dropout: float = 0.0,
        norm: str | None = "instance",
        kernel_size: int | _Sizes = 3,
        strides: _Sizes | None = None,
        res_block: bool = True,
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
            levels=3,
            branches=branches,
            branch=branch,
        )
        levels = len(features)
        if strides is None:
            strides = [1, *[2] * (levels - 1)]
        if isinstance(kernel_size, int):
            kernel_size = [kernel_size] * levels
        self.strides = self._per_axis("strides", strides)
        self.kernel_size = self._per_axis("kernel_size", kernel_size)
        if set(self.strides[0]) != {1}:
            raise ValueError(f"the first of strides must be 1, got {strides[0]}")
        if any(step > 2 for steps in self.strides for step in steps):
            raise ValueError(f"strides must be 1 or 2, got {self.strides}")
        if any(k % 2 == 0 for kernels in self.kernel_size for k in kernels):
            raise ValueError(f"kernel_size must be odd, got {self.kernel_size}")
        net = DynUNet(
            spatial_dims,
            in_channels,
            out_channels,
            kernel_size=self.kernel_size,
            strides=self.strides,
            upsample_kernel_size=self.strides[1:],
            filters=features,
            norm_name=norm_name(norm, features),
            res_block=res_block,
        )
        self.encoder = _Encoder(net, dropout_layer(spatial_dims, dropout))
        self._build_decoders(lambda: _Decoder(net, dropout_layer(spatial_dims, dropout)))

    def reset_parameters(self) -> None:
        """Draw the convolutions anew, as MONAI's DynUNet does; normalization is torch's own."""
        self.apply(DynUNet.initialize_weights)

    def _per_axis(self, name: str, sizes: _Sizes) -> list[tuple[int, ...]]:
        dims = self.spatial_dims
        if len(sizes) != len(self.features):
            raise ValueError(
                f"{name} needs one entry per level, {len(self.features)}, got {len(sizes)}"
            )
        for size in sizes:
            axes = [size] if isinstance(size, int) else size
            if len(axes) not in {1, dims} or min(axes) < 1:
                raise ValueError(
                    f"every entry of {name} must be one positive number or {dims}, got {size}"
                )
        return [ensure_tuple_rep(size, dims) for size in sizes]

    @property
    def size_divisor(self) -> int | tuple[int, ...]:
        """Every spatial side must be a multiple of this; one per axis where the axes differ."""
        divisors = tuple(math.prod(steps) for steps in zip(*self.strides, strict=True))
        return divisors[0] if len(set(divisors)) == 1 else divisors
