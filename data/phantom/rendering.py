"""Rendering of a phantom patient: label map and image of one frame."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from mixseg.data.phantom.anatomy import Organ, Patient

Array = np.ndarray

#: Voxel size in mm, array axes 0, 1, 2; usual for a short-axis cine stack.
SPACING = (1.5, 1.5, 8.0)
RIGHT, MYOCARDIUM, LEFT = 1, 2, 3
_RIGHT_WALL = 3.0


def render_frame(
    patient: Patient, contraction: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Image and label map of one frame.

    Args:
        patient: the patient.
        contraction: 0 at end-diastole, 1 at end-systole.
        rng: draws the texture and the noise of this frame.

    Returns:
        ``(image, label)`` of shape (H, W, D): uint16 gray levels on the patient's own scale, and
        uint8 with 0 background, 1 right ventricle, 2 myocardium, 3 left ventricle's cavity
        (papillary muscles included, as ACDC's protocol has it).
    """
    depth = patient.slices + patient.above_base + patient.below_apex
    x, y, z = _grid(patient, depth, contraction)
    signal = _surroundings(patient, x, y, z, rng)
    label = np.zeros(signal.shape, dtype=np.uint8)

    # All that follows lies near the heart: the rest of the volume is not touched.
    reach = 2.2 * (patient.radius + patient.wall) + 45.0
    box = _box(np.hypot(x - patient.center[0], y - patient.center[1])[:, :, 0] < reach)
    x, y, seen, part = x[box], y[box], (z <= 1.0).astype(np.float32), signal[box]
    inner, outer, right = _ventricles(patient, contraction, x, y, z)

    near = label[box]
    near[right < 0] = RIGHT
    near[outer < 0] = MYOCARDIUM
    near[inner < 0] = LEFT
    # Above the base and below the apex nothing is annotated, though blood (the atria) is seen.
    near[:, :, (z[0, 0] < 0) | (z[0, 0] > 1)] = 0

    edge = patient.blur * (1.0 + 1.2 * np.clip(z, 0, 1) ** 2)  # oblique wall near the apex
    flow = 1.0 + patient.blood_texture * _texture(rng, part.shape, 4.5)
    flow *= 1.0 + patient.blood_slices * rng.standard_normal(depth)
    _paint(part, right - _RIGHT_WALL, edge, patient.muscle, seen)
    _paint(part, right, edge, patient.right_blood * flow, seen)
    muscle = patient.muscle * (1.0 + 0.2 * _texture(rng, part.shape, 3.0))
    _paint(part, outer, edge, muscle, seen)
    _paint(part, inner, edge, patient.blood * flow, seen)
    _paint_papillary(part, patient, contraction, x, y, z, inner, edge)
    return _acquire(patient, signal, label == LEFT, rng), label


def _grid(patient: Patient, depth: int, contraction: float) -> tuple[Array, Array, Array]:
    """Coordinates (mm) of every voxel in the patient's rotated axes, and its long-axis position.

    At end-systole the base has moved toward the apex, so that the stack's first slices may lie
    above it.
    """
    height, width = patient.shape
    px = (np.arange(height) - (height - 1) / 2) * SPACING[0]
    py = (np.arange(width) - (width - 1) / 2) * SPACING[1]
    cos, sin = np.cos(patient.rotation), np.sin(patient.rotation)
    x = (cos * px[:, None] + sin * py[None, :])[:, :, None]
    y = (-sin * px[:, None] + cos * py[None, :])[:, :, None]
    index = np.arange(depth) - patient.above_base + 0.5
    base = contraction * patient.ejection * 0.10 * patient.slices
    z = (index - base) / (patient.slices - base)
    # Single precision halves the time; the shapes are stylized, not measured.
    return x.astype(np.float32), y.astype(np.float32), z.astype(np.float32)[None, None]


