"""FickleNet: seeds from many random localization maps of an image classifier."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from mixseg.losses import classes_present, partial_cross_entropy
from mixseg.networks.dual_branch.base import resized
from mixseg.networks.features import forward_with_features
from mixseg.objectives.base import (
    Batch,
    Networks,
    Outputs,
    SingleBranchObjective,
    active,
)


class StochasticClassHead(nn.Module):
    """Features → scores of the foreground classes, with most hidden units dropped at random.

    Each unit of each position is dropped by itself, then a 1×1 convolution makes a map a class and
    the mean over positions is its score. Without the bias the map is the class's localization (its
    Grad-CAM, whose weights are those of the convolution here).

    Args:
        channels: of the features.
        num_classes: C, background included, which has no score.
        dropout: share of the units that are dropped, in [0, 1).
        spatial_dims: 2 or 3.
    """

    def __init__(
        self, channels: int, num_classes: int, dropout: float = 0.9, spatial_dims: int = 2
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.layer = cast(
            nn.Module,
            Conv[Conv.CONV, spatial_dims](channels, num_classes - 1, kernel_size=1, bias=False),
        )
        self.bias = nn.Parameter(torch.zeros(num_classes - 1))

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C − 1) of the classes being there, of features (B, channels, *spatial)."""
        maps: Tensor = self.layer(F.dropout(features, self.dropout))
        return maps.flatten(2).mean(dim=2) + self.bias

    @torch.no_grad()
    def localize(self, features: Tensor, maps: int) -> tuple[Tensor, Tensor]:
        """Largest and mean value of a number of random maps.

        Each map is cut off below 0 and divided by its largest value in the image, so that both
        lie within [0, 1]; a map without a positive value is 0.

        Returns:
            Two tensors (B, C − 1, *spatial), float32 for half precision.
        """
        highest = total = self._map(features)
        for _ in range(maps - 1):
            drawn = self._map(features)
            highest = torch.maximum(highest, drawn)
            total = total + drawn
        return highest, total / maps

    def _map(self, features: Tensor) -> Tensor:
        drawn: Tensor = self.layer(F.dropout(features, self.dropout))
        return _by_largest(_wide(drawn).relu())


