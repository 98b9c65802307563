"""Random flips and rotations of whole batches, one of its own for each sample.

All draws come from torch's global generator, whose state the trainer stores, so that a resumed run
repeats them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_HALF = (torch.float16, torch.bfloat16)


def draw_quarter_turns(images: Tensor) -> list[int]:
    """A random number of quarter turns, 0 to 3, for each of the images (B, channels, H, W[, D]).

    Where H and W differ, only half turns keep the shape: then 0 or 2.
    """
    square = images.shape[2] == images.shape[3]
    draws = torch.randint(4 if square else 2, (len(images),))
    return (draws if square else 2 * draws).tolist()


def turn(maps: Tensor, turns: Sequence[int], *, back: bool = False) -> Tensor:
    """Turn each map by its quarter turns in the plane of the first two spatial axes; exact.

    Args:
        maps: (B, channels, H, W[, D]).
        turns: B numbers of :func:`draw_quarter_turns`.
        back: undo it.

    Examples:
        >>> maps = torch.arange(4.0).view(1, 1, 2, 2)
        >>> turn(maps, [1])[0, 0].tolist()
        [[1.0, 3.0], [0.0, 2.0]]
        >>> torch.equal(turn(turn(maps, [1]), [1], back=True), maps)
        True
    """
    sign = -1 if back else 1
    pairs = zip(maps, turns, strict=True)
    return torch.stack([torch.rot90(one, sign * k, (1, 2)) for one, k in pairs])


class RandomMotion:
    """A transform T drawn once: flips along the first two spatial axes, then a rotation.

    It is applied alike to images, features and probabilities of the same samples, at whatever
    resolution they have. The rotation turns about the center, in the plane of the first two
    spatial axes (in 3D a volume's slices), with bilinear interpolation. Where it brings in the
    outside the edge is continued; :meth:`inside` says where.

    Args:
        count: samples B.
        max_angle: degrees; angles are uniform within ± this. 0 leaves the rotation out, and T is
            then exact.
        flip_probability: of each of the two flips.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> motion = RandomMotion(2, max_angle=0, flip_probability=1)  # both flips: a half turn
        >>> maps = torch.arange(4.0).view(1, 1, 2, 2).expand(2, 1, 2, 2)
        >>> motion(maps)[0, 0].tolist()
        [[3.0, 2.0], [1.0, 0.0]]
        >>> motion.inside(maps) is None
        True
    """

    def __init__(self, count: int, max_angle: float, flip_probability: float) -> None:
        self.flips = torch.rand(2, count) < flip_probability
        self.angles: Tensor | None = None
        if max_angle:
            uniform = torch.rand(count, dtype=torch.float64)
            self.angles = (2 * uniform - 1) * math.radians(max_angle)

    def __call__(self, maps: Tensor) -> Tensor:
        """T of maps (B, channels, H, W[, D]); float32 for half precision."""
        maps = maps.float() if maps.dtype in _HALF else maps
        for axis, flips in enumerate(self.flips.to(maps.device)):
            chosen = flips.view(-1, *[1] * (maps.ndim - 1))
            maps = torch.where(chosen, maps.flip(axis + 2), maps)
        if self.angles is None:
            return maps
        grid = self._grid(maps)
        if maps.ndim == 4:
            return self._sample(maps, grid)
        # The slices of a volume move alike, so that they can pass as channels.
        channels, depth = maps.shape[1], maps.shape[4]
        planes = self._sample(maps.movedim(4, 2).flatten(1, 2), grid)
        return planes.unflatten(1, (channels, depth)).movedim(2, 4)

    def inside(self, maps: Tensor) -> Tensor | None:
        """Where T of such maps shows what is inside them: bool (B, 1, H, W[, D]), None for all."""
        if self.angles is None:
            return None
        grid = self._grid(maps.detach().float())
        height, width = maps.shape[2:4]
        # Centers of the outermost pixels lie at ±(1 - 1/size); the rest is rounding.
        reach = 1 + 1e-5 - 1 / grid.new_tensor([width, height])
        within = (grid.abs() <= reach).all(dim=-1).unsqueeze(1)
        if maps.ndim == 5:
            within = within.unsqueeze(-1).expand(-1, -1, -1, -1, maps.shape[4])
        return within

    @staticmethod
    def _sample(maps: Tensor, grid: Tensor) -> Tensor:
        return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)

    def _grid(self, maps: Tensor) -> Tensor:
        """For each pixel where it comes from, (B, H, W, 2), in grid_sample's coordinates."""
        assert self.angles is not None
        height, width = maps.shape[2:4]
        cos, sin = (f(self.angles).to(maps) for f in (torch.cos, torch.sin))
        zero = torch.zeros_like(cos)
        # These coordinates run from -1 to 1 along each side; a rotation is one of pixels.
        rows = [
            torch.stack([cos, sin * height / width, zero], dim=1),
            torch.stack([-sin * width / height, cos, zero], dim=1),
        ]
        size = [len(maps), 1, height, width]
        return F.affine_grid(torch.stack(rows, dim=1), size, align_corners=False)