def _box(mask: Array) -> tuple[slice, slice]:
    """The smallest rectangle that holds a mask; empty where the mask is."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _ventricles(
    patient: Patient, contraction: float, x: Array, y: Array, z: Array
) -> tuple[Array, Array, Array]:
    """Distances (mm, negative inside) to the endocardium, the epicardium and the RV's cavity."""
    x = x - patient.center[0] - patient.tilt[0] * (z - 0.4)
    y = y - patient.center[1] - patient.tilt[1] * (z - 0.4)
    distance, angle = np.hypot(x, y), np.arctan2(y, x)

    taper = np.sqrt(np.clip(1.0 - (np.clip(z, -0.2, 1.2) - 0.25) ** 2 / 0.62, 0.02, None))
    # Volume falls by the ejection fraction; the base's descent accounts for a part of it.
    shortening = 1.0 - 0.10 * contraction * patient.ejection
    area = (1.0 - contraction * patient.ejection) / shortening
    relative = 1.0 + _wave(angle, patient.waves)
    minor = (1.0 - patient.eccentricity**2) ** 0.25  # half-axes r/minor and r·minor, equal area
    ellipse = 1.0 / np.hypot(np.cos(angle) * minor, np.sin(angle) / minor)
    inner_radius = patient.radius * np.sqrt(area) * taper * ellipse * relative

    # The wall's volume is kept: it thickens as the cavity shrinks.
    full = patient.radius * taper
    wall_area = (full + patient.wall) ** 2 - full**2
    wall = np.sqrt(area * full**2 + wall_area / shortening) - np.sqrt(area) * full
    septum = np.cos(angle - patient.right_angle)
    scar = np.exp(-(((angle - patient.thin_angle + np.pi) % (2 * np.pi) - np.pi) ** 2) / 0.5)
    wall = wall * (1.0 + patient.septal_gain * np.clip(septum, 0, None) ** 2)
    wall = wall * (1.0 - patient.thin_depth * scar)
    inner = distance - inner_radius
    outer = inner - wall

    # Right ventricle: an ellipse beside the septum, without what the left ventricle takes up.
    right_taper = np.sqrt(np.clip(1.0 - np.clip(z, 0, None) ** 2 / 0.85, 0, None))
    size = patient.right_scale * right_taper * np.sqrt(1.0 - contraction * patient.right_ejection)
    cos, sin = np.cos(patient.right_angle), np.sin(patient.right_angle)
    heart = patient.radius + patient.wall * (1.0 + patient.septal_gain)
    along = cos * x + sin * y - 0.88 * heart * (0.5 + 0.5 * right_taper)
    across = -sin * x + cos * y
    half_along, half_across = 0.90 * heart * size + 1e-3, 1.18 * heart * size + 1e-3
    scaled = np.hypot(along / half_along, across / half_across)
    right = np.maximum((scaled - 1.0) * np.minimum(half_along, half_across), 0.5 - outer)
    return inner, outer, right


def _surroundings(
    patient: Patient, x: Array, y: Array, z: Array, rng: np.random.Generator
) -> Array:
    """Everything but the ventricles: air, chest wall, lungs and the patient's organs."""
    signal = np.full((*patient.shape, z.shape[2]), 0.01, dtype=np.float32)
    one = np.ones_like(z)
    body = np.hypot((x + 5.0) / 128.0, (y - 25.0) / 108.0)
    body = (body - 1.0) * 110.0 + 0.0 * z
    muscle = 0.9 * patient.muscle
    _paint(signal, body, 3.0, patient.fat, one)
    # Behind the chest wall: muscle streaked with fat, as between the abdominal organs.
    streaks = np.clip(0.35 + 0.5 * _texture(rng, signal.shape, 9.0), 0.0, 1.0)
    inside = muscle + (0.75 * patient.fat - muscle) * streaks
    _paint(signal, body + patient.chest_wall, 3.0, inside, one)
    lungs = np.hypot((x - 12.0) / 92.0, (y + 14.0) / patient.lung_height)
    _paint(signal, (lungs - 1.0) * 75.0 + 0.0 * z, 5.0, patient.lung, one)
    signal *= 1.0 + 0.13 * _texture(rng, signal.shape, 3.0)
    for organ in patient.organs:
        _paint_organ(signal, organ, x, y, z, rng)
    return signal


def _paint_organ(
    signal: Array, organ: Organ, x: Array, y: Array, z: Array, rng: np.random.Generator
) -> None:
    """Paint an organ where its cross-section lies; the rest of the volume is not touched."""
    reach = 1.0 - ((z[0, 0] - organ.center[2]) / organ.axes[2]) ** 2
    slices = np.flatnonzero(reach > 0.02)
    if not len(slices):
        return
    a, b = organ.axes[:2]
    limit = max(a, b) * 1.4 + organ.wall + 3.0
    near = (np.abs(x[:, :, 0] - organ.center[0]) < limit) & (
        np.abs(y[:, :, 0] - organ.center[1]) < limit
    )
    box = (*_box(near), slice(slices[0], slices[-1] + 1))
    part = signal[box]
    if not part.size:
        return
    size = np.sqrt(np.clip(reach[box[2]], 0.02, None))
    dx, dy = x[box[:2]] - organ.center[0], y[box[:2]] - organ.center[1]
    cos, sin = np.cos(organ.rotation), np.sin(organ.rotation)
    along, across = (cos * dx + sin * dy) / a, (-sin * dx + cos * dy) / b
    scaled = np.hypot(along, across)
    if organ.waves:
        scaled = scaled / (1.0 + _wave(np.arctan2(across, along), organ.waves))
    outline = (scaled - size) * np.sqrt(a * b)
    one = np.ones(part.shape[2])
    inside: float | Array = organ.signal
    if organ.texture:
        inside = organ.signal * (1.0 + organ.texture * _texture(rng, part.shape, 6.0))
    if organ.wall:
        _paint(part, outline - organ.wall, organ.edge, organ.wall_signal, one)
    _paint(part, outline, organ.edge, inside, one)