def _wide(values: Tensor) -> Tensor:
    """Half precision as float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _by_largest(maps: Tensor) -> Tensor:
    """Each map of an image divided by its largest value; 0 stays 0."""
    largest = maps.amax(dim=tuple(range(2, maps.ndim)), keepdim=True)
    return maps / largest.clamp(min=torch.finfo(maps.dtype).tiny)


def seeds_from_maps(
    highest: Tensor, mean: Tensor, present: Tensor, threshold: float, background: float
) -> Tensor:
    """Labels where the maps of the classes that an image holds are clear.

    A voxel is a seed of a class where the largest of its maps exceeds ``threshold``, of the one
    with the larger mean where there are several. It is background where all mean maps, divided by
    their largest value, are below ``background``. Where both hold, or neither, it is unlabeled.
    An image that holds no class is background.

    Args:
        highest: (B, C − 1, *spatial) within [0, 1].
        mean: same shape.
        present: (B, C − 1), bool.
        threshold: of ``highest``.
        background: of ``mean``.

    Returns:
        (B, 1, *spatial), int64: 0…C − 1, and C where unlabeled.
    """
    there = present.reshape(*present.shape, *[1] * (mean.ndim - 2))
    mean = mean * there
    candidates = (highest > threshold) & there
    named = candidates.any(dim=1, keepdim=True)
    empty = (_by_largest(mean) < background).all(dim=1, keepdim=True)
    best = mean.masked_fill(~candidates, -1).argmax(dim=1, keepdim=True) + 1
    unknown = torch.full_like(best, present.shape[1] + 1)
    seeds = torch.where(named & ~empty, best, unknown)
    return seeds.masked_fill(empty & ~named, 0)


class FickleNet(SingleBranchObjective):
    """Classes of whole images localize themselves, L = L_s + λ_class L_class + λ_seed L_seed.

    Lee et al., 'FickleNet: weakly and semi-supervised semantic image segmentation using stochastic
    inference', CVPR 2019, as a method for medical images with full and noisy masks.

    ========= ========= =====================================================================
    term      images    value
    ========= ========= =====================================================================
    ce_full   ``full``  cross-entropy with the truth
    bce_class ``noisy`` binary cross-entropy of the classes that the image is said to hold
    ce_seeds  ``noisy`` cross-entropy on the seeds, which are a fixed target
    ========= ========= =====================================================================

    Of a noisy mask only the classes in it count. A head on features of the encoder is to name
    them with most hidden units dropped at random (:class:`StochasticClassHead`). Many random maps
    of one image find other parts of an object each; together they make the seeds
    (:func:`seeds_from_maps`) on which the network is trained.

    Differences from the paper: classifier and segmentation network share the encoder and learn
    together, so ``lambda_seed`` should stay 0 at first (a ramp with ``begin``), and seeds are made
    anew in each step from few maps instead of once from about 200; units are dropped position
    by position, not for each window of a larger kernel (with a 1×1 kernel the two are one);
    background seeds come from the maps themselves, where the paper has a saliency detector. Where
    every image holds every class the head has nothing to tell apart, and its maps say little.

    Args:
        layer: module of the network whose features the head reads, of the encoder.
        channels: its channels.
        num_classes: C, background included.
        lambda_class: weight of ``bce_class`` (1).
        lambda_seed: weight of ``ce_seeds`` (1).
        maps: random maps an image.
        dropout: share of the hidden units that are dropped, in [0, 1).
        threshold: of a map's largest value, in (0, 1): seeds of a class above it.
        background: of the mean map's largest value, in [0, 1): seeds of the background below it.
        spatial_dims: 2 or 3.
        supervised_loss: of ``ce_full``, ``"cross_entropy"`` (paper) or
            ``"dice_cross_entropy"``, see :func:`mixseg.objectives.supervised_term`.

    Kinds that a batch lacks are left out.

    Raises:
        ValueError: on an option out of range; while training, where the module is missing or has
            other channels.

    Examples:
        >>> method = FickleNet("encoder.center", 16, num_classes=3)
        >>> method.weights
        {'ce_full': 1.0, 'bce_class': 1.0, 'ce_seeds': 1.0}
        >>> sum(p.numel() for p in method.parameters())  # 2 · 16 + 2
        34
    """

    lambda_class: float
    lambda_seed: float

    def __init__(
        self,
        layer: str,
        channels: int,
        num_classes: int,
        *,
        lambda_class: float = 1.0,
        lambda_seed: float = 1.0,
        maps: int = 20,
        dropout: float = 0.9,
        threshold: float = 0.35,
        background: float = 0.1,
        spatial_dims: int = 2,
        supervised_loss: str = "cross_entropy",
    ) -> None:
        super().__init__(supervised_loss, lambda_class=lambda_class, lambda_seed=lambda_seed)
        for name, value, least in (
            ("channels", channels, 1), ("num_classes", num_classes, 2), ("maps", maps, 1),
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must lie in (0, 1), got {threshold}")
        for name, share in (("dropout", dropout), ("background", background)):
            if not 0 <= share < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {share}")
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}")
        self.layer = layer
        self.channels = channels
        self.maps = maps
        self.threshold = float(threshold)
        self.background = float(background)
        self.head = StochasticClassHead(channels, num_classes, dropout, spatial_dims)

    @property
    def branches(self) -> dict[str, str]:
        """Full masks; noisy images pass together with the head's features, by this objective."""
        return {"full": "main"}

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the active terms."""
        return active(ce_full=1.0, bce_class=self.lambda_class, ce_seeds=self.lambda_seed)

    def forward(self, outputs: Outputs, batch: Batch, networks: Networks) -> dict[str, Tensor]:
        """Unweighted terms, see :class:`mixseg.objectives.Objective`."""
        active = self.weights
        terms: dict[str, Tensor] = {}
        if "full" in outputs:
            terms["ce_full"] = self._supervised(
                cast(Tensor, outputs["full"]), batch["full"]["label"]
            )
        if "noisy" not in batch or active.keys() == {"ce_full"}:
            return terms
        image, label = batch["noisy"]["image"], batch["noisy"]["label"]
        logits, read = forward_with_features(
            networks["network"], [self.layer], image, branch="main"
        )
        features = read[self.layer]
        if features.shape[1] != self.channels:
            raise ValueError(
                f"module {self.layer!r} has {features.shape[1]} channels, channels says "
                f"{self.channels}"
            )
        present = classes_present(label, len(self.head.bias) + 1)[:, 1:]
        if "bce_class" in active:
            scores = _wide(self.head(features))
            terms["bce_class"] = F.binary_cross_entropy_with_logits(scores, present.to(scores))
        if "ce_seeds" in active:
            terms["ce_seeds"] = partial_cross_entropy(logits, self._seeds(features, present, image))
        return terms

    def _seeds(self, features: Tensor, present: Tensor, image: Tensor) -> Tensor:
        """Seeds (B, 1, *spatial) of the image's size."""
        highest, mean = (
            resized(maps, image.shape[2:])
            for maps in self.head.localize(features.detach(), self.maps)
        )
        return seeds_from_maps(highest, mean, present, self.threshold, self.background)
