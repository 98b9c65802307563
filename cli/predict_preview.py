"""The picture of one prediction: image, mask and entropy, in the planes that suit the bundle."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixseg.cli.predict_cases import InputCase
from mixseg.cli.predict_pipeline import Prediction
from mixseg.files.reading import open_volume
from mixseg.report.cases import CasePanel, plot_cases
from mixseg.report.planes import select_slice, shown_channels, standard_planes

__all__ = ["plot_prediction"]

_HEADINGS = {"image": "Image", "student": "Prediction", "entropy": "Entropy"}


def plot_prediction(
    case: InputCase,
    prediction: Prediction,
    entropy: NDArray[np.float32] | None,
    path: Path,
    class_names: Sequence[str],
    planes: bool,
) -> None:
    """Draw one case.

    Args:
        case: the image, which is read again.
        prediction: its mask.
        entropy: (*spatial) in [0, 1]; None leaves the cell out.
        path: PNG file to write.
        class_names: names of all classes, background first.
        planes: an axial, a coronal and a sagittal cut of a volume, instead of the slice along the
            last axis that shows most of the mask.
    """
    mask = prediction.mask
    data: Any = open_volume(case.image).data
    # Channels, where there are some, are last in every format; a picture's mask has one slice.
    image = shown_channels(np.moveaxis(data.reshape(*mask.shape, -1), -1, 0))
    nats = math.log(len(class_names))

    def panel(cut: Callable[[Any], NDArray[Any]], **options: Any) -> CasePanel:
        certain = None if entropy is None else cut(entropy) * nats
        return CasePanel(case.case_id, cut(image), student=cut(mask), entropy=certain, **options)

    if mask.ndim == 2:
        panels = [panel(np.asarray)]
    elif planes:
        panels = [
            panel(
                plane.cut,
                spacing=plane.spacing,
                view=f"{plane.name}\nslice {plane.index + 1} of {plane.size}",
                edges=plane.edges,
            )
            for plane in standard_planes(prediction.meta["affine"], mask)
        ]
    else:
        where = select_slice(mask)
        panels = [
            panel(
                lambda volume: volume[..., where],
                view=f"slice {where + 1} of {mask.shape[2]}",
                spacing=prediction.spacing[:2] if prediction.spacing else (1.0, 1.0),
            )
        ]
    headings = dict(_HEADINGS)
    if entropy is None:
        del headings["entropy"]
    plot_cases(panels, path, class_names, headings)
