"""UA-MT: a mean teacher that is followed where it is certain."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from mixseg.losses import (
    gated_consistency,
    partial_cross_entropy,
    partial_cross_entropy_dice,
    predictive_entropy,
)
from mixseg.objectives.base import (
    Batch,
    Networks,
    NetworkSpec,
    Outputs,
    SingleBranchObjective,
    active,
)

_SUPERVISED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ce_dice": partial_cross_entropy_dice,
    "ce": partial_cross_entropy,
}


class UAMT(SingleBranchObjective):
    """Uncertainty-aware mean teacher, L = L_s + λ L_c.

    Yu et al., 'Uncertainty-aware self-ensembling model for semi-supervised 3D left atrium
    segmentation', MICCAI 2019, and its code.

    =========== ============ ===========================================================
    term        images       value
    =========== ============ ===========================================================
    supervised  ``full``     ½ (cross-entropy + Dice), or the cross-entropy alone
    consistency ``none``     mean squared difference of network and teacher, where certain
    =========== ============ ===========================================================

    The teacher ``ema`` is a moving average of the network, updated at each iteration; it is in
    training mode, so that its dropout and batch statistics act. It sees the unlabeled images with
    noise, once for the target and ``passes`` times for the uncertainty, the entropy of the mean
    softmax. Voxels whose uncertainty is below (¾ + ¼ r) ln C take part. The network sees the
    images as they are and predicts; r and λ grow while training, by
    :class:`mixseg.handlers.WeightRamps`.

    Differences from the code: the threshold has ln C for ln 2, so that it works for more than two
    classes; each kind of images is a forward pass of its own, where the code's network sees both
    in one; and the stochastic passes run one by one instead of in pairs, so that memory is that of
    one. Both change nothing but batch statistics.

    Args:
        lambda_con: weight of ``consistency`` (0.1).
        supervised: ``"ce_dice"`` (UA-MT) or ``"ce"``.
        supervised_loss: in place of ``supervised``, the setting that all methods share:
            ``"cross_entropy"`` or ``"dice_cross_entropy"``, see
            :func:`mixseg.objectives.supervised_term`. None leaves it to ``supervised``.
        passes: stochastic passes T of the teacher.
        noise_sd: standard deviation of the Gaussian noise on the teacher's images, in their units.
        noise_limit: the noise is clipped to ± this.
        certainty: r of the threshold, in [0, 1]; ramped from near 0 to 1 over the training.
        decay: largest decay of the teacher, at iteration t (from 0) min(1 - 1/(t+1), ``decay``).

    Kinds that a batch lacks are left out.

    Raises:
        ValueError: on an option out of range.

    Examples:
        >>> UAMT().branches, UAMT().weights
        ({'full': 'main', 'none': 'main'}, {'supervised': 1.0, 'consistency': 0.1})
        >>> UAMT().networks["ema"].average_of
        'network'
        >>> UAMT(lambda_con=0).branches  # the lower bound
        {'full': 'main'}
    """

    lambda_con: float
    noise_sd: float
    noise_limit: float

    def __init__(
        self,
        lambda_con: float = 0.1,
        *,
        supervised: str = "ce_dice",
        supervised_loss: str | None = None,
        passes: int = 8,
        noise_sd: float = 0.1,
        noise_limit: float = 0.2,
        certainty: float = 1.0,
        decay: float = 0.99,
    ) -> None:
        super().__init__(
            "cross_entropy" if supervised_loss is None else supervised_loss,
            lambda_con=lambda_con,
            noise_sd=noise_sd,
            noise_limit=noise_limit,
        )
        if supervised not in _SUPERVISED:
            raise ValueError(
                f"supervised must be one of {', '.join(_SUPERVISED)}, got {supervised!r}"
            )
        if passes < 1:
            raise ValueError(f"passes must be at least 1, got {passes}")
        if not 0 <= certainty <= 1:
            raise ValueError(f"certainty must lie in [0, 1], got {certainty}")
        self.supervised = supervised
        self.supervised_loss = supervised_loss
        if supervised_loss is None:
            self._supervised = _SUPERVISED[supervised]
        self.passes = passes
        self.certainty = float(certainty)
        self._teacher = NetworkSpec(average_of="network", decay=decay, per="iteration")

    @property
    def branches(self) -> dict[str, str]:
        """The single branch, on unlabeled images only where the consistency is active."""
        needed = {"full": "main"}
        if self.lambda_con > 0:
            needed["none"] = "main"
        return needed

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the active terms."""
        return active(supervised=1.0, consistency=self.lambda_con)

    @property
    def networks(self) -> dict[str, NetworkSpec]:
        """The teacher ``ema``; there, too, where a ramp starts at a weight of 0."""
        return {"ema": self._teacher}

    def forward(self, outputs: Outputs, batch: Batch, networks: Networks) -> dict[str, Tensor]:
        """Unweighted terms, see :class:`mixseg.objectives.Objective`."""
        terms: dict[str, Tensor] = {}
        if "full" in outputs:
            terms["supervised"] = self._supervised(
                cast(Tensor, outputs["full"]), batch["full"]["label"]
            )
        if "consistency" in self.weights and "none" in outputs:
            target, uncertainty = self._ask(networks["ema"], batch["none"]["image"])
            terms["consistency"] = gated_consistency(
                cast(Tensor, outputs["none"]), target, uncertainty, ramp=self.certainty
            )
        return terms

    @torch.no_grad()
    def _ask(self, teacher: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's logits (B, C, *spatial) and its uncertainty (B, *spatial)."""
        target: Tensor = teacher(self._noisy(image), branch="main")
        # A generator: one pass is in memory at a time.
        passes = (teacher(self._noisy(image), branch="main") for _ in range(self.passes))
        return target, predictive_entropy(passes)

    def _noisy(self, image: Tensor) -> Tensor:
        noise = torch.randn_like(image) * self.noise_sd
        return image + noise.clamp(-self.noise_limit, self.noise_limit)
