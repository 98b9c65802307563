"""Networks that tell masks from predictions, voxel by voxel or image by image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from monai.networks.blocks import Convolution
from torch import Tensor, nn

from mixseg.networks.dual_branch.base import resized


def _convolutions(
    spatial_dims: int, in_channels: int, features: Sequence[int], dropout: float = 0.0
) -> nn.Sequential:
    """4×4 convolutions of stride 2 with LeakyReLU(0.2); channel dropout after all but the last."""
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}")
    if in_channels < 1 or not features or min(features) < 1:
        raise ValueError(
            "in_channels and every entry of features must be at least 1, "
            f"got {in_channels} and {tuple(features)}"
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
    channels = (in_channels, *features)
    return nn.Sequential(
        *(
            Convolution(
                spatial_dims,
                channels[i],
                channels[i + 1],
                strides=2,
                kernel_size=4,
                padding=1,
                adn_ordering="AD",
                act=("leakyrelu", {"negative_slope": 0.2}),
                norm=None,
                dropout=dropout if dropout and i + 1 < len(features) else None,
                dropout_dim=spatial_dims,
            )
            for i in range(len(features))
        )
    )


def _check_sides(maps: Tensor, halvings: int) -> None:
    least = 2**halvings
    if min(maps.shape[2:]) < least:
        raise ValueError(
            f"the discriminator halves a map {halvings} times, so every side must be at least "
            f"{least}, got {tuple(maps.shape[2:])}: give it fewer features or larger images"
        )


class VoxelDiscriminator(nn.Module):
    """Fully convolutional discriminator of class-probability maps.

    Hung et al., 'Adversarial learning for semi-supervised semantic segmentation', BMVC 2018, §4:
    4×4 convolutions of stride 2 with LeakyReLU(0.2), a one-channel classifier of the same kind,
    and a linear interpolation to the map's size. With the default features and 21 classes it has
    2,783,169 parameters (the 2.78 M of Wu et al., ICME 2021, Table 4).

    Args:
        spatial_dims: 2 or 3.
        in_channels: number of classes C.
        features: channels of the convolutions before the classifier.

    Shapes:
        probabilities (B, C, *spatial) → scores (B, 1, *spatial) before the sigmoid; every side at
        least ``2 ** (len(features) + 1)``.

    Raises:
        ValueError: on an option out of range, or a map too small.

    Examples:
        >>> import torch
        >>> discriminator = VoxelDiscriminator(in_channels=3, features=(4, 8))
        >>> tuple(discriminator(torch.zeros(2, 3, 16, 24)).shape)
        (2, 1, 16, 24)
        >>> sum(p.numel() for p in VoxelDiscriminator(in_channels=21).parameters())
        2783169
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 2,
        features: Sequence[int] = (64, 128, 256, 512),
    ) -> None:
        super().__init__()
        self.halvings = len(features) + 1
        self.convolutions = _convolutions(spatial_dims, in_channels, features)
        self.classifier = Convolution(
            spatial_dims,
            features[-1],
            1,
            strides=2,
            kernel_size=4,
            padding=1,
            conv_only=True,
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Scores (B, 1, *spatial) of probabilities (B, C, *spatial)."""
        _check_sides(maps, self.halvings)
        scores = self.classifier(self.convolutions(maps))
        return resized(scores, maps.shape[2:])


class ImageDiscriminator(nn.Module):
    """Discriminator of pairs of an image and its class-probability map.

    Mittal et al., 'Semi-supervised semantic segmentation with high- and low-level consistency',
    TPAMI 2019 (s4GAN), and its code: 4×4 convolutions of stride 2 with LeakyReLU(0.2), channel
    dropout after all but the last, the global mean, and one unit. With the default features, 21
    classes and three colors it has 2,778,561 parameters (the 2.78 M of Wu et al., Table 4).

    Args:
        spatial_dims: 2 or 3.
        in_channels: classes C and the image's channels together.
        features: channels of the convolutions.
        dropout: probability of the channel dropout, in [0, 1).

    Shapes:
        (B, in_channels, *spatial) → scores (B,) before the sigmoid, and features (B, F), the
        global means, F the last of ``features``; every side at least ``2 ** len(features)``.

    Raises:
        ValueError: on an option out of range, or a map too small.

    Examples:
        >>> import torch
        >>> discriminator = ImageDiscriminator(in_channels=3 + 2, features=(4, 8))
        >>> scores, features = discriminator(torch.zeros(2, 5, 16, 24))
        >>> tuple(scores.shape), tuple(features.shape)
        ((2,), (2, 8))
        >>> sum(p.numel() for p in ImageDiscriminator(in_channels=21 + 3).parameters())
        2778561
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 3,
        features: Sequence[int] = (64, 128, 256, 512),
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.halvings = len(features)
        self.convolutions = _convolutions(spatial_dims, in_channels, features, dropout)
        self.classifier = nn.Linear(features[-1], 1)

    def forward(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B,) and features (B, F) of pairs (B, in_channels, *spatial)."""
        _check_sides(pairs, self.halvings)
        features = cast(Tensor, self.convolutions(pairs)).flatten(2).mean(dim=2)
        return self.classifier(features)[:, 0], features
