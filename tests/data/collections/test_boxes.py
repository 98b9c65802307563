"""Boxes in mm on grids of any orientation."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from mixseg.data.collections.boxes import Box, box_slices, mask_box
from mixseg.files.reading import Volume


@pytest.mark.parametrize("codes", ["LPS", "RAS", "RPS", "PLS", "SAR"])
def test_any_storage_order_cuts_the_same_place(codes: str) -> None:
    """An asymmetric box cuts the same voxels of the body, however they are stored."""
    affine = np.diag([0.5, 1.0, 2.0, 1.0])
    affine[:3, 3] = [3, -4, 5]
    array = np.arange(12 * 10 * 5).reshape(12, 10, 5)
    # Centers along x run from −2.75 to 2.75 mm: −1.25 … 2.25 are indices 3 … 10; y in steps of 1.
    box = Box(right=(-1.3, 2.4), anterior=(-4.5, 0.6))
    expected = array[3:11, 0:6, :]
    image = nib.Nifti1Image(array.astype(np.int16), affine)
    target = nib.orientations.axcodes2ornt(codes)
    stored = image.as_reoriented(
        nib.orientations.ornt_transform(nib.orientations.io_orientation(affine), target)
    )
    part = box_slices(stored.shape, stored.affine, box)
    cut = stored.slicer[part]
    back = cut.as_reoriented(
        nib.orientations.ornt_transform(
            nib.orientations.io_orientation(cut.affine), nib.orientations.axcodes2ornt("RAS")
        )
    )
    np.testing.assert_array_equal(back.dataobj, expected)
    np.testing.assert_allclose(back.affine[:3, 3], affine[:3, 3] + [1.5, 0, 0])


def test_box_of_masks_is_their_union_about_the_center_and_a_margin() -> None:
    lps = np.diag([-0.5, -0.5, 1.0, 1.0])
    first, second = np.zeros((20, 20, 4), np.uint8), np.zeros((30, 20, 4), np.uint8)
    first[4:8, 10:12, 1] = 255
    second[16:21, 9, 2] = 255
    masks = [Volume(m.shape, lps, m) for m in (first, second)]
    box = mask_box(masks, margin=1.0)
    # Positions to the right are −0.5 (i − c), c = 9.5 and 14.5: first 2.75 … 1.25, second
    # −0.75 … −2.75; anterior −0.5 (j − 9.5): first −0.25 … −0.75, second 0.25.
    assert box == Box(right=(-3.75, 3.75), anterior=(-1.75, 1.25))
    assert mask_box([Volume((4, 4, 4), lps, np.zeros((4, 4, 4)))], 1.0) is None


def test_a_box_beside_the_scan() -> None:
    with pytest.raises(ValueError, match="no voxel of the scan lies inside the crop"):
        box_slices((4, 4, 4), np.eye(4), Box((5.0, 9.0), (-1.0, 1.0)))
