"""ConfKD: knowledge distillation helped by confidence maximization."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from mixseg.losses import distillation, partial_cross_entropy, shannon_entropy
from mixseg.objectives.base import (
    Batch,
    Networks,
    Objective,
    Outputs,
    active,
    refuse_negative,
    supervised_term,
)

_RANGES = ("partial", "all")


class ConfKD(Objective):
    """Joint objective of ConfKD, L = L_s + λ_w L_w + λ_kd L_kd + λ_ent L_ent.

    Liu et al., 'Segmentation with mixed supervision: confidence maximization helps knowledge
    distillation' (2021), eqs. 1–5; Dolz et al., IPMI 2021, eqs. 1–5.

    ======== ============== ============== =============================================
    term     branch         images         value
    ======== ============== ============== =============================================
    ce_full  teacher        D_s            cross-entropy (eq. 1)
    ce_weak  student        ``weak_on``    partial cross-entropy, labeled pixels (eq. 2)
    kd       both           D_s            divergence teacher ‖ student, all pixels (eq. 3)
    entropy  student        ``entropy_on`` Shannon entropy, all pixels (eq. 4)
    ======== ============== ============== =============================================

    A term whose weight is 0 is not computed, and neither is a branch that no term needs: with
    every λ at 0 the method is the papers' lower bound at the cost of a single branch.

    Args:
        lambda_w: weight of ``ce_weak`` (journal 0.001, IPMI 0.1).
        lambda_kd: weight of ``kd`` (50).
        lambda_ent: weight of ``entropy`` (1).
        weak_on: images of the partial cross-entropy: ``"partial"`` is D_w alone (the journal's
            eq. 2), ``"all"`` adds D_s through its eroded labels (``weak_label`` in the batch),
            as IPMI's eq. 2 and the journal's text have it.
        entropy_on: images of the entropy, ``"partial"`` (both papers' eq. 4) or ``"all"``.
        weak_branch: branch that learns from partial labels and the entropy. ``"teacher"`` with
            ``lambda_kd=0`` is the papers' Single (+ Ent): one branch for both kinds; so is
            ``"main"``, for a network that has this branch alone.
        weak_normalization: divisor of the partial cross-entropy, ``"labeled"`` pixels (a mean) or
            ``"all"`` pixels, which keeps the ratios of the papers' sums over pixels.
        divergence: ``"kl"``, ``"bhattacharyya"`` or ``"tsallis"``.
        alpha: order of the Tsallis divergence.
        smooth: softmax over softmax on both sides of the divergence (papers).
        detach_teacher: stop the gradient of ``kd`` into the teacher branch.
        inference_branch: branch that selects the weights and predicts, ``"student"`` (§4.1) or
            ``"teacher"``, as where Luo and Yang's weak branch learns from proxy masks.
        supervised_loss: of ``ce_full`` and ``ce_weak``, ``"cross_entropy"`` (papers) or
            ``"dice_cross_entropy"``, see :func:`mixseg.objectives.supervised_term`. Each term has
            a Dice of its own, also where one branch learns from both.

    Kinds that a batch lacks are left out, so that data without any partial case still train.

    Raises:
        ValueError: on a negative weight or an unknown option.

    Examples:
        With logits of 0 every probability is ½: both cross-entropies and the entropy are ln 2 per
        pixel, the branches agree, and no pixel of the scribbled image is labeled:

        >>> logits = torch.zeros(1, 2, 4, 4)
        >>> mask = torch.ones(1, 1, 4, 4)
        >>> batch = {"full": {"label": mask}, "partial": {"label": 2 * mask}}
        >>> terms = ConfKD()({"full": (logits, logits), "partial": logits}, batch)
        >>> {name: round(term.item(), 4) + 0.0 for name, term in terms.items()}
        {'ce_full': 0.6931, 'kd': 0.0, 'ce_weak': 0.0, 'entropy': 0.6931}

        What the lower bound leaves out is not forwarded:

        >>> ConfKD(lambda_w=0, lambda_kd=0, lambda_ent=0).branches
        {'full': 'teacher'}
    """

    def __init__(
        self,
        lambda_w: float = 0.001,
        lambda_kd: float = 50.0,
        lambda_ent: float = 1.0,
        *,
        weak_on: str = "partial",
        entropy_on: str = "partial",
        weak_branch: str = "student",
        weak_normalization: Literal["labeled", "all"] = "labeled",
        divergence: Literal["kl", "bhattacharyya", "tsallis"] = "kl",
        alpha: float = 2.0,
        smooth: bool = True,
        detach_teacher: bool = True,
        inference_branch: Literal["student", "teacher"] = "student",
        supervised_loss: str = "cross_entropy",
    ) -> None:
        super().__init__()
        refuse_negative(lambda_w=lambda_w, lambda_kd=lambda_kd, lambda_ent=lambda_ent)
        for name, choice, allowed in (
            ("weak_on", weak_on, _RANGES),
            ("entropy_on", entropy_on, _RANGES),
            ("weak_branch", weak_branch, ("student", "teacher", "main")),
            ("weak_normalization", weak_normalization, ("labeled", "all")),
            ("divergence", divergence, ("kl", "bhattacharyya", "tsallis")),
            ("inference_branch", inference_branch, ("student", "teacher")),
        ):
            if choice not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {choice!r}")
        if weak_branch != "student" and lambda_kd > 0:
            raise ValueError(
                f"weak_branch={weak_branch!r} is the single-branch baseline, which trains no "
                "student: set lambda_kd to 0"
            )
        self.supervised_loss = supervised_loss
        self._supervised = self._weak = supervised_term(supervised_loss)
        if weak_normalization == "all" and supervised_loss != "cross_entropy":
            raise ValueError(
                "weak_normalization='all' divides the cross-entropy alone: set supervised_loss to "
                "cross_entropy, or weak_normalization to labeled"
            )
        self.lambda_w = float(lambda_w)
        self.lambda_kd = float(lambda_kd)
        self.lambda_ent = float(lambda_ent)
        self.weak_on = weak_on
        self.entropy_on = entropy_on
        self.weak_branch = weak_branch
        self._full_branch = "main" if weak_branch == "main" else "teacher"
        if weak_normalization == "all":
            self._weak = partial(partial_cross_entropy, normalization="all")
        self.weak_normalization = weak_normalization
        self.divergence = divergence
        self.alpha = alpha
        self.smooth = smooth
        self.detach_teacher = detach_teacher
        self._inference_branch = inference_branch

    @property
    def branches(self) -> dict[str, str]:
        """Kinds and branches that the active terms need."""
        weak = self.lambda_w > 0 or self.lambda_ent > 0
        weak_on_full = (self.lambda_w > 0 and self.weak_on == "all") or (
            self.lambda_ent > 0 and self.entropy_on == "all"
        )
        student_on_full = self.lambda_kd > 0 or (weak_on_full and self.weak_branch == "student")
        needed = {"full": "both" if student_on_full else self._full_branch}
        if weak:
            needed["partial"] = self.weak_branch
        return needed

    @property
    def trained_branches(self) -> tuple[str, ...]:
        """The teacher always, the student where a term reaches it; or the only branch."""
        used = self.branches.values()
        return ("teacher", "student") if {"both", "student"} & set(used) else (self._full_branch,)

    @property
    def inference_branch(self) -> str:
        """The one asked for, or the teacher or the only one where nothing trains a student."""
        return self._inference_branch if "student" in self.trained_branches else self._full_branch

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the active terms."""
        return active(
            ce_full=1.0, ce_weak=self.lambda_w, kd=self.lambda_kd, entropy=self.lambda_ent
        )

    def forward(
        self, outputs: Outputs, batch: Batch, networks: Networks | None = None
    ) -> dict[str, Tensor]:
        """Unweighted terms, see :class:`mixseg.objectives.Objective`.

        With ``weak_on="all"`` the batch of D_s also holds ``weak_label`` (B, 1, *spatial).
        """
        active = self.weights
        terms: dict[str, Tensor] = {}
        logits = {kind: _named(outputs[kind], self.branches[kind]) for kind in outputs}
        if "full" in logits:
            teacher = logits["full"][self._full_branch]
            terms["ce_full"] = self._supervised(teacher, batch["full"]["label"])
            if "kd" in active:
                terms["kd"] = distillation(
                    teacher,
                    logits["full"]["student"],
                    divergence=self.divergence,
                    alpha=self.alpha,
                    smooth=self.smooth,
                    detach_teacher=self.detach_teacher,
                )
        if "ce_weak" in active and (kinds := _present(logits, self.weak_on)):
            # The eroded copy of a full mask is its weak label; a partial label is one already.
            labels = [batch[k]["weak_label" if k == "full" else "label"] for k in kinds]
            terms["ce_weak"] = self._weak(
                torch.cat([logits[k][self.weak_branch] for k in kinds]), torch.cat(labels)
            )
        if "entropy" in active and (kinds := _present(logits, self.entropy_on)):
            terms["entropy"] = shannon_entropy(
                torch.cat([logits[k][self.weak_branch] for k in kinds])
            )
        return terms


def _named(output: Tensor | tuple[Tensor, ...], branch: str) -> dict[str, Tensor]:
    """Branch name → logits."""
    if isinstance(output, Tensor):
        return {branch: output}
    return dict(zip(("teacher", "student"), output, strict=True))


def _present(logits: dict[str, dict[str, Tensor]], images: str) -> list[str]:
    """Kinds of the batch that a term reads."""
    wanted = ("partial",) if images == "partial" else ("full", "partial")
    return [kind for kind in wanted if kind in logits]
