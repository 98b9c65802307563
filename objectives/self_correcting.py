"""Self-Correcting: labels that an ancillary network proposes and the network itself corrects."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixseg.losses import linear_refinement, soft_cross_entropy
from mixseg.objectives.base import (
    Batch,
    Networks,
    Outputs,
    SingleBranchObjective,
    active,
)


class SelfCorrecting(SingleBranchObjective):
    """Noisy masks are refined by an ancillary network, L = L_s + L_anc + λ L_w.

    Ibrahim et al., 'Semi-supervised semantic image segmentation with self-correcting networks',
    CVPR 2020, linear self-correction, with noisy masks for its boxes.

    ============ ========= =================================================================
    term         images    value
    ============ ========= =================================================================
    ce_full      ``full``  cross-entropy with the truth
    ce_ancillary ``full``  that of the ancillary network, which sees the image and a noisy mask
    ce_refined   ``noisy`` cross-entropy with softmax((l + α l_anc) / (1 + α)), a fixed target
    ============ ========= =================================================================

    The ancillary network learns on images with full masks how to correct a noisy mask: its
    input is the image with the noisy mask as C further channels, one-hot, all 0 where that is
    unlabeled. Asked for a noisy image it is in evaluation mode and takes no gradient. α falls
    while training, from about 30 to 0.5 in the paper, by :class:`mixseg.handlers.WeightRamps`: at
    first the labels are the ancillary's alone, later the network has its say.

    Differences from the paper: the ancillary network learns along with the other instead of before
    it, so ``lambda_weak`` should stay 0 while it learns its first steps (a ramp with ``begin``); it
    sees the mask as input channels from the first layer on, where the paper's attends to the box
    in the features of a pre-trained encoder; the convolutional self-correction is left out.

    Args:
        ancillary: network of one branch with as many input channels as the image and C more, C
            classes. It is a part of this objective, trained and stored with it, and not needed for
            predicting.
        lambda_weak: weight λ of ``ce_refined`` (1).
        alpha: last α >= 0, ramped from a large one.
        supervised_loss: of ``ce_full`` and ``ce_ancillary``, ``"cross_entropy"`` (paper) or
            ``"dice_cross_entropy"``, see :func:`mixseg.objectives.supervised_term`.

    A batch's group ``full`` also holds ``weak_label`` (B, 1, *spatial), a noisy mask made as those
    of the group ``noisy`` are. Kinds that a batch lacks are left out.

    Raises:
        ValueError: on an option out of range.

    Examples:
        >>> from mixseg.networks import DualBranchUNet
        >>> ancillary = DualBranchUNet(in_channels=3 + 2, features=(4, 8), branches=1)
        >>> SelfCorrecting(ancillary).weights
        {'ce_full': 1.0, 'ce_ancillary': 1.0, 'ce_refined': 1.0}
        >>> SelfCorrecting(ancillary, lambda_weak=0).branches
        {'full': 'main'}
    """

    lambda_weak: float
    alpha: float

    def __init__(
        self,
        ancillary: nn.Module,
        lambda_weak: float = 1.0,
        *,
        alpha: float = 0.5,
        supervised_loss: str = "cross_entropy",
    ) -> None:
        super().__init__(supervised_loss, lambda_weak=lambda_weak, alpha=alpha)
        self.ancillary = ancillary

    @property
    def branches(self) -> dict[str, str]:
        """The single branch, on noisy images only where their labels count."""
        needed = {"full": "main"}
        if self.lambda_weak > 0:
            needed["noisy"] = "main"
        return needed

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the active terms."""
        return active(ce_full=1.0, ce_ancillary=1.0, ce_refined=self.lambda_weak)

    def forward(self, outputs: Outputs, batch: Batch, networks: Networks) -> dict[str, Tensor]:
        """Unweighted terms, see :class:`mixseg.objectives.Objective`."""
        terms: dict[str, Tensor] = {}
        if "full" in outputs:
            logits, group = cast(Tensor, outputs["full"]), batch["full"]
            terms["ce_full"] = self._supervised(logits, group["label"])
            inputs = _with_mask(group["image"], group["weak_label"], logits.shape[1])
            corrected = self.ancillary(inputs, branch="main")
            terms["ce_ancillary"] = self._supervised(corrected, group["label"])
        if "ce_refined" in self.weights and "noisy" in outputs:
            logits, group = cast(Tensor, outputs["noisy"]), batch["noisy"]
            proposed = self._ask(_with_mask(group["image"], group["label"], logits.shape[1]))
            target = linear_refinement(logits, proposed, self.alpha)
            terms["ce_refined"] = soft_cross_entropy(logits, target)
        return terms

    @torch.no_grad()
    def _ask(self, inputs: Tensor) -> Tensor:
        """The ancillary's logits (B, C, *spatial), without dropout and by its own statistics."""
        training = self.ancillary.training
        self.ancillary.eval()
        try:
            return cast(Tensor, self.ancillary(inputs, branch="main"))
        finally:
            self.ancillary.train(training)


def _with_mask(image: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """(B, channels, *spatial) and its mask (B, 1, *spatial) → (B, channels + C, *spatial)."""
    channels = F.one_hot(label[:, 0].long(), num_classes + 1)[..., :num_classes].movedim(-1, 1)
    return torch.cat((image, channels.to(image.dtype)), dim=1)
