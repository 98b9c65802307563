"""The synthetic patient: what varies from one phantom patient to the next, and how much.

Lengths are in mm. In-plane coordinates (x along array axis 0, y along axis 1) start at the image's
center; the right ventricle lies toward −x, the chest wall toward −y. Along the heart's long axis,
position 0 is the base of the left ventricle and 1 its apex. Intensities are relative to an ideal
blood signal of 1, before the coils' shading, noise and clipping.

The five groups and their ventricles follow ACDC's (Bernard et al., IEEE TMI 2018): dilated
cardiomyopathy, hypertrophic cardiomyopathy, infarction, normal, abnormal right ventricle. The
spreads were set so that the statistics that ``benchmarks/phantom_statistics.py`` compares come near
those of ACDC; the tissue around the heart is stylized.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class GroupShape(NamedTuple):
    """Means of a pathology group: cavity radius, wall and ejection fraction, RV's relative size."""

    radius: float
    wall: float
    ejection: float
    right: float


#: By group, dealt in this order to successive patients.
GROUPS: dict[str, GroupShape] = {
    "DCM": GroupShape(radius=33.0, wall=8.0, ejection=0.24, right=1.05),
    "HCM": GroupShape(radius=24.0, wall=13.5, ejection=0.66, right=0.95),
    "MINF": GroupShape(radius=29.5, wall=8.5, ejection=0.36, right=0.95),
    "NOR": GroupShape(radius=26.0, wall=8.5, ejection=0.60, right=1.0),
    "RV": GroupShape(radius=24.5, wall=8.0, ejection=0.56, right=1.3),
}


@dataclass
class Organ:
    """An ellipsoid with a wavy outline, its wall and its texture.

    Attributes:
        center: x, y and long-axis position of the center.
        axes: half-axes in x', y' (mm) and along the long axis (in units of the LV's length).
        rotation: angle of x' (radians).
        signal: intensity inside.
        wall: thickness of a rim of other intensity; 0 for none.
        wall_signal: intensity of the rim.
        texture: amplitude of the smooth relative intensity variation inside.
        waves: amplitude and phase of the outline's harmonics 2, 3, ….
        edge: width of the edge.
    """

    center: tuple[float, float, float]
    axes: tuple[float, float, float]
    rotation: float
    signal: float
    wall: float = 0.0
    wall_signal: float = 0.0
    texture: float = 0.0
    waves: tuple[tuple[float, float], ...] = ()
    edge: float = 2.5


@dataclass
class Patient:
    """Everything that the renderer needs about one patient; drawn by :func:`draw_patient`."""

    group: str
    shape: tuple[int, int]
    slices: int
    above_base: int
    below_apex: int
    center: tuple[float, float]
    tilt: tuple[float, float]
    rotation: float
    radius: float
    eccentricity: float
    wall: float
    septal_gain: float
    thin_angle: float
    thin_depth: float
    ejection: float
    right_scale: float
    right_ejection: float
    right_angle: float
    waves: tuple[tuple[float, float], ...]
    papillary: tuple[tuple[float, float, float], ...]
    blood: float
    right_blood: float
    muscle: float
    fat: float
    lung: float
    lung_height: float
    chest_wall: float
    blood_texture: float
    blood_slices: float
    coil: tuple[float, float, float]
    blur: float
    noise: float
    clip: float
    scale: float
    organs: list[Organ] = field(default_factory=list)