def _paint_papillary(
    signal: Array,
    patient: Patient,
    contraction: float,
    x: Array,
    y: Array,
    z: Array,
    inner: Array,
    edge: Array,
) -> None:
    """Papillary muscles and trabeculae: muscle inside the cavity, in its middle part."""
    radius = patient.radius * np.sqrt(1.0 - contraction * patient.ejection)
    box = _box(np.any(inner < edge, axis=2))
    x, y, part = x[box], y[box], signal[box]
    present = ((z > 0.15) & (z < 0.95)).astype(np.float32)
    weight = present * np.clip(0.5 - inner[box] / edge, 0.0, 1.0)
    cx = patient.center[0] + patient.tilt[0] * (z - 0.4)
    cy = patient.center[1] + patient.tilt[1] * (z - 0.4)
    for angle, place, size in patient.papillary:
        # Sizes are those at end-diastole: the muscles do not shrink with the cavity.
        distance = np.hypot(
            x - cx - place * radius * np.cos(angle), y - cy - place * radius * np.sin(angle)
        )
        _paint(part, distance - size * patient.radius, 1.5 + edge, patient.muscle, weight)


def _acquire(patient: Patient, signal: Array, cavity: Array, rng: np.random.Generator) -> Array:
    """Coil shading, blur, Rician noise, clipping and the scanner's gray levels."""
    height, width = patient.shape
    px = (np.arange(height) - (height - 1) / 2) * SPACING[0]
    py = (np.arange(width) - (width - 1) / 2) * SPACING[1]
    cx, cy, reach = patient.coil
    squared = (px[:, None] - cx) ** 2 + (py[None, :] - cy) ** 2
    shading = (0.25 + np.exp(-squared / (2 * reach**2))).astype(np.float32)
    # In-plane point spread of the k-space sampling: about half a pixel.
    shaded = ndimage.gaussian_filter(signal * shading[:, :, None], (0.5, 0.5, 0.0))
    noisy = np.hypot(
        shaded + patient.noise * rng.standard_normal(shaded.shape, dtype=np.float32),
        patient.noise * rng.standard_normal(shaded.shape, dtype=np.float32),
    )
    # Bright fat is clipped, the blood of the left ventricle but little, as in ACDC.
    top = max(np.percentile(noisy, patient.clip), np.percentile(noisy[cavity], 85.0))
    return np.rint(np.clip(noisy / top, 0.0, 1.0) * patient.scale).astype(np.uint16)


def _paint(
    signal: Array, distance: Array, edge: float | Array, value: float | Array, weight: Array
) -> None:
    """Blend ``value`` into ``signal`` where ``distance`` < 0, with an edge of the given width."""
    alpha = np.clip(0.5 - distance / edge, 0.0, 1.0) * weight
    signal += alpha * (value - signal)


def _wave(angle: Array, waves: tuple[tuple[float, float], ...]) -> Array:
    """Relative deviation of an outline: harmonics 2, 3, … of the angle."""
    total = np.zeros_like(angle)
    for order, (amplitude, phase) in enumerate(waves, start=2):
        total += amplitude * np.cos(order * angle + phase)
    return total


def _texture(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Array:
    """Smooth noise of mean 0 and standard deviation 1, correlated over ``scale`` pixels in-plane.

    Drawn on a coarse grid and interpolated, which costs a tenth of filtering.
    """
    coarse = rng.standard_normal(
        (max(2, round(shape[0] / scale) + 1), max(2, round(shape[1] / scale) + 1), shape[2]),
        dtype=np.float32,
    )
    rows = np.linspace(0, coarse.shape[0] - 1, shape[0], dtype=np.float32)
    columns = np.linspace(0, coarse.shape[1] - 1, shape[1], dtype=np.float32)
    first = np.minimum(rows.astype(int), coarse.shape[0] - 2)
    weight = (rows - first)[:, None, None]
    part = coarse[first] * (1 - weight) + coarse[first + 1] * weight
    first = np.minimum(columns.astype(int), coarse.shape[1] - 2)
    weight = (columns - first)[None, :, None]
    # Linear interpolation averages neighbors: variance (2/3)² on average.
    return (part[:, first] * (1 - weight) + part[:, first + 1] * weight) * 1.5
