"""Hung et al.: a discriminator of every voxel says which predictions to trust."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mixseg.losses import labeled_maps, pseudo_label_cross_entropy, real_or_fake
from mixseg.objectives.base import Batch, Networks, Outputs, active
from mixseg.objectives.discriminator import DiscriminatorObjective

_OF_UNLABELED = {"adversarial_none", "self_training"}


class AdversarialSemiSupervised(DiscriminatorObjective):
    """Adversarial semi-supervised learning, L = L_ce + λ_adv L_adv + λ_semi L_semi.

    Hung et al., 'Adversarial learning for semi-supervised semantic segmentation', BMVC 2018, and
    its code. A fully convolutional discriminator D tells one-hot masks from predictions at every
    voxel; the network p learns to deceive it, and on unlabeled images from its own argmax where D
    takes that for a mask.

    ================ ============== ===========================================================
    term             images         value
    ================ ============== ===========================================================
    ce_full          ``full``       cross-entropy with the mask
    adversarial_full ``full``       mean of -log σ(D(p)), where labeled
    adversarial_none ``none``       mean of -log σ(D(p))
    self_training    ``none``       cross-entropy with the own argmax, where σ(D(p)) >= T
    discriminator    both           D's own: ½ the mean of -log (1 - σ(D(p))) over both kinds, and
                                    ½ that of -log σ(D(y)) over one-hot masks y, where labeled
    ================ ============== ===========================================================

    D trains in turn with the network. Unlabeled voxels of an image with a mask are left out of its
    targets, and its input is 0 there for mask and prediction alike, so that the prediction there
    changes nothing (in the code the prediction is seen there).

    Args:
        discriminator: probabilities (B, C, *spatial) → scores (B, 1, *spatial) before the sigmoid,
            such as :class:`mixseg.networks.VoxelDiscriminator`.
        discriminator_optimizer: takes its parameters (Adam, rate 1e-4, β 0.9 and 0.99).
        discriminator_schedule: takes that optimizer, stepped after every iteration (polynomial
            decay with power 0.9); None keeps the rate.
        lambda_adv: λ_adv on images with masks (0.01).
        lambda_adv_none: that on images without (0.001).
        lambda_semi: λ_semi, weight of ``self_training`` (0.1); 0 for the first quarter of the
            training, by :class:`mixseg.handlers.WeightRamps`.
        threshold: T in [0, 1] (0.2).
        supervised_loss: of ``ce_full``, ``"cross_entropy"`` (paper) or ``"dice_cross_entropy"``,
            see :func:`mixseg.objectives.supervised_term`.

    Kinds that a batch lacks are left out.

    Raises:
        ValueError: on an option out of range.

    Examples:
        >>> from functools import partial
        >>> from torch.optim import Adam
        >>> from mixseg.networks import VoxelDiscriminator
        >>> method = AdversarialSemiSupervised(VoxelDiscriminator(), partial(Adam, lr=1e-4))
        >>> method.branches, list(method.networks)
        ({'full': 'main', 'none': 'main'}, ['discriminator'])
        >>> method.weights["adversarial_full"], method.weights["adversarial_none"]
        (0.01, 0.001)
    """

    lambda_adv: float
    lambda_adv_none: float
    lambda_semi: float

    def __init__(
        self,
        discriminator: nn.Module,
        discriminator_optimizer: Callable[..., Optimizer],
        discriminator_schedule: Callable[..., LRScheduler] | None = None,
        *,
        lambda_adv: float = 0.01,
        lambda_adv_none: float = 0.001,
        lambda_semi: float = 0.1,
        threshold: float = 0.2,
        supervised_loss: str = "cross_entropy",
    ) -> None:
        super().__init__(
            discriminator,
            discriminator_optimizer,
            discriminator_schedule,
            threshold,
            supervised_loss,
            lambda_adv=lambda_adv,
            lambda_adv_none=lambda_adv_none,
            lambda_semi=lambda_semi,
        )

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the active terms of the network."""
        return active(
            ce_full=1.0,
            adversarial_full=self.lambda_adv,
            adversarial_none=self.lambda_adv_none,
            self_training=self.lambda_semi,
        )

    def forward(self, outputs: Outputs, batch: Batch, networks: Networks) -> dict[str, Tensor]:
        """Unweighted terms of the network, see :class:`mixseg.objectives.Objective`."""
        discriminator, active = networks["discriminator"], self.weights
        terms: dict[str, Tensor] = {}
        if "full" in outputs:
            logits, label = cast(Tensor, outputs["full"]), batch["full"]["label"]
            terms["ce_full"] = self._supervised(logits, label)
            if "adversarial_full" in active:
                _, labeled = labeled_maps(label, logits.shape[1])
                scores = discriminator(logits.softmax(dim=1) * labeled)
                terms["adversarial_full"] = real_or_fake(scores, True, mask=labeled)
        if "none" in outputs and _OF_UNLABELED & set(active):
            logits = cast(Tensor, outputs["none"])
            scores = discriminator(logits.softmax(dim=1))
            if "adversarial_none" in active:
                terms["adversarial_none"] = real_or_fake(scores, True)
            if "self_training" in active:
                trusted = scores.detach().sigmoid() >= self.threshold
                terms["self_training"] = pseudo_label_cross_entropy(logits, mask=trusted)
        return terms

    def turn(
        self, name: str, outputs: Outputs, batch: Batch, networks: Networks
    ) -> dict[str, Tensor]:
        """The discriminator's loss, from a batch that has masks."""
        if "full" not in outputs:
            return {}
        discriminator = networks[name]
        logits, label = cast(Tensor, outputs["full"]), batch["full"]["label"]
        masks, labeled = labeled_maps(label, logits.shape[1])
        real = real_or_fake(discriminator(masks.to(logits.dtype)), True, mask=labeled)
        fakes, seen = [logits.softmax(dim=1) * labeled], [labeled]
        if "none" in outputs:
            fakes.append(cast(Tensor, outputs["none"]).softmax(dim=1))
            seen.append(labeled.new_ones(fakes[-1][:, :1].shape))
        scores = discriminator(torch.cat(fakes))
        fake = real_or_fake(scores, False, mask=torch.cat(seen))
        return {"discriminator": (real + fake) / 2}
