"""What the preview of a prediction shows: the picture's colors, or a volume's gray values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from mixseg.apps.predict import preview as predict_preview
from mixseg.apps.predict.images import InputCase
from mixseg.apps.predict.pipeline import Prediction
from mixseg.report.cases import CasePanel


@pytest.fixture
def panels(monkeypatch: pytest.MonkeyPatch) -> list[CasePanel]:
    """The rows that would be drawn."""
    drawn: list[CasePanel] = []
    monkeypatch.setattr(predict_preview, "plot_cases", lambda rows, *rest: drawn.extend(rows))
    return drawn


def preview(image: Path, mask: np.ndarray, planes: bool = False) -> None:
    meta: dict[str, Any] = {"affine": np.eye(4)}
    prediction = Prediction(mask, None, meta, None, False, ())
    case = InputCase(image, "one")
    predict_preview.plot_prediction(case, prediction, None, image, ["background", "a"], planes)


@pytest.mark.parametrize("shape", [(24, 20), (24, 20, 1)])
@pytest.mark.parametrize("opacity", [False, True])
def test_pictures_keep_their_colors(
    tmp_path: Path, panels: list[CasePanel], shape: tuple[int, ...], opacity: bool
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3 + opacity)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    mask = np.zeros(shape, np.uint8)
    mask[3, 5] = 1
    preview(tmp_path / "one.png", mask)
    (panel,) = panels
    # Rows, columns, colors of the file are axes 2, 1 and 0 of the panel.
    np.testing.assert_array_equal(panel.image, pixels[..., :3].transpose(2, 1, 0))
    np.testing.assert_array_equal(panel.main, mask.reshape(24, 20))


def test_gray_pictures_stay_flat(tmp_path: Path, panels: list[CasePanel]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    preview(tmp_path / "one.png", np.zeros((24, 20, 1), np.uint8))
    np.testing.assert_array_equal(panels[0].image, pixels.T)


@pytest.mark.parametrize("planes", [False, True])
def test_volumes_show_the_mean_of_their_contrasts(
    tmp_path: Path, panels: list[CasePanel], planes: bool
) -> None:
    values = np.random.default_rng(0).normal(size=(7, 6, 5, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "one.nii.gz")
    mask = np.zeros((7, 6, 5), np.uint8)
    mask[2, 3, 1] = 1
    preview(tmp_path / "one.nii.gz", mask, planes)
    mean = values.astype(np.float64).sum(axis=-1) / 3
    # The axial plane of a volume in RAS shows R and A at the left and the top.
    expected = mean[::-1, ::-1, 1] if planes else mean[..., 1]
    np.testing.assert_allclose(panels[0].image, expected, rtol=1e-5, atol=1e-6)
    assert len(panels) == (3 if planes else 1)
