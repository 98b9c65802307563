"""DeepLabv3+ with one shared encoder and a teacher and a student decoder."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import cast

import torch
from monai.networks.blocks import Convolution
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from mixseg.networks.dual_branch.base import (
    DualBranchNetwork,
    draw_convolutions,
    dropout_layer,
    norm_name,
    resized,
)
from mixseg.networks.dual_branch.resnet import RESNETS, DilatedResNet, read_resnet_weights

_Norm = str | tuple[str, dict[str, object]]
_STRIDES = (8, 16)
#: Dilations of the pyramid at output stride 16; twice as large at 8 (Chen et al., 2017, §4.1).
_RATES = (6, 12, 18)


def _block(
    spatial_dims: int, inputs: int, outputs: int, norm: _Norm, kernel: int = 3, dilation: int = 1
) -> Convolution:
    """Convolution, normalization (a bias where there is none) and ReLU."""
    return Convolution(
        spatial_dims,
        inputs,
        outputs,
        kernel_size=kernel,
        dilation=dilation,
        norm=norm or None,
        act=("relu", {"inplace": True}),
        bias=not norm,
    )


class _Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: 1×1, three dilated 3×3, the image's mean, projected."""

    def __init__(
        self,
        spatial_dims: int,
        inputs: int,
        channels: int,
        rates: Sequence[int],
        norm: _Norm,
        mean_norm: _Norm,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList([_block(spatial_dims, inputs, channels, norm, kernel=1)])
        for rate in rates:
            self.branches.append(_block(spatial_dims, inputs, channels, norm, dilation=rate))
        self.pooled = _block(spatial_dims, inputs, channels, mean_norm, kernel=1)
        self.project = _block(spatial_dims, (len(rates) + 2) * channels, channels, norm, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.pooled(x.mean(dim=tuple(range(2, x.ndim)), keepdim=True))
        maps = [branch(x) for branch in self.branches]
        return self.project(torch.cat([*maps, mean.expand_as(maps[0])], dim=1))


class _Encoder(nn.Module):
    """ResNet and pyramid: image → (features of the pyramid, [map of the first stage])."""

    def __init__(self, resnet: DilatedResNet, aspp: _Pyramid, dropout: nn.Module) -> None:
        super().__init__()
        self.resnet = resnet
        self.aspp = aspp
        self.dropout = dropout

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        low, *_, deepest = self.resnet(x)
        return self.dropout(self.aspp(deepest)), [low]


class _Decoder(nn.Module):
    """(Features of the pyramid, [map of stride 4]) → logits of stride 4, with a 1×1 head."""

    def __init__(
        self,
        spatial_dims: int,
        low_inputs: int,
        low_channels: int,
        channels: int,
        out_channels: int,
        norm: _Norm,
        dropout: nn.Module,
    ) -> None:
        super().__init__()
        self.low = _block(spatial_dims, low_inputs, low_channels, norm, kernel=1)
        self.blocks = nn.Sequential(
            _block(spatial_dims, channels + low_channels, channels, norm),
            _block(spatial_dims, channels, channels, norm),
        )
        self.dropout = dropout
        self.head = Conv[Conv.CONV, spatial_dims](channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        low = self.low(skips[0])
        x = resized(x, low.shape[2:])
        return self.head(self.dropout(self.blocks(torch.cat((x, low), dim=1))))


class DualBranchDeepLab(DualBranchNetwork):
    """DeepLabv3+ with a shared encoder and two decoders, teacher and student.

    Chen et al., 'Encoder-decoder with atrous separable convolution for semantic image
    segmentation', ECCV 2018, with the ResNet of He et al., CVPR 2016, and plain convolutions
    (the paper's ResNet experiments, §4.1 and §4.2; its separable ones belong to Xception). The
    encoder is what the paper calls so: the ResNet, whose last stages have dilation for stride,
    and atrous spatial pyramid pooling with the image's mean (MONAI's ``SimpleASPP`` has no such
    mean, and neither normalization nor ReLU in its branches). Each decoder projects the map of
    stride 4 to few channels, joins it to the enlarged features, convolves twice by 3×3 and ends
    in the 1×1 ``head``; its logits of stride 4 are enlarged to the image. The first convolution
    is ImageNet's in 2D and 3D: 7 a side, stride 2, then max-pooling.

    All widths follow from ``features``: the pyramid and the decoder have the third of them (256),
    the projection three quarters of the first (48). The ResNet-50 has 23,508,032 parameters, the
    network with three input channels, two classes and one decoder 40,347,298.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: number of classes C, background included, at least 2.
        encoder: ``"resnet18"``, ``"resnet34"`` or ``"resnet50"``.
        features: channels of the four stages; a bottleneck of ``resnet50`` returns four times
            as many.
        output_stride: 16 or 8, of the features that the pyramid sees; its dilations are 6, 12, 18
            at 16 and twice as large at 8.
        dropout: probability that a channel is dropped after the pyramid and before the head, in
            [0, 1).
        norm: ``"batch"`` (paper), ``"instance"``, ``"group"`` (16 groups, or the most below 16
            that divide all widths) or ``"none"``; with scale and shift. The image's mean stays
            without normalization where ``"instance"`` would see one value.
        branches: decoders to build, 2 (teacher and student) or 1 (main).
        branch: what ``forward`` returns when it is not told otherwise.
        encoder_weights: file with a ResNet's state dict in torchvision's naming, e.g. of ImageNet;
            None draws all weights. It needs ``spatial_dims=2``, ``norm="batch"``, the file's
            ``features`` (the default for ImageNet) and three input channels, or one (see
            :func:`mixseg.networks.dual_branch.resnet.read_resnet_weights`). A peer that is drawn
            from this network has the same weights there and others in pyramid and decoders.

    Shapes:
        image (B, in_channels, H, W[, D]), float → logits (B, C, H, W[, D]). Every side must be a
        multiple of ``output_stride``. With ``norm="batch"`` training needs two images or more.

    Raises:
        ValueError: on an option out of range, weights that do not fit, or an image of a size,
            rank, number or channel count that the network cannot take.

    Examples:
        >>> network = DualBranchDeepLab(
        ...     in_channels=3, encoder="resnet18", features=(4, 8, 16, 32), branch="student"
        ... )
        >>> network.size_divisor
        16
        >>> tuple(network(torch.zeros(2, 3, 32, 48)).shape)
        (2, 2, 32, 48)
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 2,
        encoder: str = "resnet50",
        features: Sequence[int] = (64, 128, 256, 512),
        output_stride: int = 16,
        dropout: float = 0.1,
        norm: str | None = "batch",
        branches: int = 2,
        branch: str = "both",
        encoder_weights: str | PathLike[str] | None = None,
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
        if encoder not in RESNETS:
            raise ValueError(f"encoder must be one of {', '.join(RESNETS)}, got {encoder!r}")
        if len(features) != 4:
            raise ValueError(
                f"features needs four entries, one a stage of the ResNet, got {tuple(features)}"
            )
        if output_stride not in _STRIDES:
            raise ValueError(f"output_stride must be 16 or 8, got {output_stride}")
        if encoder_weights is not None and (spatial_dims, norm) != (2, "batch"):
            raise ValueError(
                "encoder_weights are of a network with spatial_dims=2 and norm='batch', got "
                f"spatial_dims={spatial_dims} and norm={norm!r}"
            )
        self.output_stride = output_stride
        self.encoder_weights = encoder_weights
        channels, low_channels = features[2], max(1, 3 * features[0] // 4)
        name = norm_name(norm, (*features, low_channels))
        resnet = DilatedResNet(spatial_dims, in_channels, encoder, features, output_stride, name)
        rates = [rate * 16 // output_stride for rate in _RATES]
        # Instance normalization of one value a channel would return its shift whatever the image.
        mean_name = "" if norm == "instance" else name
        aspp = _Pyramid(spatial_dims, resnet.channels[-1], channels, rates, name, mean_name)
        self.encoder = _Encoder(resnet, aspp, dropout_layer(spatial_dims, dropout))

        def decoder() -> _Decoder:
            drop = dropout_layer(spatial_dims, dropout)
            low_inputs = resnet.channels[0]
            return _Decoder(
                spatial_dims, low_inputs, low_channels, channels, out_channels, name, drop
            )

        self._build_decoders(decoder)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the convolutions anew, as He et al. (2015), and read the encoder's weights."""
        draw_convolutions(self)
        resnet = cast(DilatedResNet, self.encoder.get_submodule("resnet"))
        resnet.reset_parameters()
        if self.encoder_weights is not None:
            resnet.load_state_dict(read_resnet_weights(self.encoder_weights, resnet))

    @property
    def size_divisor(self) -> int:
        """Every spatial side must be a multiple of this."""
        return self.output_stride

    def _check_sides(self, batch: int, sides: tuple[int, ...]) -> None:
        super()._check_sides(batch, sides)
        if self.norm == "batch" and self.training and batch == 1:
            raise ValueError(
                "a batch of one image leaves norm='batch' one value a channel to normalize in the "
                "image pooling; train on two images or more, or with norm='group'"
            )

    def _decode(self, decoder: nn.Module, x: Tensor, skips: list[Tensor], image: Tensor) -> Tensor:
        return resized(super()._decode(decoder, x, skips, image), image.shape[2:])
