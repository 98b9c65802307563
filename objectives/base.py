"""What the engine knows of a method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

__all__ = ["Batch", "Objective", "Outputs"]

#: One forwarded batch a supervision kind: ``{"full": {"image": …, "label": …}, "partial": …}``.
Batch = Mapping[str, Mapping[str, Tensor]]
#: What the network returned for each kind: logits, or a pair (teacher, student).
Outputs = Mapping[str, Tensor | tuple[Tensor, Tensor]]


class Objective(nn.Module, ABC):
    """A method: which branch sees which supervision kind, the loss terms and their weights.

    The engine forwards every kind in :attr:`branches` through the network with the branch named
    there, calls the objective, sums ``weight × term`` and logs each term by its name. It knows
    no method by name.

    Weights are plain float attributes named as in the papers (``lambda_w``, …), so that the
    command line sets them and :class:`mixseg.handlers.WeightRamps` moves them while training.
    """

    @property
    @abstractmethod
    def branches(self) -> dict[str, str]:
        """Supervision kind → branch to compute; kinds that no active term needs are absent."""

    @property
    @abstractmethod
    def trained_branches(self) -> tuple[str, ...]:
        """Branches that some active term trains; the others keep their initial weights."""

    @property
    @abstractmethod
    def inference_branch(self) -> str:
        """The branch that the method predicts with, by which checkpoints are selected."""

    @property
    @abstractmethod
    def weights(self) -> dict[str, float]:
        """Name of each active term → its weight now."""

    @abstractmethod
    def forward(self, outputs: Outputs, batch: Batch) -> dict[str, Tensor]:
        """Name of each active term → its unweighted value, a scalar.

        Args:
            outputs: logits (B, C, *spatial) a kind, or a pair of them where the branch is both.
            batch: per kind ``image`` (B, channels, *spatial) and ``label`` (B, 1, *spatial),
                labels 0…C−1 and C = unlabelled.
        """
