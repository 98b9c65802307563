"""s4GAN: a discriminator of whole images says which predictions to learn from."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mixseg.losses import (
    feature_matching,
    labeled_maps,
    pseudo_label_cross_entropy,
    real_or_fake,
)
from mixseg.objectives.base import Batch, Networks, Outputs, active
from mixseg.objectives.discriminator import DiscriminatorObjective


class S4GAN(DiscriminatorObjective):
    """s4GAN, L = L_ce + λ_fm L_fm + λ_st L_st.

    Mittal et al., 'Semi-supervised semantic segmentation with high- and low-level consistency',
    TPAMI 2019, and its code. A discriminator D, with pooled features f, tells pairs of an image x
    and its mask y from those of an image without labels and its prediction p.

    ================ ============== ===========================================================
    term             images         value
    ================ ============== ===========================================================
    ce_full          ``full``       cross-entropy with the mask
    feature_matching both           mean over features of |mean f(x, y) - mean f(x, p)|
    self_training    ``none``       cross-entropy with the own argmax, images with σ(D(x, p)) > T
    discriminator    both           D's own: ½ the mean of -log (1 - σ(D(x, p))) over images
                                    without labels, ½ that of -log σ(D(x, y)) over masks
    ================ ============== ===========================================================

    D trains in turn with the network. An image with any unlabeled voxel is no real pair and is left
    out of D's targets and of the features to match.

    Differences from the code: each image is scaled to 0…1 by its own smallest and largest value,
    where the code takes those of the batch; and the paper's second branch, which removes classes
    that a mean teacher does not see in the image, is left out: it serves many classes.

    Args:
        discriminator: pairs (B, C + channels, *spatial) → scores (B,) before the sigmoid, and
            features (B, F), such as :class:`mixseg.networks.ImageDiscriminator`.
        discriminator_optimizer: takes its parameters (Adam, rate 1e-4).
        discriminator_schedule: takes that optimizer, stepped after every iteration; None keeps the
            rate.
        lambda_fm: λ_fm, weight of ``feature_matching`` (0.1).
        lambda_st: λ_st, weight of ``self_training`` (1); 0 in the first iteration, by
            :class:`mixseg.handlers.WeightRamps`.
        threshold: T in [0, 1] (0.6).
        supervised_loss: of ``ce_full``, ``"cross_entropy"`` (paper) or ``"dice_cross_entropy"``,
            see :func:`mixseg.objectives.supervised_term`.

    Terms whose kinds a batch lacks are left out.

    Raises:
        ValueError: on an option out of range.

    Examples:
        >>> from functools import partial
        >>> from torch.optim import Adam
        >>> from mixseg.networks import ImageDiscriminator
        >>> method = S4GAN(ImageDiscriminator(in_channels=3 + 2), partial(Adam, lr=1e-4))
        >>> method.weights
        {'ce_full': 1.0, 'feature_matching': 0.1, 'self_training': 1.0}
    """

    lambda_fm: float
    lambda_st: float

    def __init__(
        self,
        discriminator: nn.Module,
        discriminator_optimizer: Callable[..., Optimizer],
        discriminator_schedule: Callable[..., LRScheduler] | None = None,
        *,
        lambda_fm: float = 0.1,
        lambda_st: float = 1.0,
        threshold: float = 0.6,
        supervised_loss: str = "cross_entropy",
    ) -> None:
        super().__init__(
            discriminator,
            discriminator_optimizer,
            discriminator_schedule,
            threshold,
            supervised_loss,
            lambda_fm=lambda_fm,
            lambda_st=lambda_st,
        )

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the active terms of the network."""
        return active(ce_full=1.0, feature_matching=self.lambda_fm, self_training=self.lambda_st)

    def forward(self, outputs: Outputs, batch: Batch, networks: Networks) -> dict[str, Tensor]:
        """Unweighted terms of the network, see :class:`mixseg.objectives.Objective`."""
        discriminator, active = networks["discriminator"], self.weights
        terms: dict[str, Tensor] = {}
        if "full" in outputs:
            logits = cast(Tensor, outputs["full"])
            terms["ce_full"] = self._supervised(logits, batch["full"]["label"])
        if "none" not in outputs or len(active) == 1:
            return terms
        logits = cast(Tensor, outputs["none"])
        scores, fake = discriminator(_pairs(logits.softmax(dim=1), batch["none"]["image"]))
        if "feature_matching" in active and "full" in outputs:
            pairs, complete = _real_pairs(batch, logits.shape[1])
            with torch.no_grad():
                real = discriminator(pairs)[1][complete]
            terms["feature_matching"] = feature_matching(real, fake)
        if "self_training" in active:
            chosen = scores.detach().sigmoid() > self.threshold
            mask = chosen.view(-1, *[1] * (logits.ndim - 1)).expand_as(logits[:, :1])
            terms["self_training"] = pseudo_label_cross_entropy(logits, mask=mask)
        return terms

    def turn(
        self, name: str, outputs: Outputs, batch: Batch, networks: Networks
    ) -> dict[str, Tensor]:
        """The discriminator's loss, from a batch that has both kinds."""
        if not {"full", "none"} <= set(outputs):
            return {}
        discriminator = networks[name]
        logits = cast(Tensor, outputs["none"])
        scores, _ = discriminator(_pairs(logits.softmax(dim=1), batch["none"]["image"]))
        fake = real_or_fake(scores, False)
        pairs, complete = _real_pairs(batch, logits.shape[1])
        scores, _ = discriminator(pairs)
        real = real_or_fake(scores, True, mask=complete)
        return {"discriminator": (real + fake) / 2}


def _real_pairs(batch: Batch, num_classes: int) -> tuple[Tensor, Tensor]:
    """Pairs of images and masks, and which of them have a label at every voxel, bool (B,)."""
    masks, labeled = labeled_maps(batch["full"]["label"], num_classes)
    return _pairs(masks, batch["full"]["image"]), labeled.flatten(1).all(dim=1)


def _pairs(maps: Tensor, image: Tensor) -> Tensor:
    """(B, C, *spatial) and (B, channels, *spatial), each image scaled to 0…1, as one."""
    plain = image.as_subclass(Tensor)
    axes = tuple(range(1, plain.ndim))
    low, high = plain.amin(axes, keepdim=True), plain.amax(axes, keepdim=True)
    scaled = (plain - low) / (high - low).clamp(min=torch.finfo(plain.dtype).tiny)
    return torch.cat((maps, scaled), dim=1)
