"""Macro-Micro: a network of the exact masks and one of the many, which teach each other."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from mixseg.losses import certainty_weighted_kl
from mixseg.objectives.base import (
    Batch,
    Networks,
    NetworkSpec,
    Outputs,
    SingleBranchObjective,
    active,
)


class MacroMicro(SingleBranchObjective):
    """A micro and a macro network, L = L_micro + L_macro + λ_guide L_g + λ_feed L_f.

    Ning et al., 'A macro-micro weakly-supervised framework for AS-OCT tissue segmentation', MICCAI
    2020, with noisy masks for its scribbles.

    ======== ========= ========================================================================
    term     images    value
    ======== ========= ========================================================================
    ce_micro ``full``  cross-entropy of the micro network with the truth
    ce_macro ``noisy`` cross-entropy of the macro network with the noisy masks
    guidance ``noisy`` KL of the macro from the micro network, weighted by the latter's certainty
    feeding  ``noisy`` KL of the micro from the averaged macro network, weighted likewise
    ======== ========= ========================================================================

    The **micro network predicts**: it is ``network``, which no wrong mask reaches but through the
    macro network. ``macro`` is a peer, weights drawn apart, and ``macro_mean`` its moving average.
    Whoever teaches is a fixed target; certainty is 1 - H(p) / ln C of its softmax
    (:func:`mixseg.losses.certainty_weighted_kl`).

    This follows the paper's outline: which network learns what, guidance by a divergence weighted
    with uncertainty, feeding by an average that minds it. The paper feeds the micro network by
    moving its weights toward the macro network's, an exponential moving average whose rate
    follows the uncertainty. Here the weights of the macro network are averaged at a fixed rate, and
    the micro network learns the average's predictions by the voxels' certainty, so that its own
    weights stay the optimizer's. Certainty is that of a single pass.

    Args:
        lambda_guide: weight of ``guidance`` (1).
        lambda_feed: weight of ``feeding`` (1).
        decay: largest decay of the average, at iteration t (from 0) min(1 - 1/(t+1), ``decay``).
        supervised_loss: of ``ce_micro`` and ``ce_macro``, ``"cross_entropy"`` (paper) or
            ``"dice_cross_entropy"``, see :func:`mixseg.objectives.supervised_term`.

    Kinds that a batch lacks are left out.

    Raises:
        ValueError: on an option out of range.

    Examples:
        >>> {name: spec.average_of for name, spec in MacroMicro().networks.items()}
        {'macro': None, 'macro_mean': 'macro'}
        >>> MacroMicro().weights
        {'ce_micro': 1.0, 'ce_macro': 1.0, 'guidance': 1.0, 'feeding': 1.0}
    """

    lambda_guide: float
    lambda_feed: float

    def __init__(
        self,
        lambda_guide: float = 1.0,
        lambda_feed: float = 1.0,
        *,
        decay: float = 0.99,
        supervised_loss: str = "cross_entropy",
    ) -> None:
        super().__init__(supervised_loss, lambda_guide=lambda_guide, lambda_feed=lambda_feed)
        self._networks = {
            "macro": NetworkSpec(),
            "macro_mean": NetworkSpec(average_of="macro", decay=decay, per="iteration"),
        }

    @property
    def branches(self) -> dict[str, str]:
        """The micro network's passes: noisy images only where the two teach each other."""
        needed = {"full": "main"}
        if self.lambda_guide > 0 or self.lambda_feed > 0:
            needed["noisy"] = "main"
        return needed

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the active terms."""
        taught = {"guidance": self.lambda_guide, "feeding": self.lambda_feed}
        return active(ce_micro=1.0, ce_macro=1.0, **taught)

    @property
    def networks(self) -> dict[str, NetworkSpec]:
        """The macro network and its average; there, too, where a ramp starts at a weight of 0."""
        return dict(self._networks)

    def forward(self, outputs: Outputs, batch: Batch, networks: Networks) -> dict[str, Tensor]:
        """Unweighted terms, see :class:`mixseg.objectives.Objective`."""
        active = self.weights
        terms: dict[str, Tensor] = {}
        if "full" in outputs:
            terms["ce_micro"] = self._supervised(
                cast(Tensor, outputs["full"]), batch["full"]["label"]
            )
        if "noisy" not in batch:
            return terms
        image, label = batch["noisy"]["image"], batch["noisy"]["label"]
        macro: Tensor = networks["macro"](image, branch="main")
        terms["ce_macro"] = self._supervised(macro, label)
        if "guidance" in active:
            terms["guidance"] = certainty_weighted_kl(cast(Tensor, outputs["noisy"]), macro)
        if "feeding" in active:
            with torch.no_grad():
                mean = networks["macro_mean"](image, branch="main")
            terms["feeding"] = certainty_weighted_kl(mean, cast(Tensor, outputs["noisy"]))
        return terms
