"""Augmentation of batches against torch.rot90 and flip, SciPy and plain formulas."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.interpolate import BSpline
from torch import Tensor
from torch.nn import functional as F

from mixseg.transforms import BatchAugmentation

CLASSES = 4
SHAPES = {2: (14, 20), 3: (14, 20, 9)}
dims = pytest.mark.parametrize("spatial_dims", [2, 3])


def make_batch(
    spatial_dims: int, size: int = 3, channels: int = 1, shape: tuple[int, ...] | None = None
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    spatial = shape or SHAPES[spatial_dims]
    labels = torch.randint(CLASSES + 1, (2, size, 1, *spatial), generator=generator)
    return {
        "image": torch.randn((size, channels, *spatial), generator=generator),
        "label": labels[0].to(torch.uint8),
        "weak_label": labels[1].to(torch.uint8),
        "slice_index": torch.arange(size),
        "case_id": ["a"] * size,
    }


def applied(batch: dict[str, Any], **values: Tensor | float) -> dict[str, Any]:
    """The batch under a draw that changes nothing but what ``values`` say."""
    size, spatial_dims = len(batch["image"]), batch["image"].ndim - 2
    augment = BatchAugmentation(spatial_dims, CLASSES)
    drawn = {k: torch.zeros_like(parameter) for k, parameter in augment.draw(size).items()}
    for name, value in values.items():
        drawn[name] = torch.as_tensor(value, dtype=torch.float32).expand(drawn[name].shape).clone()
    return augment.apply(batch, drawn)


def assert_near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@dims
def test_neutral_parameters_change_nothing(spatial_dims: int) -> None:
    batch = make_batch(spatial_dims)
    out = applied(batch)
    assert_near(out["image"], batch["image"])
    assert torch.equal(out["label"], batch["label"])
    assert torch.equal(out["weak_label"], batch["weak_label"])


@pytest.mark.parametrize(
    ("spatial_dims", "plane", "axes"),
    [(2, 0, (2, 3)), (3, 0, (2, 3)), (3, 1, (3, 4)), (3, 2, (2, 4))],
)
@pytest.mark.parametrize("turns", [1, 2, -1])
def test_quarter_turns(spatial_dims: int, plane: int, axes: tuple[int, int], turns: int) -> None:
    batch = make_batch(spatial_dims, shape=(12,) * spatial_dims)
    angles = torch.zeros(1 if spatial_dims == 2 else 3)
    angles[plane] = 90.0 * turns
    out = applied(batch, rotation=angles)
    assert_near(out["image"], batch["image"].rot90(turns, axes))
    for key in ("label", "weak_label"):
        assert torch.equal(out[key], batch[key].rot90(turns, axes))


@dims
def test_flips_of_each_image(spatial_dims: int) -> None:
    batch = make_batch(spatial_dims)
    flip = torch.zeros(3, spatial_dims)
    flip[0, 0] = flip[2, 1] = flip[2, spatial_dims - 1] = 1
    out = applied(batch, flip=flip)
    for i, axes in enumerate([(0,), (), tuple({1, spatial_dims - 1})]):
        flipped = [batch[key][i].flip([1 + axis for axis in axes]) for key in ("image", "label")]
        assert_near(out["image"][i], flipped[0])
        assert torch.equal(out["label"][i], flipped[1])


@dims
def test_a_shift_is_a_roll_with_an_unlabeled_margin(spatial_dims: int) -> None:
    batch = make_batch(spatial_dims)
    spatial = SHAPES[spatial_dims]
    moved = [3, -4, 2][:spatial_dims]
    out = applied(batch, shift=torch.tensor(moved) / torch.tensor(spatial))
    axes = tuple(range(2, 2 + spatial_dims))
    image, label = (batch[key].roll(moved, axes) for key in ("image", "label"))
    outside = torch.zeros(spatial, dtype=torch.bool)
    outside[:3] = True
    outside[:, -4:] = True
    if spatial_dims == 3:
        outside[..., :2] = True
    assert torch.equal(out["label"], label.masked_fill(outside, CLASSES))
    assert_near(out["image"][..., ~outside], image[..., ~outside])
    # Outside, the image continues with its edge value.
    assert_near(out["image"][:, :, 0], out["image"][:, :, 3])


def reference(array: np.ndarray, order: int, matrix: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The array moved by ``matrix`` about its center, then by ``shift`` voxels; SciPy, float64."""
    center = (np.array(array.shape) - 1) / 2
    inverse = np.linalg.inv(matrix)
    pad = 3 * max(array.shape)  # by then SciPy's own border is out of sight
    if order == 0:
        padded = np.pad(array, pad, constant_values=CLASSES)
    else:
        padded = np.pad(array.astype(np.float64), pad, mode="edge")
    offset = center - inverse @ (center + shift) + pad
    return ndimage.affine_transform(
        padded, inverse, offset, output_shape=array.shape, order=order, prefilter=False
    )


