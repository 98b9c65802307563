"""Agreement of a network with a fixed target: an EMA teacher, or its own transformed output."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from mixseg.losses._common import (
    LossModule,
    check_same_shape,
    prepare_logits,
    voxel_map,
    voxel_mean,
)


def softmax_mse(
    logits: Tensor,
    target_logits: Tensor,
    *,
    mask: Tensor | None = None,
    detach_target: bool = True,
) -> Tensor:
    """Mean squared difference of two softmax outputs, Σ_c (p_c - q_c)² / C, over voxels.

    The self-consistency of SSCO (Wang et al., 'Self-paced and self-consistent co-training for
    semi-supervised image segmentation', MedIA 2021) between a student and its own EMA teacher.

    Args:
        logits: (B, C, *spatial), floating point, C >= 2.
        target_logits: same shape.
        mask: bool, (B, 1, *spatial) or (B, *spatial); voxels to average over, None for all.
        detach_target: stop the gradient into the target.

    Returns:
        Scalar within [0, 2/C]; float32 for half-precision logits. 0 with zero gradient when the
        mask selects nothing.

    Raises:
        TypeError: logits not floating point, or mask not bool.
        ValueError: shapes do not match.

    Examples:
        >>> student = torch.tensor([[[0.5], [0.5]]]).log()  # (1, 2 classes, 1 pixel)
        >>> teacher = torch.tensor([[[0.25], [0.75]]]).log()
        >>> round(softmax_mse(student, teacher).item(), 4)  # (¼² + ¼²) / 2
        0.0625
    """
    check_same_shape(logits, target_logits, ("logits", "target_logits"))
    if detach_target:
        target_logits = target_logits.detach()
    p = prepare_logits(logits).softmax(dim=1)
    q = prepare_logits(target_logits, name="target_logits").softmax(dim=1)
    return voxel_mean((p - q).square().mean(dim=1), logits, mask)


class SoftmaxMSELoss(LossModule):
    """Module form of `softmax_mse`."""

    def __init__(self, detach_target: bool = True) -> None:
        super().__init__()
        self.detach_target = detach_target

    def forward(self, logits: Tensor, target_logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scalar loss of two logits (B, C, *spatial) over the voxels of mask (B, 1, *spatial)."""
        return softmax_mse(logits, target_logits, mask=mask, detach_target=self.detach_target)


def predictive_entropy(passes: Iterable[Tensor]) -> Tensor:
    """Entropy of the mean softmax of several stochastic passes: UA-MT's uncertainty.

    Yu et al., 'Uncertainty-aware self-ensembling model for semi-supervised 3D left atrium
    segmentation', MICCAI 2019: u = -Σ_c μ_c log μ_c with μ = Σ_t p_t / T. The authors' code has
    log(μ + 1e-6), by which u is at most C · 1e-6 smaller.

    Args:
        passes: T >= 1 logits (B, C, *spatial) of the same images, floating point, C >= 2. They are
            consumed one at a time: given a generator, memory is that of one pass.

    Returns:
        (B, *spatial) in nats, within [0, ln C]; float32 for half-precision logits.

    Raises:
        TypeError: one tensor instead of an iterable of them, or logits not floating point.
        ValueError: no pass, or shapes differ.

    Examples:
        Each pass is sure, of another class; together they are not:

        >>> logits = torch.tensor([[[50.0], [-50.0]]])  # (1, 2 classes, 1 pixel)
        >>> round(predictive_entropy([logits, -logits]).item(), 4)  # ln 2
        0.6931
        >>> round(predictive_entropy([logits, logits]).item(), 4)
        0.0
    """
    if isinstance(passes, Tensor):
        # Iterating it would take the images of a batch for passes.
        raise TypeError("passes must be an iterable of logits, got one tensor: use .unbind()")
    summed: Tensor | None = None
    count = 0
    for logits in passes:
        log_p = prepare_logits(logits, name="passes").log_softmax(dim=1)
        if summed is None:
            summed = log_p
        elif log_p.shape != summed.shape:
            raise ValueError(
                "passes must all have the same shape, got "
                f"{tuple(summed.shape)} and {tuple(log_p.shape)}"
            )
        else:
            # Logarithms of sums keep log μ finite where every pass underflows to 0.
            summed = torch.logaddexp(summed, log_p)
        count += 1
    if summed is None:
        raise ValueError("passes is empty: at least one stochastic pass is needed")
    log_mean = summed - math.log(count)
    return -(log_mean.exp() * log_mean).sum(dim=1)


def entropy_threshold(ramp: float, num_classes: int) -> float:
    """Largest uncertainty that UA-MT trusts, (3/4 + 1/4 r) ln C.

    ln C is the largest entropy of C classes, ln 2 in the authors' code and paper; the threshold
    rises from about 3/4 of it to all of it.

    Args:
        ramp: r in [0, 1]; the authors' Gaussian exp(-5 (1 - t/T)²) is
            ``mixseg.handlers.ramp_factor(t, T, "gaussian")``.
        num_classes: C >= 2.

    Raises:
        ValueError: out of range.

    Examples:
        >>> round(entropy_threshold(0.0, 2), 4), round(entropy_threshold(1.0, 2), 4)
        (0.5199, 0.6931)
        >>> round(entropy_threshold(1.0, 4), 4)  # ln 4
        1.3863
    """
    if not 0 <= ramp <= 1:
        raise ValueError(f"ramp must lie in [0, 1], got {ramp}")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    return (0.75 + 0.25 * ramp) * math.log(num_classes)


def gated_consistency(
    student_logits: Tensor,
    teacher_logits: Tensor,
    uncertainty: Tensor,
    *,
    ramp: float = 1.0,
) -> Tensor:
    """Squared difference of student and teacher where the teacher is certain: UA-MT's consistency.

    Yu et al., MICCAI 2019: Σ_v [u_v < H] ‖p_v - q_v‖² over the kept voxels, with H of
    `entropy_threshold`. The paper divides by the number of kept voxels, the authors' code by twice
    that for two classes, hence by C times it here (a mean over classes, too). One mask serves all
    images of the batch, as in the code.

    Args:
        student_logits: (B, C, *spatial), floating point, C >= 2.
        teacher_logits: same shape; a fixed target.
        uncertainty: (B, 1, *spatial) or (B, *spatial) in nats, of `predictive_entropy`; it gates
            and receives no gradient.
        ramp: r in [0, 1] of `entropy_threshold`.

    Returns:
        Scalar within [0, 2/C]; float32 for half-precision logits. 0 with zero gradient when no
        voxel is kept.

    Raises:
        TypeError: logits not floating point.
        ValueError: shapes do not match, or ramp out of range.

    Examples:
        >>> student = torch.tensor([[[0.5, 0.5], [0.5, 0.5]]]).log()  # 2 classes, 2 pixels
        >>> teacher = torch.tensor([[[0.25, 0.1], [0.75, 0.9]]]).log()
        >>> uncertainty = torch.tensor([[0.1, 0.6]])  # thresholds: 0.52 at ramp 0, 0.69 at 1
        >>> round(gated_consistency(student, teacher, uncertainty, ramp=0).item(), 4)  # ¼²
        0.0625
        >>> round(gated_consistency(student, teacher, uncertainty).item(), 4)  # (¼² + 0.4²) / 2
        0.1113
    """
    student = prepare_logits(student_logits, name="student_logits")
    check_same_shape(student, teacher_logits, ("student_logits", "teacher_logits"))
    uncertain = voxel_map(uncertainty, student, name="uncertainty")
    kept = uncertain < entropy_threshold(ramp, student.shape[1])
    return softmax_mse(student, teacher_logits, mask=kept)


class GatedConsistencyLoss(nn.Module):
    """Module form of `gated_consistency`."""

    def forward(
        self, student_logits: Tensor, teacher_logits: Tensor, uncertainty: Tensor, ramp: float = 1.0
    ) -> Tensor:
        """Scalar loss of two logits (B, C, *spatial) and uncertainty (B, *spatial) at a ramp."""
        return gated_consistency(student_logits, teacher_logits, uncertainty, ramp=ramp)


def transformation_consistency(
    transformed_logits: Tensor,
    logits: Tensor,
    transform: Callable[[Tensor], Tensor],
    *,
    mask: Tensor | None = None,
) -> Tensor:
    """Mean squared difference of softmax f(T x) and T softmax f(x), the latter fixed.

    The consistency of GLMI (Peng et al., 'Boosting semi-supervised image segmentation with global
    and local mutual information regularization', MELBA 2021), mean over voxels and classes.

    Args:
        transformed_logits: (B, C, *spatial), floating point, C >= 2: f(T x).
        logits: f(x), of a shape that the transform brings to that of ``transformed_logits``.
        transform: T, applied to probabilities (B, C, *spatial). It must be the very T that made
            T x, each sample's own where they differ.
        mask: bool, (B, 1, *spatial) or (B, *spatial) in the frame of T x; voxels to average over,
            None for all. Leave out what a rotation brings in from outside the image.

    Returns:
        Scalar within [0, 2/C]; float32 for half-precision logits. 0 with zero gradient when the
        mask selects nothing.

    Raises:
        TypeError: logits not floating point, or mask not bool.
        ValueError: shapes do not match.

    Examples:
        >>> logits = torch.tensor([[[0.5, 0.25], [0.5, 0.75]]]).log()  # 2 classes, 2 pixels
        >>> def mirror(p):
        ...     return p.flip(-1)
        >>> transformation_consistency(mirror(logits), logits, mirror).item()
        0.0
        >>> round(transformation_consistency(logits, logits, mirror).item(), 4)  # ¼²
        0.0625
    """
    p = prepare_logits(transformed_logits, name="transformed_logits").softmax(dim=1)
    with torch.no_grad():
        target = transform(prepare_logits(logits).softmax(dim=1)).as_subclass(Tensor)
    check_same_shape(p, target, ("transformed_logits", "the transformed target"))
    return voxel_mean((p - target).square().mean(dim=1), transformed_logits, mask)


class TransformationConsistencyLoss(nn.Module):
    """Module form of `transformation_consistency`."""

    def forward(
        self,
        transformed_logits: Tensor,
        logits: Tensor,
        transform: Callable[[Tensor], Tensor],
        mask: Tensor | None = None,
    ) -> Tensor:
        """Scalar loss of f(T x) and f(x), (B, C, *spatial), under the transform T."""
        return transformation_consistency(transformed_logits, logits, transform, mask=mask)
