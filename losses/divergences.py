"""Divergences between teacher and student predictions.

The three divergences take log-probabilities and return one number per voxel; `distillation` makes
log-probabilities from logits and averages. The teacher's distribution p always comes first.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixseg.losses._common import check_same_shape, prepare_logits, voxel_mean

Divergence = Literal["kl", "bhattacharyya", "tsallis"]


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Kullback-Leibler divergence Σ_c p_c log(p_c / q_c) (ConfKD, eq. 3).

    Args:
        log_p: (B, C, *spatial) log-probabilities of the teacher.
        log_q: (B, C, *spatial) log-probabilities of the student.

    Returns:
        (B, *spatial), >= 0 up to rounding, in nats.

    Examples:
        >>> p = torch.tensor([[[0.5], [0.5]]]).log()  # (1, 2 classes, 1 pixel)
        >>> q = torch.tensor([[[0.25], [0.75]]]).log()
        >>> round(kl_divergence(p, q).item(), 4)  # ½ ln 2 + ½ ln ⅔ = ½ ln 4/3
        0.1438
    """
    # PyTorch names the second distribution of KL(p||q) `input` and the first `target`.
    return F.kl_div(input=log_q, target=log_p, log_target=True, reduction="none").sum(dim=1)


def bhattacharyya_distance(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Bhattacharyya distance -log Σ_c (p_c q_c)^½ (ConfKD, eq. 6). Symmetric.

    Args:
        log_p: (B, C, *spatial) log-probabilities of the teacher.
        log_q: (B, C, *spatial) log-probabilities of the student.

    Returns:
        (B, *spatial), >= 0 up to rounding, in nats.

    Examples:
        >>> p = torch.tensor([[[0.5], [0.5]]]).log()  # (1, 2 classes, 1 pixel)
        >>> q = torch.tensor([[[0.1], [0.9]]]).log()
        >>> round(bhattacharyya_distance(p, q).item(), 4)  # -ln(√0.05 + √0.45) = -ln √0.8
        0.1116
    """
    return -torch.logsumexp(0.5 * (log_p + log_q), dim=1)


def _check_alpha(alpha: float) -> None:
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha must be a positive number, got {alpha}")
    if alpha == 1:
        raise ValueError(
            "alpha = 1 is the limit in which the Tsallis divergence is the Kullback-Leibler "
            "divergence: use divergence='kl'"
        )


def _third_of_range(*dtypes: torch.dtype) -> float:
    """Logarithm of the cube root of the largest number that all the dtypes can hold."""
    return min(math.log(torch.finfo(dtype).max) for dtype in dtypes) / 3


def tsallis_divergence(
    log_p: Tensor, log_q: Tensor, alpha: float = 2.0, *, max_exponent: float | None = None
) -> Tensor:
    """Tsallis α-divergence (1 - Σ_c p_c^α q_c^(1-α)) / (1 - α) (ConfKD, eq. 7).

    α = 2 is Σ p²/q - 1; α → 1 is the Kullback-Leibler divergence. The sum is e^s with
    s = logsumexp(α log p + (1-α) log q), and for α > 1 it leaves the range of floating point where
    a confident student contradicts its teacher. Up to s = max_exponent it is exact; beyond, e^s is
    continued by its tangent, so that value and gradient stay finite, continuous and non-zero.

    Args:
        log_p: (B, C, *spatial) log-probabilities of the teacher.
        log_q: (B, C, *spatial) log-probabilities of the student.
        alpha: order, positive and not 1.
        max_exponent: largest exact s. None takes a third of the exponent range of log_q's dtype
            (29.6 for float32 and bfloat16, 236.6 for float64, 3.7 for float16), so that gradients
            leave room for their squares, as in a gradient norm, and for back-propagation.

    Returns:
        (B, *spatial), >= 0 up to rounding.

    Raises:
        ValueError: alpha is 1, not positive or not finite.

    Examples:
        >>> p = torch.tensor([[[0.5], [0.5]]]).log()  # (1, 2 classes, 1 pixel)
        >>> q = torch.tensor([[[0.25], [0.75]]]).log()
        >>> round(tsallis_divergence(p, q).item(), 4)  # 0.25 / 0.25 + 0.25 / 0.75 - 1
        0.3333
    """
    _check_alpha(alpha)
    limit = _third_of_range(log_q.dtype) if max_exponent is None else max_exponent
    exponent = torch.logsumexp(log_p + (alpha - 1) * (log_p - log_q), dim=1)
    inside = exponent.clamp(max=limit)
    # expm1 keeps the digits of a small divergence; the last summand is 0 up to the limit.
    return (torch.expm1(inside) + torch.exp(inside) * (exponent - inside)) / (alpha - 1)


def _check_divergence(divergence: str, alpha: float) -> None:
    if divergence not in get_args(Divergence):
        raise ValueError(f"divergence must be one of {get_args(Divergence)}, got {divergence!r}")
    if divergence == "tsallis":
        _check_alpha(alpha)


def _log_probabilities(logits: Tensor, smooth: bool) -> Tensor:
    return (logits.softmax(dim=1) if smooth else logits).log_softmax(dim=1)


def distillation(
    teacher_logits: Tensor,
    student_logits: Tensor,
    *,
    divergence: Divergence = "kl",
    alpha: float = 2.0,
    smooth: bool = True,
    detach_teacher: bool = True,
    mask: Tensor | None = None,
) -> Tensor:
    """Mean divergence of the student's predictions from the teacher's: L_kd.

    Liu et al. (ConfKD, journal version), eq. 3 (KL), eq. 6 (Bhattacharyya) and eq. 7 (Tsallis), as
    a mean over voxels instead of a sum. The papers feed the KL term "very smooth" distributions,
    softmax(softmax(z)); with two classes these lie within [1/(1+e), e/(1+e)] = [0.269, 0.731] and
    their KL is at most tanh(1/2) = 0.4621. Whether eqs. 6 and 7 were smoothed too is not stated;
    here `smooth` means the same for all three.

    Args:
        teacher_logits: (B, C, *spatial), floating point, C >= 2: the first argument, p.
        student_logits: same shape: the second argument, q.
        divergence: "kl", "bhattacharyya" or "tsallis".
        alpha: order of the Tsallis divergence, positive and not 1; the others have none.
        smooth: softmax over softmax, as in the papers; False uses the plain softmax.
        detach_teacher: stop the gradient into the teacher, which then is a fixed target.
        mask: bool, (B, 1, *spatial) or (B, *spatial); voxels to average over, None for all.

    Returns:
        Scalar, >= 0 up to rounding; float32 for half-precision logits. 0 with zero gradient when
        the mask selects nothing.

    Raises:
        TypeError: logits not floating point, or mask not bool.
        ValueError: shapes differ, unknown divergence, or alpha not allowed.

    Examples:
        A student that is sure of the wrong class reaches the bound of softmax over softmax:

        >>> teacher = torch.tensor([[[50.0], [-50.0]]])  # (1, 2 classes, 1 pixel)
        >>> round(distillation(teacher, -teacher).item(), 4)  # tanh ½
        0.4621
        >>> round(distillation(teacher, teacher).item(), 4) + 0.0
        0.0
    """
    _check_divergence(divergence, alpha)
    check_same_shape(teacher_logits, student_logits, ("teacher_logits", "student_logits"))
    if detach_teacher:
        teacher_logits = teacher_logits.detach()
    log_p = _log_probabilities(prepare_logits(teacher_logits, name="teacher_logits"), smooth)
    log_q = _log_probabilities(prepare_logits(student_logits, name="student_logits"), smooth)
    if divergence == "kl":
        values = kl_divergence(log_p, log_q)
    elif divergence == "bhattacharyya":
        values = bhattacharyya_distance(log_p, log_q)
    else:
        # Gradients are cast back to the dtypes of the logits, whose range is therefore the bound.
        limit = _third_of_range(teacher_logits.dtype, student_logits.dtype)
        values = tsallis_divergence(log_p, log_q, alpha, max_exponent=limit)
    return voxel_mean(values, student_logits, mask)


class DistillationLoss(nn.Module):
    """Module form of `distillation`, whose arguments it takes.

    Raises:
        ValueError: unknown divergence, or alpha not allowed.
    """

    def __init__(
        self,
        divergence: Divergence = "kl",
        alpha: float = 2.0,
        smooth: bool = True,
        detach_teacher: bool = True,
    ) -> None:
        super().__init__()
        _check_divergence(divergence, alpha)
        self.divergence: Divergence = divergence
        self.alpha = alpha
        self.smooth = smooth
        self.detach_teacher = detach_teacher

    def forward(
        self, teacher_logits: Tensor, student_logits: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Scalar loss of two logits (B, C, *spatial), teacher first, over mask (B, 1, *spatial)."""
        return distillation(
            teacher_logits,
            student_logits,
            divergence=self.divergence,
            alpha=self.alpha,
            smooth=self.smooth,
            detach_teacher=self.detach_teacher,
            mask=mask,
        )

    def extra_repr(self) -> str:
        """Arguments shown by print."""
        order = f", alpha={self.alpha}" if self.divergence == "tsallis" else ""
        return (
            f"divergence={self.divergence!r}{order}, smooth={self.smooth}, "
            f"detach_teacher={self.detach_teacher}"
        )