@pytest.mark.parametrize(
    ("spatial_dims", "values"),
    [
        (2, {"scale": 0.3}),
        (2, {"scale": -0.25, "aspect": 0.4}),
        (2, {"rotation": 33.0, "scale": 0.2, "aspect": 0.12, "shift": 0.13}),
        (3, {"scale": -0.3, "shift": 0.1}),
        (3, {"rotation": [25.0, 0.0, 0.0], "scale": 0.2, "aspect": -0.3}),
    ],
)
def test_scale_aspect_and_rotation_against_scipy(spatial_dims: int, values: dict[str, Any]) -> None:
    batch = make_batch(spatial_dims, size=1)
    out = applied(batch, **{name: torch.tensor(value) for name, value in values.items()})
    zoom = np.full(spatial_dims, np.exp(values.get("scale", 0)))
    zoom[:2] *= np.exp(np.array([0.5, -0.5]) * values.get("aspect", 0))
    angle = np.deg2rad(np.atleast_1d(values.get("rotation", 0.0))[0])
    rotation = np.eye(spatial_dims)
    # As torch.rot90 turns: from the second axis to the first.
    rotation[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    spatial = batch["image"].shape[2:]
    geometry = (rotation @ np.diag(zoom), values.get("shift", 0) * np.array(spatial))
    image = reference(batch["image"][0, 0].numpy(), 1, *geometry)
    np.testing.assert_allclose(out["image"][0, 0].numpy(), image, atol=2e-4)
    for key in ("label", "weak_label"):
        expected = reference(batch[key][0, 0].numpy(), 0, *geometry)
        np.testing.assert_array_equal(out[key][0, 0].numpy(), expected)


def spline_field(points: Tensor, sides: tuple[int, ...]) -> np.ndarray:
    """Cubic B-splines by SciPy, float64: (B, channels, n, …) to (B, channels, *sides)."""
    field = points.double().numpy()
    for axis, side in enumerate(sides, 2):
        n = field.shape[axis]
        # The knots of n splines, the second and the last but one of which peak on the borders.
        spline = BSpline(np.arange(-3, n + 1), np.moveaxis(field, axis, 0), 3)
        field = np.moveaxis(spline((np.arange(side) + 0.5) / side * (n - 3)), 0, axis)
    return field


@dims
def test_elastic_is_a_spline_of_the_control_points_of_the_output(spatial_dims: int) -> None:
    """The image holds its own coordinates, so that its output says where each voxel comes from."""
    spatial = SHAPES[spatial_dims]
    places = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in spatial], indexing="ij"))
    points = 0.05 * torch.randn(
        2, spatial_dims, *[8] * spatial_dims, generator=torch.Generator().manual_seed(0)
    )
    out = applied({"image": places.expand(2, *places.shape)}, elastic=points, scale=0.3)["image"]
    sides = np.array(spatial).reshape(-1, *[1] * spatial_dims)
    moved = places.numpy() + sides * spline_field(points, spatial)
    center = (sides - 1) / 2
    expected = np.clip(center + np.exp(-0.3) * (moved - center), 0, sides - 1)
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-4)


@dims
def test_elastic_has_the_given_strength_and_does_not_fold(spatial_dims: int) -> None:
    side = 32
    augment = BatchAugmentation(spatial_dims, CLASSES, elastic_probability=1)
    points = augment.draw(400 if spatial_dims == 2 else 20)["elastic"]
    field = spline_field(points, (side,) * spatial_dims)
    assert field.std() == pytest.approx(0.03, rel=0.05)
    gradient = np.stack(np.gradient(side * field, axis=tuple(range(2, 2 + spatial_dims))), -1)
    jacobian = np.moveaxis(gradient, 1, -2) + np.eye(spatial_dims)
    folded = (np.linalg.det(jacobian) <= 0).reshape(len(points), -1)
    assert folded.any(1).mean() < 0.02


