"""Draw the figure of docs/augmentation.md: a slice of the phantom under six draws.

python docs/tools/draw_augmentation.py        # writes docs/figures/augmentation.png
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from monai.transforms import NormalizeIntensity, ResizeWithPadOrCrop

from mixseg.data.phantom import phantom_patient
from mixseg.transforms import BatchAugmentation

FIGURE = Path(__file__).resolve().parents[1] / "figures" / "augmentation.png"
DRAWS = 6
CLASSES = 4
COLORS = {1: "#56B4E9", 2: "#E69F00", 3: "#D55E00"}  # RV, myocardium, LV


def main() -> None:
    _, frames = phantom_patient(4)
    _, image, label = next(frames)
    middle = image.shape[2] // 2
    crop = ResizeWithPadOrCrop((112, 112))
    slices = NormalizeIntensity()(crop(image[None, ..., middle].astype(np.float32)))
    batch = {
        "image": torch.as_tensor(slices)[None].repeat(DRAWS, 1, 1, 1),
        "label": torch.as_tensor(crop(label[None, ..., middle]))[None].repeat(DRAWS, 1, 1, 1),
    }
    out = BatchAugmentation(spatial_dims=2, num_classes=CLASSES, seed=1)(batch)
    images = torch.cat([batch["image"][:1], out["image"]])[:, 0]
    labels = torch.cat([batch["label"][:1], out["label"]])[:, 0]

    figure = Figure(figsize=(12, 2.1), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 1 + DRAWS)
    titles = ["slice", *[f"draw {i + 1}" for i in range(DRAWS)]]
    for axes, picture, classes, title in zip(panels, images, labels, titles, strict=True):
        axes.imshow(picture, cmap="gray", vmin=-1.5, vmax=3.5)
        outside = np.ma.masked_where(classes != CLASSES, np.ones_like(classes))
        axes.imshow(outside, cmap="Blues", vmin=0, vmax=1.2, alpha=0.45, interpolation="nearest")
        for value, color in COLORS.items():
            if (classes == value).any():
                axes.contour(classes == value, levels=[0.5], colors=color, linewidths=1)
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
    figure.savefig(FIGURE, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
