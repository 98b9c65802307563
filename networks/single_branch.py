"""A plain network, such as MONAI's, as a network of one branch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mixseg.networks.branches import BRANCH_NAMES, BRANCHES, check_branch


class SingleBranchNetwork(nn.Module):
    """Any network that maps an image to logits of its size, as the branch ``main``.

    It stands wherever a :class:`DualBranchNetwork` of one branch does: ``network_def`` of a bundle
    names it, and the plain network as its ``network``. Methods that build peers (SSCO, DCR,
    Macro-Micro) need a network whose modules with weights all have ``reset_parameters``: MONAI's
    SegResNet does, its SwinUNETR does not.

    Args:
        network: an image (B, channels, *spatial) → logits (B, C, *spatial). In the state dict
            the names of its weights begin with ``main.``.
        size_divisor: every side of an image must be a multiple of this, one number or one per
            axis: 2 to the number of times that the network halves its image, so 8 for MONAI's
            SegResNet and 32 for its SwinUNETR by default; 1 where every size is taken.
        branch: ``"main"``, what ``forward`` returns when it is not told otherwise.

    Raises:
        ValueError: on an option out of range, an image of a size that is not a multiple, or a
            network that returns logits of another size or several outputs.

    Examples:
        >>> from monai.networks.nets import SegResNet
        >>> network = SingleBranchNetwork(SegResNet(2, out_channels=3), size_divisor=8)
        >>> tuple(network(torch.zeros(1, 1, 16, 24)).shape)
        (1, 3, 16, 24)
    """

    branches = 1
    branch_names = BRANCH_NAMES[1]

    def __init__(
        self, network: nn.Module, size_divisor: int | Sequence[int] = 1, branch: str = "main"
    ) -> None:
        super().__init__()
        if min([size_divisor] if isinstance(size_divisor, int) else size_divisor) < 1:
            raise ValueError(f"size_divisor must be at least 1, got {size_divisor}")
        self.main = network
        self.size_divisor = size_divisor if isinstance(size_divisor, int) else tuple(size_divisor)
        self.branch = check_branch(branch, BRANCHES[1])

    def forward(self, image: Tensor, branch: str | None = None) -> Tensor:
        """Logits of an image.

        Args:
            image: as the network takes it.
            branch: ``"main"`` or None.

        Returns:
            Logits (B, C, *spatial).
        """
        if branch is not None:
            check_branch(branch, BRANCHES[1])
        # Sizes are Python ints only in eager mode, see DualBranchNetwork.
        eager = not (torch.jit.is_tracing() or torch.compiler.is_exporting())
        if eager:
            self._check_sides(tuple(image.shape[2:]))
        logits = self.main(image)
        if eager and (not isinstance(logits, Tensor) or logits.shape[2:] != image.shape[2:]):
            found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"{type(self.main).__name__} must return logits of the image's size "
                f"{tuple(image.shape[2:])}, got {found}"
            )
        return cast(Tensor, logits)

    def __prepare_scriptable__(self) -> nn.Module:
        # The plain network computes the same; whether it can be compiled is for it to say.
        return self.main

    def _check_sides(self, sides: tuple[int, ...]) -> None:
        divisor = self.size_divisor
        divisors = (divisor,) * len(sides) if isinstance(divisor, int) else divisor
        if any(side % d for side, d in zip(sides, divisors, strict=True)):
            raise ValueError(
                f"every side must be a multiple of {divisor}, got {sides}; "
                "pad or resize the image (monai.transforms.DivisiblePad), "
                "in a bundle by spatial_size or crop_size"
            )
