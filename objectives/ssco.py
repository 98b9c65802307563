"""SSCO: several students that teach each other at their pace, each with a teacher of its own."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from mixseg.losses import generalized_jensen_shannon, self_paced_weights, softmax_mse
from mixseg.objectives.base import (
    Batch,
    Networks,
    NetworkSpec,
    Outputs,
    SingleBranchObjective,
    active,
)
from mixseg.objectives.motion import draw_quarter_turns, turn

_ROTATIONS = ("own", "shared")


class SSCO(SingleBranchObjective):
    """Self-paced and self-consistent co-training, L = L_s + λ_1 L_co + λ_2 L_sc.

    Wang et al., 'Self-paced and self-consistent co-training for semi-supervised image
    segmentation', MedIA 2021, and its code.

    ================ ======== =============================================================
    term             images   value
    ================ ======== =============================================================
    ce_full          ``full`` mean of the students' cross-entropies
    co_training      ``none`` generalized Jensen-Shannon divergence of all students, weighted
    self_consistency ``none`` mean of their squared differences to their own teachers
    ================ ======== =============================================================

    The students are the network and its peers ``peer_2``, …, ``peer_N``: one architecture, weights
    drawn apart. Each has a teacher, ``ema_1``, …, ``ema_N``, a moving average whose decay grows by
    the epoch. Students see each unlabeled image turned by a random number of quarter turns, and
    their logits are turned back; teachers see it as it is. A student weighs less at a voxel the
    further it is from a confident ensemble, down to nothing at a divergence of ``gamma``, which
    grows while training (:func:`mixseg.losses.self_paced_weights`).

    **Prediction** is the first student's, the network that the engine validates and exports. The
    authors' code scores the mean softmax of all teachers; the first student costs one network
    instead of N and is what the memory of a deployed model has to hold.

    Differences from the code: the weights are normalized over all N students and voxels without a
    confident class are left out (``unconfident_weight=1`` is the code's reading); by default each
    student has turns of its own (``rotation="shared"`` is the code, where all see the same turned
    images); the cross-entropy is the sum over classes, the code's is divided by C, so that the same
    λ count C times as much there.

    Args:
        lambda_co: weight λ_1 of ``co_training`` (0.5).
        lambda_sc: weight λ_2 of ``self_consistency`` (4).
        students: N >= 2. The journal's Table 8 counts eight networks, hence four; the authors have
            two or three.
        gamma: γ > 0, grown from 0.2 to 8 by the authors.
        alpha: α in [0, 1], entropy penalty of ``co_training`` (1e-5 at the end of its ramp).
        confidence: mean probability that a class must exceed to be a voxel's target, in [½, 1).
        unconfident_weight: weight of all students at a voxel without a target, in [0, 1].
        rotation: ``"own"`` or ``"shared"``, see above.
        decay: largest decay of the teachers, in epoch e (from 0) min(1 - 1/(e+1), ``decay``).
        supervised_loss: of ``ce_full``, ``"cross_entropy"`` (paper) or
            ``"dice_cross_entropy"``, see :func:`mixseg.objectives.supervised_term`.

    Kinds that a batch lacks are left out. Images that are not square are turned by half turns only.

    Raises:
        ValueError: on an option out of range.

    Examples:
        >>> method = SSCO(students=2)
        >>> {name: spec.average_of for name, spec in method.networks.items()}
        {'peer_2': None, 'ema_1': 'network', 'ema_2': 'peer_2'}
        >>> method.weights
        {'ce_full': 1.0, 'co_training': 0.5, 'self_consistency': 4.0}
    """

    lambda_co: float
    lambda_sc: float

    def __init__(
        self,
        lambda_co: float = 0.5,
        lambda_sc: float = 4.0,
        *,
        students: int = 4,
        gamma: float = 8.0,
        alpha: float = 1e-5,
        confidence: float = 0.8,
        unconfident_weight: float = 0.0,
        rotation: str = "own",
        decay: float = 0.999,
        supervised_loss: str = "cross_entropy",
    ) -> None:
        super().__init__(supervised_loss, lambda_co=lambda_co, lambda_sc=lambda_sc)
        if students < 2:
            raise ValueError(f"students must be at least 2, got {students}")
        if not gamma > 0:
            raise ValueError(f"gamma must be positive, got {gamma}")
        if not 0.5 <= confidence < 1:
            raise ValueError(f"confidence must lie in [0.5, 1), got {confidence}")
        for name, value in (("alpha", alpha), ("unconfident_weight", unconfident_weight)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {value}")
        if rotation not in _ROTATIONS:
            raise ValueError(f"rotation must be one of {', '.join(_ROTATIONS)}, got {rotation!r}")
        self.gamma = float(gamma)
        self.alpha = float(alpha)
        self.confidence = float(confidence)
        self.unconfident_weight = float(unconfident_weight)
        self.rotation = rotation
        #: Names of the students and, in the same order, of their teachers.
        self.students = ("network", *(f"peer_{k}" for k in range(2, students + 1)))
        self.teachers = tuple(f"ema_{k}" for k in range(1, students + 1))
        pairs = zip(self.students, self.teachers, strict=True)
        self._networks = {name: NetworkSpec() for name in self.students[1:]} | {
            teacher: NetworkSpec(average_of=student, decay=decay, per="epoch")
            for student, teacher in pairs
        }

    @property
    def branches(self) -> dict[str, str]:
        """The first student's pass over full masks; this objective makes all others."""
        return {"full": "main"}

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the active terms."""
        return active(ce_full=1.0, co_training=self.lambda_co, self_consistency=self.lambda_sc)

    @property
    def networks(self) -> dict[str, NetworkSpec]:
        """The other students, then a teacher for each student."""
        return dict(self._networks)

    def forward(self, outputs: Outputs, batch: Batch, networks: Networks) -> dict[str, Tensor]:
        """Unweighted terms, see :class:`mixseg.objectives.Objective`."""
        active = self.weights
        terms: dict[str, Tensor] = {}
        if "full" in outputs:
            image, label = batch["full"]["image"], batch["full"]["label"]
            logits = [cast(Tensor, outputs["full"])]
            logits += [networks[name](image, branch="main") for name in self.students[1:]]
            terms["ce_full"] = _mean([self._supervised(z, label) for z in logits])
        if "none" not in batch or not {"co_training", "self_consistency"} & set(active):
            return terms
        image = batch["none"]["image"]
        students = self._students(image, networks)
        if "co_training" in active:
            weights = self_paced_weights(
                students,
                self.gamma,
                threshold=self.confidence,
                unconfident_weight=self.unconfident_weight,
            )
            terms["co_training"] = generalized_jensen_shannon(students, weights, alpha=self.alpha)
        if "self_consistency" in active:
            with torch.no_grad():
                teachers = [networks[name](image, branch="main") for name in self.teachers]
            pairs = zip(students, teachers, strict=True)
            terms["self_consistency"] = _mean([softmax_mse(z, target) for z, target in pairs])
        return terms

    def _students(self, image: Tensor, networks: Networks) -> list[Tensor]:
        """Each student's logits (B, C, *spatial) of turned images, turned back."""
        turns = draw_quarter_turns(image)
        logits = []
        for i, name in enumerate(self.students):
            if i and self.rotation == "own":
                turns = draw_quarter_turns(image)
            turned: Tensor = networks[name](turn(image, turns), branch="main")
            logits.append(turn(turned, turns, back=True))
        return logits


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()
