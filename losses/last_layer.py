"""Cross-entropy image by image, and its gradients in the last layer of a network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mixseg.losses._common import prepare_logits, voxel_map

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def image_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean cross-entropy over the labeled voxels of each image: ℓ of Pan et al. (AAAI 2022).

    An image counts as one, however many of its voxels are labeled, so that a weight a image
    (γ in eq. 7) means the same for all; `partial_cross_entropy` averages over voxels of the batch.

    Args:
        logits: (B, C, *spatial), floating point, C >= 2.
        label: (B, 1, *spatial) or (B, *spatial), holding 0..C-1, or C where unlabeled.

    Returns:
        (B,), >= 0 in nats; float32 for half-precision logits. 0 with zero gradient for an image
        without a labeled voxel.

    Raises:
        TypeError: logits not floating point.
        ValueError: shapes do not match.

    Examples:
        >>> logits = torch.tensor([[[0.25, 0.5], [0.75, 0.5]]]).log()  # 2 classes, 2 pixels
        >>> label = torch.tensor([[[1, 2]], [[0, 0]]])  # a pixel is unlabeled in the first image
        >>> [round(x, 4) for x in image_cross_entropy(logits.expand(2, 2, 2), label).tolist()]
        [0.2877, 1.0397]
    """
    logits = prepare_logits(logits)
    num_classes = logits.shape[1]
    target = voxel_map(label, logits, name="label").long()
    values = F.cross_entropy(logits, target, ignore_index=num_classes, reduction="none")
    return values.flatten(1).sum(dim=1) / _labeled(target, num_classes)


@torch.no_grad()
def last_layer_gradients(
    features: Tensor, logits: Tensor, label: Tensor, *, class_balanced: bool = False
) -> Tensor:
    """Gradients of `image_cross_entropy` in the last layer, of all images in one pass.

    Pan et al. (AAAI 2022), 'DII Gradient Estimation': g_k = ∇ ℓ(x_k, y_k, θ'), with the last layer
    as θ'. Where that is a 1×1 convolution, the gradient of image k is

        g_k = Σ_v (p_v - y_v) ⊗ [f_v, 1] / (labeled voxels of k),

    p the softmax, y the one-hot label and f the layer's input: no backward pass through the
    network, and none per image. Unlabeled voxels take no part.

    Logits larger than the features are taken for the layer's output, resized linearly with
    ``align_corners=False``, as this package's networks do. The resizing is linear and leaves a
    constant as it is, so that (p - y) is brought to the features' grid by its transpose.

    Args:
        features: (B, F, *spatial of the layer), what the 1×1 convolution was given.
        logits: (B, C, *spatial), what the network returned for it.
        label: (B, 1, *spatial) or (B, *spatial), holding 0..C-1, or C where unlabeled.
        class_balanced: of the mean over the classes that the image's label shows of each one's mean
            cross-entropy, so that a small class counts as much as the background. Not in the paper.

    Returns:
        (B, C, F + 1): the gradient of the weight (C, F), then that of the bias; without a graph.
        float32 for half precision. 0 for an image without a labeled voxel.

    Raises:
        TypeError: logits or features not floating point.
        ValueError: shapes do not match.

    Examples:
        >>> logits = torch.zeros(1, 2, 1)  # p = (½, ½) at one pixel
        >>> features = torch.tensor([[[4.0], [6.0]]])
        >>> last_layer_gradients(features, logits, torch.tensor([[[1]]])).tolist()
        [[[2.0, 3.0, 0.5], [-2.0, -3.0, -0.5]]]
    """
    logits = prepare_logits(logits)
    if not features.is_floating_point():
        raise TypeError(f"features must be floating point, got {features.dtype}")
    if features.ndim != logits.ndim or len(features) != len(logits):
        raise ValueError(
            f"features must be (B, F, *spatial) like logits of shape {tuple(logits.shape)}, got "
            f"{tuple(features.shape)}"
        )
    num_classes = logits.shape[1]
    target = voxel_map(label, logits, name="label").long()
    known = (target != num_classes).unsqueeze(1)
    # Unlabeled voxels are given some class here, and left out of the residual.
    truth = F.one_hot(target.clamp(max=num_classes - 1), num_classes).movedim(-1, 1)
    if class_balanced:
        sizes = (truth * known).flatten(2).sum(dim=2)
        counts = sizes.clamp(min=1) * (sizes > 0).sum(dim=1, keepdim=True).clamp(min=1)
    else:
        counts = _labeled(target, num_classes)[:, None].expand(-1, num_classes)
    # What a voxel of each class counts, then what each voxel does.
    shares = counts.to(logits.dtype).reciprocal().view(*counts.shape, *[1] * (logits.ndim - 2))
    residual = torch.where(known, logits.softmax(dim=1) - truth, 0)
    residual = residual * (truth * shares).sum(dim=1, keepdim=True)
    if features.shape[2:] != logits.shape[2:]:
        residual = _transposed_resize(residual, features.shape[2:])
    flat = residual.flatten(2)
    weight = flat @ features.as_subclass(Tensor).to(flat.dtype).flatten(2).mT
    return torch.cat((weight, flat.sum(dim=2, keepdim=True)), dim=2)


def _labeled(target: Tensor, num_classes: int) -> Tensor:
    """(B,) labeled voxels of each image, at least 1."""
    return (target != num_classes).flatten(1).sum(dim=1).clamp(min=1)


def _transposed_resize(values: Tensor, size: torch.Size) -> Tensor:
    """The transpose of linear resizing from ``size`` to that of the values, applied to these."""
    with torch.enable_grad():
        small = values.new_zeros((*values.shape[:2], *size), requires_grad=True)
        large = F.interpolate(
            small, size=values.shape[2:], mode=_MODES[len(size)], align_corners=False
        )
    (transposed,) = torch.autograd.grad(large, small, values)
    return transposed
