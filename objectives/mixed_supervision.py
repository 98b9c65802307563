"""The flagship: everything that is labeled, by one loss, and soft pseudo-labels for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mixseg.losses import dice_cross_entropy, soft_cross_entropy
from mixseg.objectives.base import Batch, Networks, Objective, Outputs, active, refuse_negative

#: Of a class that the batch's full masks hardly hold.
_LEAST_WEIGHT = 0.1


class MixedSupervision(Objective):
    """Learn from whatever is there: masks, scribbles, partial labels, noisy masks, no label.

    L = L_full + λ_partial L_partial + λ_noisy L_noisy + λ_pseudo L_pseudo

    ======= ============ =================================================================
    term    images       value
    ======= ============ =================================================================
    full    full         cross-entropy + soft Dice over labeled voxels
    partial partial      the same
    noisy   noisy        the same, on masks that may be wrong
    pseudo  all but full cross-entropy to soft pseudo-labels on unlabeled voxels
    ======= ============ =================================================================

    Each kind has a loss of its own: in a common mean over voxels a few masks would outweigh many
    scribbles, which label a twentieth of the voxels. Scribbles hold far more foreground than an
    image does and say nothing about boundaries: with as much weight as masks they make objects too
    large. Eroded masks with free negatives hold far less of it and make objects too small. With
    ``match_classes``, each voxel of a partial label therefore weighs π_c / q_c, the share of its
    class c among the voxels of the batch's full masks over that among its labeled voxels: all sums
    of the loss are then what they would be, had the labels been placed without regard to class.
    The ratio is at least 0.1, so that a class that the batch's masks lack is learned, too. Batches
    without a full mask have no such weights.

    With one branch there are no pseudo-labels: the network learns from labeled voxels alone. With
    two, both learn from all labels, and the pseudo-label of a voxel is a random mixture
    β p_teacher + (1 − β) p_student, β uniform in [0, 1] and drawn for each step, without gradient
    (Luo et al., DMPLS, MICCAI 2022; Han et al., DMSPS, Medical Image Analysis 2024). Kinds that a
    batch lacks are left out.

    Args:
        lambda_partial: weight of partial labels.
        lambda_noisy: weight of masks that may be wrong.
        match_classes: weight partial labels by class, as above.
        lambda_pseudo: weight of pseudo-labels, for ``branches=2``; begin them late by a ramp
            (:class:`mixseg.handlers.WeightRamps`).
        branches: of the network, 1 (``main``) or 2 (``teacher`` and ``student``).

    Raises:
        ValueError: on a negative weight, another number of branches, or pseudo-labels for one.

    Examples:
        With logits of 0 the cross-entropy is ln 2, and the soft Dice of one of two labeled pixels
        1 − 2 · ½ / (1 + 1) = ½:

        >>> logits = torch.zeros(1, 2, 1, 3)
        >>> batch = {"partial": {"label": torch.tensor([[[[0, 1, 2]]]])}}
        >>> terms = MixedSupervision()({"partial": logits}, batch, {})
        >>> {name: round(term.item(), 4) for name, term in terms.items()}
        {'partial': 1.1931}
    """

    def __init__(
        self,
        lambda_partial: float = 0.3,
        lambda_noisy: float = 0.5,
        lambda_pseudo: float = 0.0,
        *,
        match_classes: bool = False,
        branches: Literal[1, 2] = 1,
    ) -> None:
        super().__init__()
        refuse_negative(
            lambda_partial=lambda_partial, lambda_noisy=lambda_noisy, lambda_pseudo=lambda_pseudo
        )
        if branches not in (1, 2):
            raise ValueError(f"branches must be 1 or 2, got {branches}")
        if branches == 1 and lambda_pseudo > 0:
            raise ValueError(
                "pseudo-labels are a mixture of two branches: set branches to 2, or lambda_pseudo "
                "to 0"
            )
        self.lambda_partial = float(lambda_partial)
        self.lambda_noisy = float(lambda_noisy)
        self.lambda_pseudo = float(lambda_pseudo)
        self.match_classes = match_classes
        self._names = ("main",) if branches == 1 else ("teacher", "student")

    @property
    def branches(self) -> dict[str, str]:
        """All branches for every kind that a term needs."""
        branch = self._names[0] if len(self._names) == 1 else "both"
        kinds = ["full"]
        kinds += [k for k in ("partial", "noisy") if getattr(self, f"lambda_{k}")]
        if self.lambda_pseudo > 0:
            kinds += [kind for kind in ("partial", "noisy", "none") if kind not in kinds]
        return dict.fromkeys(kinds, branch)

    @property
    def trained_branches(self) -> tuple[str, ...]:
        """Every branch."""
        return self._names

    @property
    def inference_branch(self) -> str:
        """The only branch, or the student."""
        return self._names[-1]

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the active terms."""
        return active(
            full=1.0,
            partial=self.lambda_partial,
            noisy=self.lambda_noisy,
            pseudo=self.lambda_pseudo,
        )

    def forward(self, outputs: Outputs, batch: Batch, networks: Networks) -> dict[str, Tensor]:
        """Unweighted terms, see :class:`mixseg.objectives.Objective`."""
        weights = self.weights
        logits = {kind: _as_tuple(output) for kind, output in outputs.items()}
        terms: dict[str, Tensor] = {}
        for kind in ("full", "partial", "noisy"):
            if kind in weights and kind in logits:
                label, weight = batch[kind]["label"], None
                if kind == "partial" and self.match_classes and "full" in batch:
                    num_classes = logits[kind][0].shape[1]
                    weight = _class_weight(batch["full"]["label"], label, num_classes)
                terms[kind] = torch.stack(
                    [dice_cross_entropy(z, label, class_weight=weight) for z in logits[kind]]
                ).mean()
        rest = [kind for kind in ("partial", "noisy", "none") if kind in logits]
        if "pseudo" in weights and rest:
            terms["pseudo"] = _pseudo(logits, batch, rest)
        return terms


def _as_tuple(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (output,) if isinstance(output, Tensor) else output


def _class_weight(full: Tensor, partial: Tensor, num_classes: int) -> Tensor:
    """Share of each class among the voxels of masks over that among labeled voxels, at least 0.1.

    A class that ``partial`` lacks has some weight, which no voxel bears.
    """
    masks, labels = (
        torch.stack([(label == c).sum() for c in range(num_classes)]).float()
        for label in (full, partial)
    )
    share = masks / masks.sum().clamp(min=1)
    return (share * labels.sum() / labels.clamp(min=1)).clamp(min=_LEAST_WEIGHT)


def _pseudo(logits: dict[str, tuple[Tensor, ...]], batch: Batch, kinds: Sequence[str]) -> Tensor:
    """Cross-entropy of both branches to their random mixture, on unlabeled voxels."""
    teacher, student = (
        torch.cat(parts) for parts in zip(*(logits[kind] for kind in kinds), strict=True)
    )
    beta = torch.rand(())
    p_teacher, p_student = (z.detach().float().softmax(dim=1) for z in (teacher, student))
    target = beta * p_teacher + (1 - beta) * p_student
    unlabeled = torch.cat(
        [
            batch[kind]["label"] == teacher.shape[1]
            if "label" in batch[kind]
            else torch.ones_like(logits[kind][0][:, :1], dtype=torch.bool)
            for kind in kinds
        ]
    )
    return torch.stack(
        [soft_cross_entropy(z, target, unlabeled) for z in (teacher, student)]
    ).mean()