@dims
def test_labels_are_the_nearest_neighbors_of_the_grid_that_moves_the_image(
    spatial_dims: int,
) -> None:
    """The image holds its own coordinates, so that its output says where each voxel comes from."""
    spatial = {2: (15, 16), 3: (6, 7, 5)}[spatial_dims]
    places = torch.meshgrid(*[torch.arange(float(n)) for n in spatial], indexing="ij")
    image = torch.stack(places).expand(20, *[-1] * (spatial_dims + 1))
    number = torch.arange(image[0, 0].numel(), dtype=torch.uint8).view(1, 1, *spatial)
    label = number.expand(20, *[-1] * (spatial_dims + 1))
    augment = BatchAugmentation(spatial_dims, 255, intensity_probability=0, tilt=20)
    out = augment({"image": image, "label": label})
    source, ends = out["image"], torch.tensor(spatial).view(1, -1, *[1] * spatial_dims) - 1
    inside = out["label"][:, 0] != 255
    clear = ((source - source.floor() - 0.5).abs() > 1e-3).all(1)
    found = number[0, 0][source.round().long().unbind(1)]
    assert torch.equal(out["label"][:, 0][inside & clear], found[inside & clear])
    # What is unlabeled comes from beyond the first or the last voxel, and only that.
    at_an_end = ((source < 1e-4) | (source > ends - 1e-4)).any(1)
    assert at_an_end[~inside].all()
    assert inside[~at_an_end].all()
    assert 0.05 < (~inside).float().mean() < 0.6


@dims
def test_an_image_equal_to_its_label_stays_equal_away_from_edges(spatial_dims: int) -> None:
    shape = (48, 40) if spatial_dims == 2 else (32, 28, 24)
    blocks = make_batch(spatial_dims, shape=(2,) * spatial_dims)["label"].clamp(max=CLASSES - 1)
    label = F.interpolate(blocks.float(), shape).to(torch.uint8)
    augment = BatchAugmentation(spatial_dims, CLASSES, intensity_probability=0)
    out = augment({"image": label.float(), "label": label, "supervision": "full"})
    labels, window = out["label"].numpy(), (1, 1, *[5] * spatial_dims)
    low, high = ndimage.minimum_filter(labels, window), ndimage.maximum_filter(labels, window)
    flat = torch.from_numpy((low == high) & (low != CLASSES))
    assert flat.float().mean() > 0.1
    assert_near(out["image"][flat], out["label"][flat].float())


@dims
@pytest.mark.parametrize("seed", range(4))
def test_labels_hold_nothing_but_their_values_and_unlabeled(spatial_dims: int, seed: int) -> None:
    batch = make_batch(spatial_dims)
    batch["label"][:] = batch["label"].clamp(1, 2)
    batch["weak_label"] = torch.full_like(batch["label"], 3).long()
    out = BatchAugmentation(spatial_dims, CLASSES, seed=seed)(batch)
    assert out["label"].dtype == torch.uint8
    assert set(out["label"].unique().tolist()) <= {1, 2, CLASSES}
    assert out["weak_label"].dtype == torch.int64
    # Another map, the same voxels from outside.
    assert torch.equal(out["weak_label"] == CLASSES, out["label"] == CLASSES)
    assert out["slice_index"] is batch["slice_index"]
    assert out["case_id"] is batch["case_id"]


@dims
def test_a_batch_equals_its_images_one_by_one(spatial_dims: int) -> None:
    batch = make_batch(spatial_dims, size=6, channels=2)
    augment = BatchAugmentation(spatial_dims, CLASSES, intensity_probability=0.6, noise=0)
    drawn = augment.draw(6)
    whole = augment.apply(batch, drawn)
    for i in range(6):
        one = {key: value[i : i + 1] for key, value in batch.items()}
        values = {k: v if v.ndim == 0 else v[i : i + 1] for k, v in drawn.items()}
        alone = augment.apply(one, values)
        assert_near(alone["image"][0], whole["image"][i])
        assert torch.equal(alone["label"][0], whole["label"][i])


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(torch.equal(a[key], b[key]) for key in ("image", "label", "weak_label"))


@dims
def test_a_state_repeats_the_draws(spatial_dims: int) -> None:
    batch = make_batch(spatial_dims)
    augment = BatchAugmentation(spatial_dims, CLASSES, seed=3, intensity_probability=1)
    first = augment(batch)
    file = io.BytesIO()
    torch.save(augment.state_dict(), file)
    pickled = pickle.dumps(augment)
    second, third = augment(batch), augment(batch)
    assert not same(first, second)

    file.seek(0)
    resumed = BatchAugmentation(spatial_dims, CLASSES, seed=8, intensity_probability=1)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    copied = pickle.loads(pickled)
    anew = BatchAugmentation(spatial_dims, CLASSES, seed=3, intensity_probability=1)
    assert same(anew(batch), first)
    for other in (resumed, copied, anew):
        assert same(other(batch), second)
        assert same(other(batch), third)


