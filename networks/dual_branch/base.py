"""Common parts of the networks: arguments, checks of images, choice of branch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from monai.networks.layers.factories import Dropout
from torch import Tensor, nn
from torch.nn import functional as F

from mixseg.networks.branches import BRANCH_NAMES, BRANCHES, check_branch, ensemble_logits
from mixseg.networks.tracing import Traced, traced

#: Normalizations that :func:`norm_name` knows.
NORMS = ("batch", "instance", "group", "none")


def norm_name(norm: str | None, features: Sequence[int]) -> str | tuple[str, dict[str, object]]:
    """MONAI's name and arguments of a normalization, always with scale and shift.

    Args:
        norm: one of :data:`NORMS`. ``"group"`` makes 16 groups (UA-MT's number), or the most
            below 16 that divide the channels of every level; None is ``"none"``.
        features: channels of each level.

    Returns:
        What ``monai.networks.layers.utils.get_norm_layer`` and MONAI's blocks take.
    """
    if norm in (None, "none"):
        return ""
    if norm == "group":
        return ("group", {"num_groups": math.gcd(16, *features)})
    # MONAI's default instance norm has no scale and shift, batch norm has them.
    return (norm, {"affine": True})


def dropout_layer(spatial_dims: int, probability: float) -> nn.Module:
    """Dropout of whole channels; the identity where the probability is 0."""
    if not probability:
        return nn.Identity()
    return cast(nn.Module, Dropout[Dropout.DROPOUT, spatial_dims](probability))


def resized(maps: Tensor, size: torch.Size) -> Tensor:
    """Maps (B, channels, *spatial), interpolated linearly to another size."""
    mode = "bilinear" if maps.ndim == 4 else "trilinear"
    return F.interpolate(maps, size=size, mode=mode, align_corners=False)


def draw_convolutions(network: nn.Module) -> None:
    """Draw all convolutions of a network anew, as He et al. (2015); biases become 0."""
    for module in network.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class DualBranchNetwork(nn.Module):
    """A network with a shared encoder and two decoders, teacher and student, or one, main.

    A subclass builds ``encoder`` (image → (deepest features, skips)) and calls
    :meth:`_build_decoders`. Weights of training then fit every choice of ``branch`` strictly.
    A single-branch network also loads weights of before its branch was called ``main``, whose
    names begin with ``teacher``.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: number of classes C, background included, at least 2.
        features: channels of each level, deepest last.
        dropout: probability, in [0, 1).
        norm: one of ``norms``.
        norms: normalizations that the subclass can build.
        levels: smallest number of ``features``.
        branches: decoders to build, 2 (teacher and student) or 1 (main).
        branch: what ``forward`` returns when it is not told otherwise.

    Raises:
        ValueError: on an option out of range, or an image of a size, rank or channel count that
            the network cannot take.
    """

    encoder: nn.Module
    main: nn.Module
    teacher: nn.Module
    student: nn.Module

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        features: Sequence[int],
        dropout: float,
        norm: str | None,
        norms: Sequence[str] = NORMS,
        levels: int = 2,
        branches: int,
        branch: str,
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}")
        if in_channels < 1:
            raise ValueError(f"in_channels must be at least 1, got {in_channels}")
        if out_channels < 2:
            raise ValueError(
                f"out_channels must be at least 2 (background included), got {out_channels}"
            )
        if len(features) < levels or min(features) < 1:
            number = {2: "two", 3: "three"}[levels]
            raise ValueError(
                f"features needs {number} positive entries or more, got {tuple(features)}"
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        norm = norm or "none"  # a command line's none is null
        if norm not in norms:
            *most, last = map(repr, norms)
            raise ValueError(f"norm must be {', '.join(most)} or {last}, got {norm!r}")
        if branches not in (1, 2):
            raise ValueError(f"branches must be 1 or 2, got {branches}")
        if branches == 1 and branch == "both":
            branch = "main"
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.features = tuple(features)
        self.norm = norm
        self.branches = branches
        self.branch = check_branch(branch, BRANCHES[branches])

    @property
    def branch_names(self) -> tuple[str, ...]:
        """Names of the decoders, in the order in which ``"both"`` returns their logits."""
        return BRANCH_NAMES[self.branches]

    def _build_decoders(self, decoder: Callable[[], nn.Module]) -> None:
        """Give each branch a decoder of its own, made anew."""
        for name in self.branch_names:
            setattr(self, name, decoder())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self._rename(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _rename(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Give weights of before the only branch was called main their present names."""
        if self.branches == 1:
            for name in [name for name in state_dict if name.startswith(f"{prefix}teacher.")]:
                now = f"{prefix}main.{name.removeprefix(f'{prefix}teacher.')}"
                state_dict[now] = state_dict.pop(name)

    @property
    def size_divisor(self) -> int | tuple[int, ...]:
        """Every spatial side must be a multiple of this; one per axis where the axes differ."""
        return int(2 ** (len(self.features) - 1))

    def _check_input(self, image: Tensor) -> None:
        shape = tuple(image.shape)
        if image.ndim != self.spatial_dims + 2 or shape[1] != self.in_channels:
            axes = "H, W" if self.spatial_dims == 2 else "H, W, D"
            raise ValueError(
                f"expected an image of shape (B, {self.in_channels}, {axes}), got {shape}"
            )
        self._check_sides(shape[0], shape[2:])

    def _check_sides(self, batch: int, sides: tuple[int, ...]) -> None:
        divisor = self.size_divisor
        divisors = (divisor,) * len(sides) if isinstance(divisor, int) else divisor
        if any(side < d or side % d for side, d in zip(sides, divisors, strict=True)):
            raise ValueError(
                f"every side must be a multiple of {divisor}, got {sides}; "
                "pad or resize the image (monai.transforms.DivisiblePad), "
                "in a bundle by spatial_size or crop_size"
            )
        # torch refuses these too, by a message that does not say what to change.
        alone = self.norm == "instance" or (self.norm == "batch" and self.training and batch == 1)
        if sides == divisors and alone:
            raise ValueError(
                f"an image of {sides} leaves norm={self.norm!r} one value a channel to normalize "
                "at the deepest level; one side must be at least twice that"
            )

    def forward(self, image: Tensor, branch: str | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Logits of one branch, or of both.

        Args:
            image: (B, in_channels, H, W[, D]), float.
            branch: ``"both"`` returns ``(teacher, student)``; ``"teacher"`` and ``"student"``
                run one decoder only; ``"ensemble"`` returns the logarithm of the mean of the
                two softmax outputs (its softmax is that mean). A network of one branch has
                ``"main"`` alone. None takes the constructor's.

        Returns:
            Logits (B, C, H, W[, D]), or a pair of them.
        """
        branch = self.branch if branch is None else branch
        check_branch(branch, BRANCHES[self.branches])
        # Sizes are Python ints only in eager mode; tracing would turn the checks into warnings,
        # and an export with free sizes into conditions on them.
        if not (torch.jit.is_tracing() or torch.compiler.is_exporting()):
            self._check_input(image)
        x, skips = self.encoder(image)
        if branch in self.branch_names:
            return self._decode(getattr(self, branch), x, skips, image)
        teacher = self._decode(self.teacher, x, skips, image)
        student = self._decode(self.student, x, skips, image)
        return (teacher, student) if branch == "both" else ensemble_logits(teacher, student)

    def decode(self, branch: str, x: Tensor, skips: list[Tensor], image: Tensor) -> Tensor:
        """Output of one branch's decoder, of the features of another network's encoder, too.

        Args:
            branch: one of :attr:`branch_names`.
            x: deepest features of an encoder like this network's.
            skips: its other features, as it returns them.
            image: (B, channels, H, W[, D]), whose size the output has.
        """
        return self._decode(getattr(self, branch), x, skips, image)

    def __prepare_scriptable__(self) -> Traced:
        return traced(self, self.in_channels, self.spatial_dims)

    def _decode(self, decoder: nn.Module, x: Tensor, skips: list[Tensor], image: Tensor) -> Tensor:
        """Logits of the image's size; a subclass whose decoders return another size resizes."""
        return cast(Tensor, decoder(x, skips))


def present_names(network: nn.Module, weights: Mapping[str, Any]) -> dict[str, Any]:
    """Weights by the names that the network has now, as ``load_state_dict`` takes them."""
    found = dict(weights)
    for place, module in network.named_modules():
        if isinstance(module, DualBranchNetwork):
            module._rename(found, f"{place}." if place else "")
    return found