def draw_patient(rng: np.random.Generator, group: str) -> Patient:
    """Draw one patient of a group.

    Args:
        rng: source of all randomness.
        group: a key of :data:`GROUPS`.
    """
    typical = GROUPS[group]
    blood = float(np.clip(rng.normal(0.74, 0.165), 0.36, 1.15))
    muscle = float(np.clip(rng.normal(0.27, 0.06), 0.15, 0.42)) * (0.55 + 0.45 * blood)
    radius = typical.radius * float(np.clip(rng.normal(1.05, 0.16), 0.65, 1.5))
    patient = Patient(
        group=group,
        shape=(int(rng.integers(16, 21)) * 8, int(rng.integers(16, 21)) * 8),
        slices=int(np.clip(round(rng.normal(8.5, 1.1)), 6, 12)),
        above_base=int(rng.random() < 0.10),
        below_apex=int(rng.choice([0, 1, 2], p=[0.72, 0.23, 0.05])),
        center=(float(rng.normal(-4.0, 9.0)), float(rng.normal(-2.0, 9.0))),
        tilt=(float(rng.normal(0.0, 7.0)), float(rng.normal(0.0, 7.0))),
        rotation=float(rng.normal(0.0, 0.42)),
        radius=radius,
        eccentricity=float(np.clip(rng.normal(0.46, 0.12), 0.1, 0.72)),
        wall=typical.wall * float(np.clip(rng.normal(1.0, 0.14), 0.65, 1.4)),
        septal_gain=float(rng.uniform(0.3, 0.8)) if group == "HCM" else float(rng.uniform(0, 0.2)),
        thin_angle=float(rng.uniform(-np.pi, np.pi)),
        thin_depth=float(rng.uniform(0.25, 0.55)) if group == "MINF" else 0.0,
        ejection=float(np.clip(rng.normal(typical.ejection, 0.09), 0.1, 0.8)),
        right_scale=typical.right * float(np.clip(rng.normal(1.0, 0.12), 0.7, 1.35)),
        right_ejection=float(np.clip(rng.normal(0.40, 0.12), 0.1, 0.65)),
        right_angle=float(rng.normal(np.pi, 0.25)),
        waves=_waves(rng, 0.035, 3),
        papillary=_papillary(rng),
        blood=blood,
        right_blood=blood * float(np.clip(rng.normal(0.86, 0.12), 0.55, 1.1)),
        muscle=muscle,
        fat=float(np.clip(rng.normal(0.78, 0.2), 0.4, 1.3)),
        lung=float(rng.uniform(0.05, 0.15)),
        lung_height=float(rng.normal(52.0, 8.0)),
        chest_wall=float(rng.uniform(6.0, 20.0)),
        blood_texture=float(rng.uniform(0.12, 0.28)),
        blood_slices=float(rng.uniform(0.05, 0.20)),
        coil=(
            float(rng.normal(25.0, 25.0)),
            float(rng.normal(-75.0, 20.0)),
            float(rng.uniform(85.0, 170.0)),
        ),
        blur=float(rng.uniform(1.2, 3.2)),
        noise=float(rng.uniform(0.005, 0.026)),
        clip=float(rng.uniform(96.0, 99.7)),
        scale=float(np.exp(rng.uniform(np.log(150.0), np.log(1500.0)))),
    )
    # What surrounds the heart, back to front.
    patient.organs = [
        *_abdomen(rng, patient),
        *_lung_vessels(rng, patient),
        *_round_vessels(rng, patient),
        *_pericardial_fat(rng, patient),
    ]
    return patient


def _waves(
    rng: np.random.Generator, amplitude: float, count: int
) -> tuple[tuple[float, float], ...]:
    """Amplitudes (relative to the radius) and phases of an outline's harmonics 2, 3, …."""
    return tuple(
        (float(abs(rng.normal(0.0, amplitude)) / (1 + 0.4 * k)), float(rng.uniform(0, 2 * np.pi)))
        for k in range(count)
    )


def _papillary(rng: np.random.Generator) -> tuple[tuple[float, float, float], ...]:
    """Angle, distance from the center and radius (both relative to the cavity's radius)."""
    main = [
        (angle + float(rng.normal(0, 0.3)), float(rng.uniform(0.5, 0.8)), float(r))
        for angle, r in zip((0.7, -1.2), rng.uniform(0.12, 0.30, 2), strict=True)
    ]
    trabeculae = [
        (float(rng.uniform(-np.pi, np.pi)), float(rng.uniform(0.82, 0.98)), float(r))
        for r in rng.uniform(0.05, 0.14, int(rng.integers(2, 8)))
    ]
    return tuple(main + trabeculae)


