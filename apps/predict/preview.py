"""The picture of one prediction: image, mask and entropy, in the planes that suit the bundle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixseg.apps.predict.images import InputCase
from mixseg.apps.predict.pipeline import Prediction
from mixseg.files.reading import open_volume
from mixseg.report.cases import cut_panels, plot_cases

_HEADINGS = {"image": "Image", "main": "Prediction", "entropy": "Entropy"}


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
        entropy: (*spatial) in [0, 1]; None leaves the cell out.
        planes: an axial, a coronal and a sagittal cut of a volume, instead of the slice along the
            last axis that shows most of the mask.
    """
    mask = prediction.mask
    data: Any = open_volume(case.source).data
    # Channels, where there are some, are last in every format; a picture's mask has one slice.
    image = np.moveaxis(data.reshape(*mask.shape, -1), -1, 0)
    along = prediction.spacing or (1.0, 1.0)
    panels = cut_panels(
        case.case_id,
        image,
        branches={"main": mask},
        entropy=None if entropy is None else entropy * math.log(len(class_names)),
        affine=prediction.meta["affine"] if planes and mask.ndim == 3 else None,
        spacing=(along[0], along[1]),
    )
    headings = dict(_HEADINGS)
    if entropy is None:
        del headings["entropy"]
    plot_cases(panels, path, class_names, headings)
