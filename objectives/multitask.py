"""Multi-task attention: a second decoder reconstructs each class's part of the image."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from mixseg.losses import attention_reconstruction
from mixseg.networks import DualBranchNetwork
from mixseg.networks.features import forward_with_features
from mixseg.objectives.base import (
    Batch,
    Networks,
    Outputs,
    SingleBranchObjective,
    active,
)

_MODES = ("alternating", "joint")


class MultiTaskAttention(SingleBranchObjective):
    """Multi-task attention-based learning, L = L_ce + λ_rec L_rec.

    Chen et al., 'Multi-task attention-based semi-supervised learning for medical image
    segmentation', MICCAI 2019. A second decoder on the network's encoder reconstructs, from images
    with and without labels, the parts that the soft segmentation attends to.

    ============== ================ ===========================================================
    term           images           value
    ============== ================ ===========================================================
    ce_full        ``full``         cross-entropy with the mask
    reconstruction ``full``/``none`` mean squared error of each class's part, image · p_c; the
                                    mean over the images of both kinds
    ============== ================ ===========================================================

    Alternating training takes one task a step, the segmentation first; joint training takes both in
    each. Batch statistics are those of each kind's own pass.

    What the paper's abstract leaves open is a setting: the weight, and whether the gradient reaches
    the segmentation through the target. The paper has one foreground; here each class has its part.

    Args:
        reconstructor: a network of one branch like the method's own, with C · channels outputs. Its
            decoder is a part of this objective, trained and stored with it, and not needed for
            predicting; its encoder is dropped.
        lambda_rec: λ_rec, weight of ``reconstruction`` (1); 0 is supervised training.
        training_mode: ``"alternating"`` or ``"joint"``.
        attention_gradient: train the softmax of the reconstruction's target, too.
        supervised_loss: of ``ce_full``, ``"cross_entropy"`` or ``"dice_cross_entropy"``, see
            :func:`mixseg.objectives.supervised_term`.

    Terms whose kinds a batch lacks are left out.

    Raises:
        ValueError: on an option out of range, or a reconstructor of two branches.

    Examples:
        >>> from mixseg.networks import DualBranchUNet
        >>> reconstructor = DualBranchUNet(out_channels=2, features=(4, 8), branches=1)
        >>> MultiTaskAttention(reconstructor).weights
        {'ce_full': 1.0, 'reconstruction': 1.0}
    """

    lambda_rec: float

    def __init__(
        self,
        reconstructor: DualBranchNetwork,
        lambda_rec: float = 1.0,
        *,
        training_mode: str = "alternating",
        attention_gradient: bool = True,
        supervised_loss: str = "cross_entropy",
    ) -> None:
        super().__init__(supervised_loss, lambda_rec=lambda_rec)
        if training_mode not in _MODES:
            raise ValueError(
                f"training_mode must be one of {', '.join(_MODES)}, got {training_mode!r}"
            )
        if reconstructor.branches != 1:
            raise ValueError(f"reconstructor needs branches=1, got {reconstructor.branches}")
        self.training_mode = training_mode
        self.attention_gradient = attention_gradient
        del reconstructor.encoder
        self.reconstructor = reconstructor
        self._steps = 0

    @property
    def branches(self) -> dict[str, str]:
        """None: the objective runs the network itself, as it needs the encoder's features, too."""
        return {}

    @property
    def weights(self) -> dict[str, float]:
        """Weights of both tasks, whichever has the next step."""
        return active(ce_full=1.0, reconstruction=self.lambda_rec)

    def forward(self, outputs: Outputs, batch: Batch, networks: Networks) -> dict[str, Tensor]:
        """Unweighted terms of this step's tasks, see :class:`mixseg.objectives.Objective`."""
        tasks = self._tasks(batch)
        terms: dict[str, Tensor] = {}
        sums, count = [], 0
        for kind in ("full", "none"):
            if kind not in batch or not (kind == "full" or "reconstruction" in tasks):
                continue
            image = batch[kind]["image"]
            logits, features = forward_with_features(
                networks["network"], ["encoder"], image, branch="main"
            )
            if kind == "full" and "ce_full" in tasks:
                terms["ce_full"] = self._supervised(logits, batch[kind]["label"])
            if "reconstruction" in tasks:
                deepest, skips = cast(tuple[Tensor, list[Tensor]], features["encoder"])
                value = attention_reconstruction(
                    self.reconstructor.decode("main", deepest, skips, image),
                    image,
                    logits,
                    through_attention=self.attention_gradient,
                )
                sums.append(len(image) * value)
                count += len(image)
        if sums:
            terms["reconstruction"] = sum(sums[1:], sums[0]) / count
        return terms

    def _tasks(self, batch: Batch) -> set[str]:
        """Terms of this step; counts the steps."""
        tasks = set(self.weights)
        if self.training_mode == "alternating" and len(tasks) == 2 and "full" in batch:
            tasks = {"reconstruction"} if self._steps % 2 else {"ce_full"}
            self._steps += self.training
        return tasks

    def get_extra_state(self) -> dict[str, int]:
        """Steps so far, so that a resumed training takes the tasks in the same turns."""
        return {"steps": self._steps}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Undo of :meth:`get_extra_state`."""
        self._steps = int(state["steps"])
