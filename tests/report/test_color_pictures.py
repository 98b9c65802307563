"""Color pictures from their files through windows to scores per class and pictures of cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.inferers import SliceInferer
from monai.transforms import CastToTyped, Compose, CopyItemsd, Invertd, LoadImaged, Resized
from PIL import Image
from torch import Tensor

from mixseg.handlers import CaseScorer
from mixseg.transforms import AddDepthd, RescaleIntensityd

CLASSES = ["background", "cytoplasm", "nucleus"]
#: Color of each class in the pictures.
COLORS = np.array([[230, 190, 200], [190, 170, 210], [110, 60, 150]], np.uint8)


def by_color(windows: Tensor) -> Tensor:
    """A network that knows the colors: minus the distance to each class's, times 50."""
    known = torch.as_tensor(COLORS / 255.0, dtype=windows.dtype)
    return -50 * (windows[:, None] - known[None, :, :, None, None]).norm(dim=2)


@pytest.fixture
def item(tmp_path: Path) -> dict[str, Any]:
    """A picture of 12 columns and 8 rows; the reference has one row of the nucleus more."""
    mask = np.zeros((8, 12), np.uint8)
    mask[1:7, 2:10] = 1
    mask[3:5, 4:8] = 2
    Image.fromarray(COLORS[mask]).save(tmp_path / "cell.bmp")
    mask[5, 4:8] = 2
    Image.fromarray(mask).save(tmp_path / "cell.png")
    return {
        "image": str(tmp_path / "cell.bmp"),
        "label": str(tmp_path / "cell.png"),
        "case_id": "cell",
    }


@pytest.mark.parametrize("window", [(12, 8), (5, 4)])  # the picture as a whole, and in windows
def test_a_color_picture_is_scored_by_class_and_shown_in_color(
    item: dict[str, Any], window: tuple[int, int]
) -> None:
    load = Compose(
        [
            LoadImaged(["image", "label"], ensure_channel_first=True),
            AddDepthd(["image", "label"]),
            CastToTyped("label", np.uint8),
            CopyItemsd("image", names="native"),
            # Sizes twice as large, without new colors: the masks come back as they were.
            Resized("image", (24, 16, -1), mode="nearest"),
            RescaleIntensityd("image", rule="fixed", clip=(0, 255), mean=0.0, sd=255.0),
        ]
    )
    loaded = load(item)
    assert tuple(loaded["image"].shape) == (3, 24, 16, 1)
    size = (2 * window[0], 2 * window[1])
    inferer = SliceInferer(roi_size=size, spatial_dim=2, overlap=0.25)
    logits = inferer(loaded["image"][None], by_color)[0]
    assert tuple(logits.shape) == (3, 24, 16, 1)
    loaded["student"] = logits.softmax(dim=0)
    back = Invertd("student", transform=load, orig_keys="image", nearest_interp=False)(loaded)
    assert tuple(back["student"].shape) == (3, 12, 8, 1)

    scorer = CaseScorer(CLASSES)
    engine = Engine(lambda engine, batch: [{"student": back["student"]}])
    engine.data_loader = [[loaded]]  # type: ignore[attr-defined]
    scorer.attach(engine)
    engine.run(engine.data_loader)  # type: ignore[attr-defined]
    cytoplasm, nucleus = scorer.rows
    # Cytoplasm: 48 pixels less 8 of nucleus are predicted, 4 fewer are true; nucleus: 8 of 12.
    assert (cytoplasm.prediction_voxels, cytoplasm.reference_voxels) == (40, 36)
    assert (cytoplasm.iou, cytoplasm.precision, cytoplasm.recall) == (36 / 40, 36 / 40, 1.0)
    assert (nucleus.iou, nucleus.precision, nucleus.recall) == (8 / 12, 1.0, 8 / 12)
    assert nucleus.dice == pytest.approx(2 * 8 / (8 + 12))
    assert nucleus.hd95_mm is None  # a picture does not say how large a pixel is

    (panel,) = scorer.panels
    pixels = np.asarray(Image.open(item["image"]))  # (rows, columns, colors)
    np.testing.assert_array_equal(panel.image, pixels.transpose(2, 1, 0))
    assert panel.student is not None
    np.testing.assert_array_equal(panel.student == 2, panel.image[0] == 110)
