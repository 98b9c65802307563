"""A network whose heads say how sure they are: mean and log-variance of pixels and of the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mixseg.networks.branches import check_branch
from mixseg.networks.dual_branch.base import DualBranchNetwork
from mixseg.networks.features import forward_with_features
from mixseg.networks.tracing import Traced, traced

_BRANCHES = ("main", "heads")


class MeanVarianceNetwork(nn.Module):
    """A network of one branch with the heads of entropy minimization.

    Wu et al., 'Semi-supervised semantic segmentation via entropy minimization', ICME 2021, §3.1:
    the segmentation gives a mean μ_s and a variance σ_s² of each class and pixel, the encoder's
    end those of each class of the whole image, μ_c and σ_c², by an average pool and a linear layer.
    Beside the backbone of C outputs that is one more 1×1 output for each class and 2C (F + 1)
    parameters for the image, F its channels.

    It stands wherever a :class:`DualBranchNetwork` of one branch does: ``branch="main"`` gives
    logits, the means.

    Variances are logarithms within ± ``log_variance_limit``, by L tanh(s/L): unlike a clipped one,
    a log-variance at the limit keeps a gradient, and σ² stays a number in half precision, too.

    Args:
        backbone: with ``branches=1`` and ``out_channels=2 * num_classes``; the first half of its
            outputs are means, the second log-variances.
        num_classes: number of classes C, background included, at least 2.
        encoder_layers: modules of the backbone, as in its ``named_modules()``, from the image
            downwards, whose outputs ``"heads"`` gives.
        class_layer: module of the backbone at the encoder's end, which the image's head reads.
        class_channels: channels F of that module's output.
        refine: add log softmax(μ_c) to the logits of ``"main"``, so that the probability of a
            class at a pixel is multiplied by that of the class in the image and normalized.
        branch: what ``forward`` returns when it is not told otherwise.
        log_variance_limit: L > 0; 5 keeps σ within 0.08 and 12.2.

    Shapes:
        image as the backbone takes it → logits (B, C, *spatial), or with ``branch="heads"`` the
        tuple (μ_s, log σ_s², μ_c, log σ_c², e_1, …, e_n): two of (B, C, *spatial), two of (B, C),
        and the outputs of ``encoder_layers``.

    Raises:
        ValueError: on an option out of range, a backbone of other outputs, or a module that it
            does not have.

    Examples:
        >>> from mixseg.networks import DualBranchUNet
        >>> network = MeanVarianceNetwork(
        ...     DualBranchUNet(out_channels=6, features=(4, 8), branches=1), num_classes=3,
        ...     encoder_layers=["encoder.blocks.0", "encoder.center"],
        ...     class_layer="encoder.center", class_channels=8,
        ... )
        >>> image = torch.zeros(2, 1, 8, 8)
        >>> tuple(network(image).shape)
        (2, 3, 8, 8)
        >>> [tuple(part.shape) for part in network(image, branch="heads")[2:]]
        [(2, 3), (2, 3), (2, 4, 8, 8), (2, 8, 4, 4)]
    """

    def __init__(
        self,
        backbone: DualBranchNetwork,
        num_classes: int,
        encoder_layers: Sequence[str],
        class_layer: str,
        class_channels: int,
        refine: bool = False,
        branch: str = "main",
        log_variance_limit: float = 5.0,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(
                f"num_classes must be at least 2 (background included), got {num_classes}"
            )
        if backbone.branches != 1 or backbone.out_channels != 2 * num_classes:
            raise ValueError(
                f"the backbone needs branches=1 and out_channels={2 * num_classes}, a mean and a "
                f"log-variance of {num_classes} classes, got branches={backbone.branches} and "
                f"out_channels={backbone.out_channels}"
            )
        if not encoder_layers:
            raise ValueError("encoder_layers must name at least one module of the backbone")
        modules = dict(backbone.named_modules())
        if unknown := [n for n in (*encoder_layers, class_layer) if n not in modules]:
            raise ValueError(
                f"{type(backbone).__name__} has no module {', '.join(map(repr, unknown))}"
            )
        if class_channels < 1:
            raise ValueError(f"class_channels must be at least 1, got {class_channels}")
        if not log_variance_limit > 0:
            raise ValueError(f"log_variance_limit must be positive, got {log_variance_limit}")
        self.num_classes = num_classes
        self.encoder_layers = tuple(encoder_layers)
        self.class_layer = class_layer
        self.class_channels = class_channels
        self.refine = refine
        self.log_variance_limit = float(log_variance_limit)
        self.branch = check_branch(branch, _BRANCHES)
        # Before the linear head: the engine takes the memory format from the first weight.
        self.backbone = backbone
        self.class_head = nn.Linear(class_channels, 2 * num_classes)
        # What a network of one branch says of itself.
        self.spatial_dims, self.in_channels = backbone.spatial_dims, backbone.in_channels
        self.out_channels, self.size_divisor = num_classes, backbone.size_divisor
        self.branches, self.branch_names = backbone.branches, backbone.branch_names
        self.padded = bool(getattr(backbone, "padded", True))
        self.minimum_size = int(getattr(backbone, "minimum_size", 1))

    def forward(self, image: Tensor, branch: str | None = None) -> Tensor | tuple[Tensor, ...]:
        """Logits, or everything that the heads and the encoder say.

        Args:
            image: (B, in_channels, *spatial), float.
            branch: ``"main"`` or ``"heads"``, see the class; None takes the constructor's.

        Returns:
            Logits (B, C, *spatial), or a tuple of tensors.
        """
        branch = self.branch if branch is None else check_branch(branch, _BRANCHES)
        if branch == "main" and not self.refine:
            return cast(Tensor, self.backbone(image, branch="main"))[:, : self.num_classes]
        encoder = self.encoder_layers if branch == "heads" else ()
        outputs, features = forward_with_features(
            self.backbone, (*encoder, self.class_layer), image, branch="main"
        )
        mean, log_variance = outputs.chunk(2, dim=1)
        class_mean, class_log_variance = self._classify(features[self.class_layer])
        if branch == "heads":
            bounded = self._bounded(log_variance), class_mean, self._bounded(class_log_variance)
            return (mean, *bounded, *(features[name] for name in encoder))
        log_p = class_mean.log_softmax(dim=1)
        return mean + log_p[(..., *[None] * self.spatial_dims)]

    def __prepare_scriptable__(self) -> Traced:
        return traced(self, self.in_channels, self.spatial_dims)

    def _classify(self, features: Tensor) -> tuple[Tensor, ...]:
        # Sizes are Python ints only in eager mode, see DualBranchNetwork.
        eager = not (torch.jit.is_tracing() or torch.compiler.is_exporting())
        if eager and features.shape[1] != self.class_channels:
            raise ValueError(
                f"class_layer {self.class_layer!r} has {features.shape[1]} channels, "
                f"class_channels is {self.class_channels}"
            )
        return self.class_head(features.flatten(2).mean(dim=2)).chunk(2, dim=1)

    def _bounded(self, log_variance: Tensor) -> Tensor:
        limit = self.log_variance_limit
        return limit * torch.tanh(log_variance / limit)
