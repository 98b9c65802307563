"""Entropy minimization: three regularizers of images without labels, and no second network."""

from __future__ import annotations

from typing import get_args

from torch import Tensor

from mixseg.losses import (
    ClassConsistencyLoss,
    FeatureGradientLoss,
    SharpeningLoss,
    image_class_cross_entropy,
    sample_logits,
)
from mixseg.losses.feature_gradients import Levels, Operator, Reduction, Resizing
from mixseg.objectives.base import (
    Batch,
    Networks,
    Outputs,
    SingleBranchObjective,
    active,
)

_SHARPENING = ("adaptive", "fixed")
_UNSUPERVISED = {"gradient", "sharpening", "class_consistency"}


class EntropyMinimization(SingleBranchObjective):
    """Entropy minimization, L = L_s + λ (λ_g L_g + λ_sh L_sh + λ_c L_c).

    Wu et al., 'Semi-supervised semantic segmentation via entropy minimization', ICME 2021. The
    network is a :class:`mixseg.networks.MeanVarianceNetwork`.

    ================= ======== ============================================================
    term              images   value
    ================= ======== ============================================================
    ce_segmentation   ``full`` cross-entropy of sampled logits z = μ + σ ε of the pixels
    ce_class          ``full`` the same of the image's classes, those that its mask has
    gradient          ``none`` gradients of encoder features, accumulated down the levels
    sharpening        ``none`` squared difference to the sharpened prediction
    class_consistency ``none`` p_c p_s of the classes that the image is unlikely to have
    ================= ======== ============================================================

    Both sums of eq. 2 are means here, over labeled pixels and over images.

    Args:
        lambda_unsup: λ, weight of all terms of unlabeled images (0.1); 0 is the supervised
            baseline with the same network.
        lambda_grad: λ_g, weight of ``gradient`` among them.
        lambda_sharpen: λ_sh, weight of ``sharpening`` among them.
        lambda_class: λ_c, weight of ``class_consistency`` among them.
        sharpening: ``"adaptive"`` (:func:`mixseg.losses.adaptive_temperature`) or ``"fixed"``.
        temperature: T of ``"fixed"``.
        temperature_min: smallest T of ``"adaptive"``.
        gradient_operator: ``"sobel"`` or ``"difference"``, see :func:`mixseg.losses.gradient_map`.
        channel_reduction: ``"mean"`` or ``"norm"``, see there.
        resizing: ``"pool"`` or ``"interpolate"``, see
            :func:`mixseg.losses.feature_gradient_regularization`.
        gradient_sum: ``"through"`` (eq. 4) or ``"below"``, see there.
        class_threshold: β of :func:`mixseg.losses.low_confidence_consistency`; None is 1/C.
        samples: noise samples whose probabilities are averaged, see
            :func:`mixseg.losses.sample_logits`; 1 in the paper.
        supervised_loss: of ``ce_segmentation``, ``"cross_entropy"`` (paper) or
            ``"dice_cross_entropy"``, see :func:`mixseg.objectives.supervised_term`.

    Kinds that a batch lacks are left out.

    Raises:
        ValueError: on an option out of range.

    Examples:
        >>> EntropyMinimization().weights  # doctest: +NORMALIZE_WHITESPACE
        {'ce_segmentation': 1.0, 'ce_class': 1.0, 'gradient': 0.1, 'sharpening': 0.1,
         'class_consistency': 0.1}
        >>> EntropyMinimization(lambda_unsup=0).branches
        {'full': 'heads'}
    """

    lambda_unsup: float
    lambda_grad: float
    lambda_sharpen: float
    lambda_class: float

    def __init__(
        self,
        lambda_unsup: float = 0.1,
        *,
        lambda_grad: float = 1.0,
        lambda_sharpen: float = 1.0,
        lambda_class: float = 1.0,
        sharpening: str = "adaptive",
        temperature: float = 0.5,
        temperature_min: float = 0.01,
        gradient_operator: Operator = "sobel",
        channel_reduction: Reduction = "mean",
        resizing: Resizing = "pool",
        gradient_sum: Levels = "through",
        class_threshold: float | None = None,
        samples: int = 1,
        supervised_loss: str = "cross_entropy",
    ) -> None:
        super().__init__(
            supervised_loss,
            lambda_unsup=lambda_unsup,
            lambda_grad=lambda_grad,
            lambda_sharpen=lambda_sharpen,
            lambda_class=lambda_class,
        )
        if sharpening not in _SHARPENING:
            raise ValueError(
                f"sharpening must be one of {', '.join(_SHARPENING)}, got {sharpening!r}"
            )
        if gradient_sum not in get_args(Levels):
            raise ValueError(
                f"gradient_sum must be one of {', '.join(get_args(Levels))}, got {gradient_sum!r}"
            )
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        self.samples = samples
        self.gradient = FeatureGradientLoss(
            gradient_operator, channel_reduction, resizing, gradient_sum
        )
        self.sharpening = SharpeningLoss(
            temperature if sharpening == "fixed" else None, temperature_min
        )
        self.class_consistency = ClassConsistencyLoss(class_threshold)

    @property
    def branches(self) -> dict[str, str]:
        """All outputs, of unlabeled images only where a term of theirs is active."""
        needed = {"full": "heads"}
        if _UNSUPERVISED & set(self.weights):
            needed["none"] = "heads"
        return needed

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the active terms."""
        return active(
            ce_segmentation=1.0,
            ce_class=1.0,
            gradient=self.lambda_unsup * self.lambda_grad,
            sharpening=self.lambda_unsup * self.lambda_sharpen,
            class_consistency=self.lambda_unsup * self.lambda_class,
        )

    def forward(self, outputs: Outputs, batch: Batch, networks: Networks) -> dict[str, Tensor]:
        """Unweighted terms, see :class:`mixseg.objectives.Objective`."""
        terms: dict[str, Tensor] = {}
        if "full" in outputs:
            mean, log_variance, class_mean, class_log_variance, *_ = outputs["full"]
            label = batch["full"]["label"]
            pixels = sample_logits(mean, log_variance, samples=self.samples)
            image = sample_logits(class_mean, class_log_variance, samples=self.samples)
            terms["ce_segmentation"] = self._supervised(pixels, label)
            terms["ce_class"] = image_class_cross_entropy(image, label)
        if "none" in outputs:
            active = self.weights
            mean, log_variance, class_mean, _, *features = outputs["none"]
            if "gradient" in active:
                terms["gradient"] = self.gradient(features)
            if "sharpening" in active:
                terms["sharpening"] = self.sharpening(mean, log_variance)
            if "class_consistency" in active:
                terms["class_consistency"] = self.class_consistency(class_mean, mean)
        return terms
