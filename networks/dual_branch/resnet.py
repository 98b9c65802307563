"""ResNet of MONAI's blocks with dilation for stride, and weights in torchvision's naming."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from pickle import UnpicklingError

import torch
from monai.networks.layers.factories import Conv, Pool
from monai.networks.layers.utils import get_norm_layer
from monai.networks.nets.resnet import ResNetBlock, ResNetBottleneck
from torch import Tensor, nn

#: Name → kind of block and blocks of each stage (He et al., CVPR 2016, Table 1).
RESNETS: dict[str, tuple[type[ResNetBlock | ResNetBottleneck], tuple[int, ...]]] = {
    "resnet18": (ResNetBlock, (2, 2, 2, 2)),
    "resnet34": (ResNetBlock, (3, 4, 6, 3)),
    "resnet50": (ResNetBottleneck, (3, 4, 6, 3)),
}
_Norm = str | tuple[str, dict[str, object]]


class DilatedResNet(nn.Module):
    """Image → maps of the four stages of a ResNet, the last ones with dilation for stride.

    Blocks are ``monai.networks.nets.resnet``'s, with a 1×1 convolution where a shortcut changes
    its size, as torchvision has for every depth; modules have torchvision's names. MONAI's own
    ``ResNet`` puts batch normalization into its stages whatever ``norm`` says, and resnet18 and
    resnet34 get shortcuts there that pass no gradient. A bottleneck has its stride in the 3×3
    convolution.

    Where a stage's stride is replaced, every convolution that followed it is dilated twice as
    much, so that the map at every second voxel is what the strided network computes.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        encoder: one of :data:`RESNETS`.
        features: channels of the stages; a bottleneck returns four times as many.
        output_stride: 8, 16 or 32 (no dilation), of the last map.
        norm: what ``get_norm_layer`` takes.

    Shapes:
        image (B, in_channels, *spatial) → four maps of strides 4, 8, 16 and 32, none larger than
        ``output_stride``.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        encoder: str,
        features: Sequence[int],
        output_stride: int,
        norm: _Norm,
    ) -> None:
        super().__init__()
        block, counts = RESNETS[encoder]
        first = features[0]
        self.conv1 = Conv[Conv.CONV, spatial_dims](
            in_channels, first, kernel_size=7, stride=2, padding=3, bias=False
        )
        self.bn1 = get_norm_layer(norm, spatial_dims, first)
        self.act = nn.ReLU(inplace=True)
        self.maxpool = Pool[Pool.MAX, spatial_dims](kernel_size=3, stride=2, padding=1)
        #: Channels of the four maps.
        self.channels = tuple(block.expansion * planes for planes in features)
        inputs, reached, dilation = first, 4, 1
        for level, (planes, count) in enumerate(zip(features, counts, strict=True)):
            stride = 1 if level == 0 else 2
            stage = _stage(spatial_dims, block, inputs, planes, count, stride, norm)
            if stride == 2 and reached == output_stride:
                _dilate(stage, dilation, 2 * dilation)
                dilation *= 2
            else:
                reached *= stride
            self.add_module(f"layer{level + 1}", stage)
            inputs = self.channels[level]

    def reset_parameters(self) -> None:
        """Draw the convolutions anew, by the outputs' variance (He et al., 2015; torchvision)."""
        for module in self.modules():
            if isinstance(module, nn.modules.conv._ConvNd):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of the four stages, the finest first."""
        x = self.maxpool(self.act(self.bn1(self.conv1(x))))
        maps = []
        for level in range(1, 5):
            x = self.get_submodule(f"layer{level}")(x)
            maps.append(x)
        return maps


def _stage(
    spatial_dims: int,
    block: type[ResNetBlock | ResNetBottleneck],
    inputs: int,
    planes: int,
    count: int,
    stride: int,
    norm: _Norm,
) -> nn.Sequential:
    """Blocks of one stage, the first with its stride and its shortcut."""
    outputs = planes * block.expansion
    shortcut = None
    if stride != 1 or inputs != outputs:
        conv = Conv[Conv.CONV, spatial_dims]
        shortcut = nn.Sequential(
            conv(inputs, outputs, kernel_size=1, stride=stride, bias=False),
            get_norm_layer(norm, spatial_dims, outputs),
        )
    blocks = [block(inputs, planes, spatial_dims, stride, shortcut, norm=norm)]
    blocks += [block(outputs, planes, spatial_dims, norm=norm) for _ in range(count - 1)]
    return nn.Sequential(*blocks)


def _dilate(stage: nn.Sequential, before: int, after: int) -> None:
    """Take the stride out of a stage, whose input comes with a dilation of ``before``."""
    dilation = before
    for name, conv in stage.named_modules():
        if not isinstance(conv, nn.modules.conv._ConvNd):
            continue
        axes = len(conv.kernel_size)
        strided = max(conv.stride) > 1
        conv.stride = (1,) * axes
        if max(conv.kernel_size) > 1:
            conv.dilation = conv.padding = (dilation,) * axes
        # The shortcut of 1×1 stands beside the path whose dilation is counted here.
        if strided and "downsample" not in name:
            dilation = after


def read_resnet_weights(path: str | PathLike[str], encoder: nn.Module) -> dict[str, Tensor]:
    """Weights of a file in torchvision's naming, checked against an encoder.

    Args:
        path: of a state dict, e.g. torchvision's ``resnet50-11ad3fa6.pth``; ``fc.*``, the
            classifier, is left out. Files from before batch normalization counted its batches
            lack ``num_batches_tracked``, which is then left out, too.
        encoder: what the weights are for. With one input channel the first layer's filters are
            summed over their three channels, which is what a gray picture as RGB gives.

    Returns:
        What ``encoder.load_state_dict`` takes, strictly.

    Raises:
        ValueError: no such file, no state dict, weights missing, unknown or of another shape, or
            neither one nor three input channels; the message names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"encoder_weights: there is no file {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"encoder_weights: {path} is not a PyTorch state dict: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(
            f"encoder_weights: {path} is not a state dict (name → tensor); save a ResNet's "
            "state_dict() in torchvision's naming"
        )
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    wanted = encoder.state_dict()
    for key, value in wanted.items():
        if key.endswith("num_batches_tracked"):
            state.setdefault(key, value)
    if (stem := state.get("conv1.weight")) is not None and stem.ndim == 4 and stem.shape[1] == 3:
        channels = wanted["conv1.weight"].shape[1]
        if channels == 1:
            state["conv1.weight"] = stem.sum(dim=1, keepdim=True)
        elif channels != 3:
            raise ValueError(
                f"encoder_weights: {path} is of images with 3 channels; in_channels must be 3 or, "
                f"for gray images, 1, got {channels}"
            )
    faults = [f"{key} is missing" for key in wanted if key not in state]
    faults += [f"{key} is unknown" for key in state if key not in wanted]
    faults += [
        f"{key} has shape {tuple(state[key].shape)} for {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ValueError(
            f"encoder_weights: {path} does not fit the encoder: {'; '.join(faults[:3])}{more}"
        )
    return state
