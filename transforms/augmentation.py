"""Augmentation of whole batches, images and label maps together, on the device that trains."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from monai.utils.enums import CommonKeys
from torch import Tensor
from torch.nn import functional as F

from mixseg.transforms.arrays import check_num_classes

# Control points an axis of elastic deformation and bias field, one beyond each border included.
_ELASTIC_POINTS = 8
_BIAS_POINTS = 6
# Variance of a cubic B-spline along an axis, over that of its independent control points.
_SPLINE_VARIANCE = 151 / 315


class BatchAugmentation:
    """Random geometry and intensities of every image of a batch, drawn anew at each call.

    Geometry moves the image (linear interpolation) and all label maps of the batch (nearest
    neighbor) by one grid. A voxel that comes from outside the image becomes unlabeled; its
    intensity is that of the nearest voxel, because any constant would be an edge that the network
    sees, and is air in one normalization and tissue in another. Intensities change the image
    alone, all channels of it alike, so that colors keep their balance. They are relative to the
    minimum, range and standard deviation of the image, so that one set of strengths fits every
    normalization.

    A strength of 0 switches its part off. Each image draws each parameter uniformly from ± its
    strength (noise, blur, low resolution: from 0 to it), sd of elastic and bias field excepted.
    Angles and zoom take voxels as cubes.

    Args:
        spatial_dims: 2 or 3.
        num_classes: C, background included; label maps hold 0…C−1 and C for unlabeled.
        seed: of the generator; under torch.distributed, add the rank.
        rotation: in the slice plane (the first two spatial axes), degrees; None for 180 in 2D and
            30 in 3D.
        tilt: 3D only, rotation about the two axes of the slice plane, degrees.
        scale: log of the zoom.
        aspect: log of the ratio of the zooms along the first and the second axis.
        shift: fraction of the side, along each axis.
        flip_axes: spatial axes that are flipped with probability 0.5 each; None for the first two.
        elastic: standard deviation of the displacement, in fractions of the side: cubic B-splines
            on 6 control points an axis (free-form deformation, Rueckert et al., IEEE TMI 1999),
            which at this strength practically never fold the image over itself.
        elastic_probability: share of the images that are deformed.
        intensity_probability: share of the images that each of the following changes.
        gamma: log of the exponent of the image scaled to 0…1.
        bias_field: standard deviation of the log of a smooth factor on the image above its
            minimum, a cubic B-spline on 4 control points an axis.
        brightness: shift in standard deviations of the image.
        contrast: log of the factor about the image's mean.
        blur: standard deviation of the Gaussian, voxels.
        low_resolution: voxels become 1 to 1 + ``low_resolution`` times as long and are
            interpolated linearly back.
        noise: standard deviation of Gaussian noise, in standard deviations of the image.

    Raises:
        ValueError: ``spatial_dims`` is neither 2 nor 3, a strength is negative, a probability
            outside 0…1, an axis that does not exist, or ``num_classes`` outside 2…255.
    """

    def __init__(
        self,
        spatial_dims: int,
        num_classes: int,
        *,
        seed: int = 0,
        rotation: float | None = None,
        tilt: float = 5.0,
        scale: float = 0.3,
        aspect: float = 0.12,
        shift: float = 0.15,
        flip_axes: Collection[int] | None = None,
        elastic: float = 0.03,
        elastic_probability: float = 0.5,
        intensity_probability: float = 0.3,
        gamma: float = 0.4,
        bias_field: float = 0.3,
        brightness: float = 0.3,
        contrast: float = 0.3,
        blur: float = 1.0,
        low_resolution: float = 1.0,
        noise: float = 0.2,
    ) -> None:
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}")
        self.spatial_dims = spatial_dims
        self.num_classes = check_num_classes(num_classes)
        self.flip_axes = (0, 1) if flip_axes is None else tuple(flip_axes)
        if not set(self.flip_axes) <= set(range(spatial_dims)):
            raise ValueError(
                f"flip_axes must lie in 0…{spatial_dims - 1}, got {list(self.flip_axes)}"
            )
        if rotation is None:
            rotation = 180.0 if spatial_dims == 2 else 30.0
        self.strengths = {
            "rotation": rotation,
            "tilt": tilt,
            "scale": scale,
            "aspect": aspect,
            "shift": shift,
            "elastic": elastic,
            "gamma": gamma,
            "bias_field": bias_field,
            "brightness": brightness,
            "contrast": contrast,
            "blur": blur,
            "low_resolution": low_resolution,
            "noise": noise,
        }
        for name, strength in self.strengths.items():
            if not strength >= 0:
                raise ValueError(f"{name} must not be negative, got {strength}")
        self.probabilities = {
            "elastic_probability": elastic_probability,
            "intensity_probability": intensity_probability,
        }
        for name, probability in self.probabilities.items():
            if not 0 <= probability <= 1:
                raise ValueError(f"{name} must lie in 0…1, got {probability}")
        self.generator = torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, Tensor]:
        """State of the generator, uint8."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Draw from here on what followed :meth:`state_dict`."""
        self.generator.set_state(state["generator"].cpu())

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Augment a batch by a new draw.

        Args:
            batch: ``image`` (B, channels, *spatial), float, on any device; label maps (B, 1,
                *spatial), integer: every other tensor of the image's batch and spatial sizes.

        Returns:
            A new dictionary: image and label maps augmented, of the same shape, dtype and device;
            other entries as they are.

        Raises:
            ValueError: the image has another number of axes, or a map of the image's size is not
                of an integer type.
        """
        return self.apply(batch, self.draw(len(batch[CommonKeys.IMAGE])))

    def draw(self, size: int) -> dict[str, Tensor]:
        """Parameters of ``size`` images on the CPU; 0 leaves an image as it is.

        Returns:
            ``rotation`` (B, planes) in degrees, the slice plane first; ``scale`` and ``aspect``
            (B,), logs; ``shift`` (B, axes), in sides; ``flip`` (B, axes), 0 or 1; ``elastic``
            (B, axes, 8, 8[, 8]), control points, in sides; ``gamma``, ``brightness``,
            ``contrast``, ``blur``, ``low_resolution``, ``noise`` (B,), in the units of the
            arguments; ``bias_field`` (B, 1, 6, 6[, 6]), control points of the log;
            ``noise_seed``, an integer.
        """
        dims, strength = self.spatial_dims, self.strengths
        signed = {
            name: self._uniform(size, *shape) * strength[name]
            for name, shape in (("scale", ()), ("aspect", ()), ("shift", (dims,)))
        }
        planes = torch.tensor([strength["rotation"]] + [strength["tilt"]] * (2 * dims - 4))
        flippable = torch.tensor([float(axis in self.flip_axes) for axis in range(dims)])
        parameters = {
            **signed,
            "rotation": self._uniform(size, len(planes)) * planes,
            "flip": (self._uniform(size, dims) > 0) * flippable,
            "elastic": self._points("elastic", "elastic_probability", size, dims, _ELASTIC_POINTS),
        }
        for name in ("gamma", "brightness", "contrast", "blur", "low_resolution", "noise"):
            value = self._uniform(size) * strength[name]
            if name in ("blur", "low_resolution", "noise"):
                value = value.abs()
            parameters[name] = value * self._chosen(size, "intensity_probability")
        parameters["bias_field"] = self._points(
            "bias_field", "intensity_probability", size, 1, _BIAS_POINTS
        )
        parameters["noise_seed"] = torch.randint(2**62, (), generator=self.generator)
        return parameters

    @torch.no_grad()
    def apply(self, batch: Mapping[str, Any], parameters: Mapping[str, Tensor]) -> dict[str, Any]:
        """Augment a batch by given parameters; see :meth:`__call__` and :meth:`draw`."""
        image = batch[CommonKeys.IMAGE]
        if image.ndim != self.spatial_dims + 2:
            raise ValueError(
                f"augmentation of {self.spatial_dims} spatial axes takes images of "
                f"{self.spatial_dims + 2} axes (batch, channels, …), got {tuple(image.shape)}"
            )
        maps = {
            key: value
            for key, value in batch.items()
            if key != CommonKeys.IMAGE
            and isinstance(value, Tensor)
            and value.ndim == image.ndim
            and (len(value), *value.shape[2:]) == (len(image), *image.shape[2:])
        }
        for key, value in maps.items():
            if value.is_floating_point() or value.dtype == torch.bool:
                raise ValueError(
                    f"{key!r} has the size of the image and the type {value.dtype}, but label maps "
                    "are integers: convert it to torch.uint8, or add it after the augmentation"
                )
        with torch.autocast(image.device.type, enabled=False):
            grid = self._grid(image, parameters)
            moved = F.grid_sample(
                image.float(), grid, "bilinear", padding_mode="border", align_corners=False
            )
            moved = self._intensities(moved, parameters)
            out = dict(batch)
            out[CommonKeys.IMAGE] = moved.to(image.dtype)
            if maps:
                # Zeros come from outside: 0 has to mean unlabeled while the maps are sampled.
                labels = torch.cat([value.float() for value in maps.values()], 1)
                labels = F.grid_sample(
                    labels - self.num_classes, grid, "nearest", "zeros", align_corners=False
                )
                parts = (labels + self.num_classes).split([v.shape[1] for v in maps.values()], 1)
                for (key, value), part in zip(maps.items(), parts, strict=True):
                    out[key] = part.to(value.dtype)
        return out

    def _uniform(self, *shape: int) -> Tensor:
        """Uniform in −1…1."""
        return 2 * torch.rand(shape, generator=self.generator) - 1

    def _points(self, name: str, probability: str, size: int, channels: int, n: int) -> Tensor:
        """Control points of splines with the standard deviation of that name; 0 if not chosen."""
        dims = self.spatial_dims
        points = torch.randn((size, channels, *[n] * dims), generator=self.generator)
        sd = self.strengths[name] / _SPLINE_VARIANCE ** (dims / 2)
        return points * (sd * self._chosen(size, probability).view(-1, *[1] * (dims + 1)))

    def _chosen(self, size: int, name: str) -> Tensor:
        """1 with the probability of that name, else 0."""
        return (torch.rand(size, generator=self.generator) < self.probabilities[name]).float()

    def _grid(self, image: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """Where each output voxel comes from, in the coordinates of ``grid_sample``."""
        dims, size = self.spatial_dims, len(image)
        sides = torch.tensor(image.shape[2:], dtype=torch.float32)
        # An image is flipped and zoomed along its axes, rotated, shifted, then deformed; here
        # inverted.
        matrix = torch.eye(dims).expand(size, -1, -1)
        angles = torch.deg2rad(parameters["rotation"])
        for plane, (i, j) in enumerate([(0, 1), (1, 2), (0, 2)][: angles.shape[1]]):
            cosine, sine = angles[:, plane].cos(), angles[:, plane].sin()
            rotation = torch.eye(dims).repeat(size, 1, 1)
            rotation[:, i, i] = rotation[:, j, j] = cosine
            rotation[:, i, j], rotation[:, j, i] = sine, -sine
            matrix = rotation @ matrix
        zoom = parameters["scale"][:, None].repeat(1, dims)
        zoom[:, 0] += parameters["aspect"] / 2
        zoom[:, 1] -= parameters["aspect"] / 2
        matrix = ((1 - 2 * parameters["flip"]) * torch.exp(-zoom))[:, :, None] * matrix
        # Voxels to fractions of half a side, the unit of grid_sample, and its order x, y, z.
        matrix = matrix * sides / sides[:, None]
        offset = -matrix @ (2 * parameters["shift"])[:, :, None]
        theta = torch.cat([matrix.flip(1, 2), offset.flip(1)], 2).to(image.device)
        grid = F.affine_grid(theta, [size, 1, *image.shape[2:]], align_corners=False)
        if parameters["elastic"].any():
            # The displacement of an output voxel, in the coordinates of the input.
            points = torch.einsum("bij,bj...->bi...", matrix, 2 * parameters["elastic"])
            field = _splines(points.flip(1).to(image.device), image.shape[2:])
            grid = grid + field.movedim(1, -1)
        return grid

    def _intensities(self, image: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        axes = tuple(range(1, image.ndim))

        def gamma(x: Tensor, log: Tensor) -> Tensor:
            low, high = x.amin(axes, keepdim=True), x.amax(axes, keepdim=True)
            span = (high - low).clamp(min=torch.finfo(x.dtype).tiny)
            return low + (high - low) * ((x - low) / span).clamp(0, 1) ** log.exp()

        def bias_field(x: Tensor, points: Tensor) -> Tensor:
            low = x.amin(axes, keepdim=True)
            return low + (x - low) * _splines(points, x.shape[2:]).exp()

        def contrast(x: Tensor, log: Tensor) -> Tensor:
            return torch.lerp(x.mean(axes, keepdim=True), x, log.exp())

        def brightness(x: Tensor, amount: Tensor) -> Tensor:
            return x + amount * x.std(axes, correction=0, keepdim=True)

        def noise(x: Tensor, amount: Tensor) -> Tensor:
            generator = torch.Generator(x.device).manual_seed(int(parameters["noise_seed"]))
            sample = torch.randn(x.shape, generator=generator, device=x.device)
            return x + amount * x.std(axes, correction=0, keepdim=True) * sample

        changes: tuple[Callable[[Tensor, Tensor], Tensor], ...]
        changes = (gamma, bias_field, contrast, brightness, _blur, _low_resolution, noise)
        for change in changes:
            values = parameters[change.__name__.strip("_")]
            # Known on the CPU, so that a GPU is not waited for.
            chosen = values.flatten(1).any(1) if values.ndim > 1 else values != 0
            index = torch.nonzero(chosen).flatten()
            if len(index):
                values = values[index].to(image.device)
                values = values.view(*values.shape, *[1] * (image.ndim - values.ndim))
                index = index.to(image.device)
                image = image.index_copy(0, index, change(image[index], values))
        return image


def _splines(points: Tensor, sides: Collection[int]) -> Tensor:
    """Cubic B-splines at the voxels: (B, channels, n, …) to (B, channels, *sides).

    The second control point lies on the first border, the last but one on the last.
    """
    for side in sides:
        n = points.shape[2]
        place = (torch.arange(side, device=points.device) + 0.5) / side * (n - 3)
        distance = (place - torch.arange(-1, n - 1, device=points.device)[:, None]).abs()
        near = 2 / 3 - distance**2 + distance**3 / 2
        matrix = torch.where(distance < 1, near, (2 - distance).clamp(min=0) ** 3 / 6)
        points = torch.tensordot(points, matrix, ([2], [0]))  # the new axis is the last one
    return points


def _along_axes(image: Tensor, matrix: Callable[[int], Tensor]) -> Tensor:
    """Multiply every spatial axis by ``matrix(side)`` (B, side, side)."""
    for _ in range(image.ndim - 2):
        shape = image.shape
        image = torch.einsum("bchr,bih->bcri", image.flatten(3), matrix(shape[2]))
        image = image.reshape(*shape[:2], *shape[3:], shape[2])
    return image


def _blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian filter; at the border, weights are those of the voxels inside."""

    def matrix(side: int) -> Tensor:
        place = torch.arange(side, device=image.device)
        weight = torch.exp(-((place - place[:, None]) ** 2) / (2 * sigma.view(-1, 1, 1) ** 2))
        return weight / weight.sum(-1, keepdim=True)

    return _along_axes(image, matrix)


def _low_resolution(image: Tensor, factor: Tensor) -> Tensor:
    """Every axis at ``1 + factor`` times the spacing (nearest neighbor), linearly interpolated."""

    def matrix(side: int) -> Tensor:
        count = (side / (1 + factor.view(-1, 1))).round().clamp(min=1)
        spacing = side / count
        place = torch.arange(side, device=image.device)
        coarse = ((place + 0.5) / spacing - 0.5).clamp(min=0)
        first = torch.minimum(coarse.floor(), count - 1)
        second = torch.minimum(first + 1, count - 1)
        lower, upper = (((k + 0.5) * spacing).floor().long() for k in (first, second))
        share = (coarse - first).clamp(max=1)
        rows = torch.zeros(len(count), side, side, device=image.device)
        rows.scatter_add_(2, lower[..., None], (1 - share)[..., None])
        return rows.scatter_add_(2, upper[..., None], share[..., None])

    return _along_axes(image, matrix)
