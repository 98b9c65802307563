"""Mutual information of two soft cluster assignments, of whole images or of single voxels.

Peng et al., 'Boosting semi-supervised image segmentation with global and local mutual information
regularization' (GLMI), MELBA 2021, after Ji et al., 'Invariant information clustering', ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

from mixseg.losses._common import LossModule, check_same_shape, in_full_precision

_WEIGHT_GRADIENTS = {1: conv1d_weight, 2: conv2d_weight, 3: conv3d_weight}


def _prepare_assignments(assignments: Tensor, *, name: str) -> Tensor:
    """Check soft assignments and bring them to the precision in which losses are computed."""
    if not assignments.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {assignments.dtype}")
    if not 2 <= assignments.ndim <= 5 or assignments.shape[1] < 2:
        raise ValueError(
            f"{name} must be (B, K) or (B, K, *spatial) with K >= 2 and at most three spatial "
            f"axes, got shape {tuple(assignments.shape)}"
        )
    return in_full_precision(assignments.as_subclass(Tensor))


def joint_distribution(first: Tensor, second: Tensor, *, padding: int = 0) -> Tensor:
    """Joint distribution of two soft cluster assignments, symmetrized.

    P_ij is the mean of first_i · second_j over the images and, for maps, over the voxels u, with
    the second map read at u + δ: one distribution a displacement δ, each axis within ±padding,
    over the pairs whose both ends lie inside. Then P ← (P + Pᵀ)/2, and P is divided by its sum.
    A voxel whose assignment is zero for all clusters, as where a rotation brought in the outside,
    drops out.

    Args:
        first: (B, K) or (B, K, *spatial), floating point, K >= 2: probabilities of the clusters,
            as `mixseg.networks.projection` makes them.
        second: same shape: those of the transformed images, in the same frame and voxel by voxel.
        padding: largest displacement along each spatial axis, in voxels of the map; 0 for vectors.

    Returns:
        (K, K) for vectors, (2·padding+1, …, K, K) for maps: each displacement's matrix sums to 1.
        float32 for half-precision assignments. All 0 where nothing takes part.

    Raises:
        TypeError: assignments not floating point.
        ValueError: shapes do not match, or a padding that is negative or leaves no pair of voxels.

    Examples:
        >>> z = torch.tensor([[[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])  # clusters 0 0 1 in a row
        >>> joint = joint_distribution(z, z, padding=1)
        >>> tuple(joint.shape)  # displacements -1, 0, 1
        (3, 2, 2)
        >>> joint[2].tolist()  # neighbors: 0 beside 0, 0 beside 1
        [[0.5, 0.25], [0.25, 0.0]]
    """
    first = _prepare_assignments(first, name="first")
    second = _prepare_assignments(second, name="second")
    check_same_shape(first, second, ("first", "second"))
    clusters, *spatial = first.shape[1:]
    if not 0 <= padding < min(spatial, default=1):
        raise ValueError(
            f"padding must be at least 0 and smaller than every spatial side (0 for vectors), "
            f"got {padding} for assignments of shape {tuple(first.shape)}"
        )
    # Σ_u first_i[u] · second_j[u + δ] is what a convolution of `second` that returns `first`-sized
    # maps has as its weights' gradient. Backends do all displacements in one pass and keep no copy
    # a displacement; a convolution with whole maps as kernels would do neither in 3D.
    dims = max(len(spatial), 1)
    if not spatial:
        first, second = first.unsqueeze(2), second.unsqueeze(2)
    size = (clusters, clusters, *(2 * padding + 1,) * dims)
    sums: Tensor = _WEIGHT_GRADIENTS[dims](second, size, first, padding=padding)
    joint = sums.permute(*range(2, dims + 2), 0, 1)
    joint = (joint + joint.transpose(-2, -1)) / 2
    total = joint.sum(dim=(-2, -1), keepdim=True)
    joint = joint / torch.where(total > 0, total, 1)
    return joint if spatial else joint[0]


def mutual_information_of(joint: Tensor) -> Tensor:
    """Mutual information Σ_ij P_ij log(P_ij / (P_i P_j)) of joint distributions.

    Args:
        joint: (..., K, K), non-negative, each matrix summing to 1.

    Returns:
        (...), within [0, ln K] in nats up to rounding. Finite gradients where P_ij = 0.

    Examples:
        >>> round(mutual_information_of(torch.tensor([[0.5, 0.0], [0.0, 0.5]])).item(), 4)  # ln 2
        0.6931
        >>> mutual_information_of(torch.tensor([[0.25, 0.25], [0.25, 0.25]])).item()
        0.0
    """
    # Only the logarithm's argument is clamped: 0 · log(tiny) is the exact 0 of 0 log 0.
    tiny = torch.finfo(joint.dtype).tiny
    log_rows, log_columns = (
        joint.sum(dim=axis, keepdim=True).clamp(min=tiny).log() for axis in (-1, -2)
    )
    return (joint * (joint.clamp(min=tiny).log() - log_rows - log_columns)).sum(dim=(-2, -1))


def negative_mutual_information(
    first: Tensor | Sequence[Tensor], second: Tensor | Sequence[Tensor], *, padding: int = 0
) -> Tensor:
    """Minus the mutual information of two assignments: GLMI's global and local terms.

    Global, on vectors (B, K): -Σ_ij P_ij (log P_ij - log P_i - log P_j) of `joint_distribution`.
    Local, on maps (B, K, *spatial): the same for each displacement within ±padding, averaged over
    the (2·padding+1)^d of them (padding 1 and 3 in the authors' code). Several sub-heads are
    averaged. More clusters than classes are meant (overclustering). In 2D as the authors'; in 3D
    the same with cubes of displacements.

    It is a function of the batch's joint distribution, not a mean over images: half batches differ
    from the whole, and under DDP each process has the term of its own batch.

    Args:
        first: (B, K) or (B, K, *spatial), or one such tensor a sub-head.
        second: the same number and shapes, of the transformed images. Local maps must be in one
            frame: transform those of x, as the authors do, or undo the transform in those of T(x).
        padding: largest displacement along each spatial axis; 0 for vectors.

    Returns:
        Scalar within [-ln K, 0] in nats up to rounding; float32 for half-precision assignments. 0
        with zero gradient where nothing takes part.

    Raises:
        TypeError: assignments not floating point.
        ValueError: shapes or numbers of sub-heads do not match, or padding not allowed.

    Examples:
        >>> z = torch.eye(3)  # three images, each sure of a cluster of its own
        >>> round(negative_mutual_information(z, z).item(), 4)  # -ln 3
        -1.0986
        >>> one_cluster = z[:1].expand(3, 3)
        >>> negative_mutual_information(one_cluster, one_cluster).item() + 0.0
        0.0
    """
    ones = [first] if isinstance(first, Tensor) else list(first)
    others = [second] if isinstance(second, Tensor) else list(second)
    if len(ones) != len(others) or not ones:
        raise ValueError(
            "first and second must have the same number of sub-heads, at least one, got "
            f"{len(ones)} and {len(others)}"
        )
    values = [
        mutual_information_of(joint_distribution(one, other, padding=padding)).mean()
        for one, other in zip(ones, others, strict=True)
    ]
    return -torch.stack(values).mean()


class MutualInformationLoss(LossModule):
    """Module form of `negative_mutual_information`.

    Args:
        padding: largest displacement along each spatial axis; 0 for the global term.

    Raises:
        ValueError: negative padding.
    """

    def __init__(self, padding: int = 0) -> None:
        super().__init__()
        if padding < 0:
            raise ValueError(f"padding must be at least 0, got {padding}")
        self.padding = padding

    def forward(
        self, first: Tensor | Sequence[Tensor], second: Tensor | Sequence[Tensor]
    ) -> Tensor:
        """Scalar loss of assignments (B, K[, *spatial]) of x and T(x), or one pair a sub-head."""
        return negative_mutual_information(first, second, padding=self.padding)