def test_seeds_differ_and_the_global_generator_is_left_alone() -> None:
    batch = make_batch(2)
    before = torch.get_rng_state()
    outs = [BatchAugmentation(2, CLASSES, seed=s, intensity_probability=1)(batch) for s in (0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert not same(*outs)


def test_draws_have_the_given_ranges_and_shares() -> None:
    size = 4000
    augment = BatchAugmentation(
        3, CLASSES, rotation=20, tilt=7, elastic=0.02, intensity_probability=0.25, flip_axes=[1]
    )
    drawn = augment.draw(size)
    ranges = {"scale": 0.3, "aspect": 0.12, "shift": 0.15, "gamma": 0.4, "contrast": 0.3}
    for name, largest in ranges.items():
        assert drawn[name].min() == pytest.approx(-largest, rel=0.02)
        assert drawn[name].max() == pytest.approx(largest, rel=0.02)
    for name, largest in {"blur": 1.0, "low_resolution": 1.0, "noise": 0.2}.items():
        assert drawn[name].min() == 0
        assert drawn[name].max() == pytest.approx(largest, rel=0.02)
    torch.testing.assert_close(
        drawn["rotation"].abs().amax(0), torch.tensor([20.0, 7.0, 7.0]), rtol=0.02, atol=0
    )
    # Four standard deviations of a share of 4,000.
    for name, share in {"gamma": 0.25, "noise": 0.25, "bias_field": 0.25, "elastic": 0.5}.items():
        chosen = drawn[name].view(size, -1).any(1)
        assert chosen.float().mean() == pytest.approx(share, abs=4 * (0.25 / size) ** 0.5)
        if drawn[name].ndim > 1:
            strength = {"bias_field": 0.3, "elastic": 0.02}[name]
            # A cubic B-spline has 151 / 315 of its control points' variance, along each axis.
            sd = drawn[name][chosen].std() * (151 / 315) ** 1.5
            assert sd == pytest.approx(strength, rel=0.02)
    assert drawn["flip"].mean(0).tolist() == pytest.approx([0, 0.5, 0], abs=0.032)


@dims
@pytest.mark.parametrize("channels", [1, 3])
def test_intensities_against_formulas(spatial_dims: int, channels: int) -> None:
    batch = make_batch(spatial_dims, channels=channels)
    x = batch["image"].double()
    axes = tuple(range(1, x.ndim))
    column = (-1, *[1] * (x.ndim - 1))
    low, high = x.amin(axes, keepdim=True), x.amax(axes, keepdim=True)
    mean = x.mean(axes, keepdim=True)
    sd = ((x - mean) ** 2).mean(axes, keepdim=True).sqrt()
    amount = torch.tensor([-0.3, 0.2, 0.4])
    a = amount.double().view(column)
    expected = {
        "gamma": low + (high - low) * ((x - low) / (high - low)) ** a.exp(),
        "contrast": mean + (x - mean) * a.exp(),
        "brightness": x + a * sd,
    }
    for name, value in expected.items():
        out = applied(batch, **{name: amount})
        assert_near(out["image"], value.float())
        assert torch.equal(out["label"], batch["label"])
        assert torch.equal(out["weak_label"], batch["weak_label"])


def test_bias_field_is_a_smooth_factor_above_the_minimum() -> None:
    batch = make_batch(2, channels=2)
    x = batch["image"].double()
    points = 0.3 * torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    field = torch.from_numpy(spline_field(points, SHAPES[2]))
    low = x.amin((1, 2, 3), keepdim=True)
    out = applied(batch, bias_field=points)
    assert_near(out["image"], (low + (x - low) * field.exp()).float())
    assert torch.equal(out["label"], batch["label"])


@dims
def test_blur_against_scipy(spatial_dims: int) -> None:
    batch = make_batch(spatial_dims, channels=2)
    sigmas = [0.5, 1.0, 2.3]
    out = applied(batch, blur=torch.tensor(sigmas))["image"].numpy()
    for i, sigma in enumerate(sigmas):
        for c in range(2):
            options: Any = {"sigma": sigma, "mode": "constant", "truncate": 12}
            x = batch["image"][i, c].double().numpy()
            # Weights of the voxels inside alone.
            expected = ndimage.gaussian_filter(x, **options)
            expected = expected / ndimage.gaussian_filter(np.ones_like(x), **options)
            np.testing.assert_allclose(out[i, c], expected, atol=1e-4)


@dims
def test_low_resolution_against_interpolate(spatial_dims: int) -> None:
    batch = make_batch(spatial_dims, channels=2)
    factor = torch.tensor([1.0, 0.4, 0.8])
    out = applied(batch, low_resolution=factor)["image"]
    mode = "bilinear" if spatial_dims == 2 else "trilinear"
    for i in range(3):
        x = batch["image"][i : i + 1]
        sides = [round(n / (1 + factor[i].item())) for n in x.shape[2:]]
        expected = F.interpolate(x, sides, mode="nearest-exact")
        expected = F.interpolate(expected, x.shape[2:], mode=mode, align_corners=False)
        assert_near(out[i], expected[0])


def test_noise_has_the_given_strength() -> None:
    batch = make_batch(2, shape=(120, 100))
    amount = torch.tensor([0.0, 0.1, 0.3])
    out = applied(batch, noise=amount)["image"] - batch["image"]
    sd = batch["image"].std((1, 2, 3), correction=0)
    torch.testing.assert_close(out.std((1, 2, 3)), amount * sd, atol=1e-5, rtol=0.03)
    # Nothing of one image's noise is in another's.
    correlation = torch.corrcoef(out[1:].flatten(1))[0, 1]
    assert abs(correlation) < 5 / 12_000**0.5


@dims
def test_channels_keep_their_balance(spatial_dims: int) -> None:
    batch = make_batch(spatial_dims)
    batch["image"] = batch["image"].expand(-1, 3, *[-1] * spatial_dims)
    augment = BatchAugmentation(spatial_dims, CLASSES, intensity_probability=1, noise=0)
    out = augment(batch)["image"]
    for other in (1, 2):
        torch.testing.assert_close(out[:, other], out[:, 0], atol=1e-5, rtol=1e-5)


@dims
@pytest.mark.parametrize("value", [0.0, -3.5, 1000.0])
def test_constant_images_stay_finite(spatial_dims: int, value: float) -> None:
    batch = make_batch(spatial_dims, size=8)
    batch["image"] = torch.full_like(batch["image"], value)
    out = BatchAugmentation(spatial_dims, CLASSES, intensity_probability=1)(batch)
    torch.testing.assert_close(out["image"], batch["image"], atol=1e-4, rtol=1e-5)


def test_autocast_gradients_and_types() -> None:
    batch = make_batch(2, channels=2)
    plain = BatchAugmentation(2, CLASSES, intensity_probability=1)(batch)
    batch["image"].requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = BatchAugmentation(2, CLASSES, intensity_probability=1)(batch)
    assert not out["image"].requires_grad
    assert same(out, plain)
    batch["image"] = batch["image"].detach().to(torch.bfloat16)
    out = BatchAugmentation(2, CLASSES, intensity_probability=1)(batch)
    assert out["image"].dtype == torch.bfloat16
    assert torch.equal(out["label"], plain["label"])
    # The layout in memory changes nothing.
    batch["image"] = batch["image"].contiguous(memory_format=torch.channels_last)
    assert same(BatchAugmentation(2, CLASSES, intensity_probability=1)(batch), out)


def test_faults_are_refused() -> None:
    with pytest.raises(ValueError, match="spatial_dims must be 2 or 3, got 1"):
        BatchAugmentation(1, CLASSES)
    with pytest.raises(ValueError, match=r"flip_axes must lie in 0…1, got \[2\]"):
        BatchAugmentation(2, CLASSES, flip_axes=[2])
    with pytest.raises(ValueError, match=r"elastic must not be negative, got -0\.1"):
        BatchAugmentation(2, CLASSES, elastic=-0.1)
    with pytest.raises(ValueError, match=r"intensity_probability must lie in 0…1, got 1\.5"):
        BatchAugmentation(2, CLASSES, intensity_probability=1.5)
    augment = BatchAugmentation(2, CLASSES)
    with pytest.raises(ValueError, match=r"takes images of 4 axes .*got \(3, 1, 14, 20, 9\)"):
        augment(make_batch(3))
    batch = make_batch(2)
    batch["weights"] = batch["label"].float()
    with pytest.raises(ValueError, match=r"'weights' .*float32, but label maps are integers"):
        augment(batch)
