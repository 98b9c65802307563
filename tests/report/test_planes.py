"""Which planes of a volume are pictured, and that they look the same however it is stored."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mixseg.report.planes import select_slice, shown_channels, standard_planes

SIZES = (0.5, 1.5, 4.0)  # mm to the patient's left-right, front-back and feet-head
#: One value a voxel, axes R, A, S.
RAS = np.arange(6 * 5 * 4).reshape(6, 5, 4)
OBJECT = np.zeros(RAS.shape, np.uint8)
OBJECT[1, 3, 2] = 1
#: The picture shows L, P and I to the right or down; the object is in slices 1, 3 and 2.
PICTURES = [RAS[::-1, ::-1, 2], RAS[::-1, 3, ::-1], RAS[1, ::-1, ::-1]]


def affine(*columns: tuple[int, int]) -> np.ndarray:
    """World axis and sign of each array axis → affine with the voxel sizes of SIZES."""
    matrix = np.eye(4)
    matrix[:3, :3] = 0
    for axis, (world, sign) in enumerate(columns):
        matrix[world, axis] = sign * SIZES[world]
    matrix[:3, 3] = (11, -7, 5)
    return matrix


def turn(array: np.ndarray, orientation: str) -> np.ndarray:
    """The RAS array as stored with other axes."""
    return {
        "RAS": array,
        "LPS": array[::-1, ::-1],
        "PSR": array.transpose(1, 2, 0)[::-1],
        "oblique": array,
    }[orientation]


def oblique() -> np.ndarray:
    a, b = math.radians(20), math.radians(-15)
    about_z = [[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]]
    about_x = [[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]]
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(about_z) @ np.array(about_x) @ np.diag(SIZES)
    return matrix


AFFINES = {
    "RAS": affine((0, 1), (1, 1), (2, 1)),
    "LPS": affine((0, -1), (1, -1), (2, 1)),
    "PSR": affine((1, -1), (2, 1), (0, 1)),
    "oblique": oblique(),
}
#: Array axis and slice of each plane, as the file counts them.
WHERE = {
    "RAS": [(2, 2), (1, 3), (0, 1)],
    "LPS": [(2, 2), (1, 1), (0, 4)],
    "PSR": [(1, 2), (0, 1), (2, 1)],
    "oblique": [(2, 2), (1, 3), (0, 1)],
}


@pytest.mark.parametrize("orientation", list(AFFINES))
def test_planes_look_the_same_however_the_volume_is_stored(orientation: str) -> None:
    reference, volume = turn(OBJECT, orientation), turn(RAS, orientation)
    planes = standard_planes(AFFINES[orientation], reference)
    assert [plane.name for plane in planes] == ["axial", "coronal", "sagittal"]
    assert [plane.edges for plane in planes] == ["RLAP", "RLSI", "APSI"]
    assert [(plane.axis, plane.index) for plane in planes] == WHERE[orientation]
    assert [plane.size for plane in planes] == [4, 5, 6]
    expected = [(0.5, 1.5), (0.5, 4.0), (1.5, 4.0)]
    np.testing.assert_allclose([plane.spacing for plane in planes], expected)
    for plane, picture in zip(planes, PICTURES, strict=True):
        np.testing.assert_array_equal(plane.cut(volume), picture)
        np.testing.assert_array_equal(plane.cut(np.stack([volume, -volume])), [picture, -picture])


def test_a_cut_does_not_keep_the_volume() -> None:
    for plane in standard_planes(AFFINES["LPS"], turn(OBJECT, "LPS")):
        assert not np.shares_memory(plane.cut(RAS), RAS)


def test_select_slice() -> None:
    volume = np.zeros((4, 4, 5), int)
    volume[0, 0, 1] = 1
    volume[:2, 0, 3] = 2
    assert select_slice(volume) == 3
    volume[:, :, 4] = 3  # unlabeled voxels are not the object
    assert select_slice(volume, unlabeled=3) == 3
    empty = np.zeros((4, 4, 5), int)
    assert select_slice(empty, volume, unlabeled=3) == 3
    assert select_slice(empty) == 2
    assert select_slice(empty, empty) == 2
    # Along axis 0 the slices hold 1 + 1 and 1 voxels of classes 1 and 2; along axis 1 only the
    # first holds any, and unlabeled voxels are everywhere.
    assert select_slice(volume, unlabeled=3, axis=0) == 0
    assert select_slice(volume, unlabeled=3, axis=1) == 0
    assert select_slice(empty, axis=0) == 2
    with pytest.raises(ValueError, match=r"reference: expected the shape .* got \(4, 4\)"):
        select_slice(np.zeros((4, 4), int))


def test_channels_are_colors_in_pictures_alone() -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 1)).astype(np.uint8)
    for picture in (rgba[:3], rgba, rgba[:3, ..., 0], rgba[..., 0]):
        np.testing.assert_array_equal(shown_channels(picture), picture[:3])
    # One channel is gray; two are not colors; a volume's are contrasts.
    np.testing.assert_array_equal(shown_channels(rgba[:1]), rgba[0])
    np.testing.assert_allclose(shown_channels(rgba[:2]), rgba[:2].astype(float).mean(axis=0))
    volume = np.random.default_rng(1).normal(size=(3, 6, 5, 4))
    np.testing.assert_allclose(shown_channels(volume), volume.sum(axis=0) / 3)