def _abdomen(rng: np.random.Generator, patient: Patient) -> list[Organ]:
    """Liver and spleen, and stomach or bowel: bright or dark, often with a wall, like the heart."""
    solid = patient.muscle * float(rng.uniform(0.8, 2.0))
    organs = [
        Organ(
            center=(float(rng.normal(-30, 15)), float(rng.normal(70, 9)), float(rng.uniform(0, 1))),
            axes=(float(rng.uniform(50, 80)), float(rng.uniform(26, 44)), 2.0),
            rotation=float(rng.normal(0, 0.25)),
            signal=solid,
            texture=0.15,
            waves=_waves(rng, 0.06, 4),
            wall=float(rng.uniform(1.5, 6.0)),
            wall_signal=patient.fat * float(rng.uniform(0.4, 0.9)),
        )
    ]
    for _ in range(int(rng.integers(2, 6))):
        size = float(rng.uniform(9, 26))
        bright = rng.random() < 0.6
        inside = patient.blood * float(rng.uniform(0.6, 1.15)) if bright else patient.muscle
        outside = patient.muscle * float(rng.uniform(0.5, 1.1)) if bright else patient.fat * 0.7
        organs.append(
            Organ(
                center=(
                    float(rng.uniform(-45, 65)),
                    float(rng.uniform(42, 90)),
                    float(rng.uniform(0.0, 1.1)),
                ),
                axes=(size, size * float(rng.uniform(0.65, 1.0)), float(rng.uniform(0.35, 1.3))),
                rotation=float(rng.uniform(0, np.pi)),
                signal=inside,
                wall=float(rng.uniform(2, 7)),
                wall_signal=outside,
                texture=0.2,
                waves=_waves(rng, 0.06, 3),
            )
        )
    return organs


def _lung_vessels(rng: np.random.Generator, patient: Patient) -> list[Organ]:
    """Small bright dots in the lungs."""
    organs = []
    for _ in range(int(rng.integers(15, 45))):
        size = float(np.exp(rng.normal(np.log(2.2), 0.45)))
        organs.append(
            Organ(
                center=(
                    float(rng.uniform(-70, 100)),
                    float(rng.uniform(-75, 45)),
                    float(rng.uniform(-0.2, 1.2)),
                ),
                axes=(size, size * float(rng.uniform(0.5, 1.0)), float(rng.uniform(0.1, 0.5))),
                rotation=float(rng.uniform(0, np.pi)),
                signal=patient.blood * float(rng.uniform(0.3, 1.0)),
            )
        )
    return organs


def _round_vessels(rng: np.random.Generator, patient: Patient) -> list[Organ]:
    """Descending aorta and vena cava, and at times a bright round cavity as large as the LV."""
    organs = [
        Organ(
            center=(float(rng.normal(8, 12)), float(rng.normal(58, 7)), 0.5),
            axes=(float(rng.uniform(8, 14)), float(rng.uniform(8, 14)), 9.0),
            rotation=0.0,
            signal=patient.blood * float(rng.uniform(0.75, 1.25)),
            wall=2.0,
            wall_signal=patient.muscle * 0.8,
            texture=0.1,
        ),
        Organ(
            center=(float(rng.normal(-48, 9)), float(rng.normal(40, 9)), float(rng.uniform(0, 1))),
            axes=(float(rng.uniform(8, 15)), float(rng.uniform(6, 11)), 0.9),
            rotation=float(rng.uniform(0, np.pi)),
            signal=patient.blood * float(rng.uniform(0.6, 1.1)),
            texture=0.1,
        ),
    ]
    if rng.random() < 0.45:
        size = float(rng.uniform(14, 26))
        organs.append(
            Organ(
                center=(
                    float(rng.normal(45, 12)),
                    float(rng.normal(52, 9)),
                    float(rng.uniform(0.3, 1.1)),
                ),
                axes=(size, size * float(rng.uniform(0.75, 1.0)), float(rng.uniform(0.4, 0.9))),
                rotation=float(rng.uniform(0, np.pi)),
                signal=patient.blood * float(rng.uniform(0.7, 1.1)),
                wall=float(rng.uniform(3, 9)),
                wall_signal=patient.muscle * float(rng.uniform(0.6, 1.3)),
                texture=0.15,
                waves=_waves(rng, 0.05, 3),
            )
        )
    return organs


def _pericardial_fat(rng: np.random.Generator, patient: Patient) -> list[Organ]:
    """Lumps of fat around the heart."""
    organs = []
    x, y = patient.center
    reach = patient.radius + patient.wall
    for _ in range(int(rng.integers(3, 9))):
        angle = float(rng.uniform(-np.pi, np.pi))
        distance = reach * float(rng.uniform(1.0, 1.9))
        organs.append(
            Organ(
                center=(
                    x + distance * float(np.cos(angle)),
                    y + distance * float(np.sin(angle)),
                    float(rng.uniform(-0.1, 1.1)),
                ),
                axes=(float(rng.uniform(5, 16)), float(rng.uniform(3, 7)), 0.5),
                rotation=angle + np.pi / 2,
                signal=patient.fat * float(rng.uniform(0.4, 0.9)),
                waves=_waves(rng, 0.12, 3),
            )
        )
    return organs
