"""The weights that a bundle predicts with."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from monai.handlers import CheckpointLoader
from torch import nn

__all__ = ["LoadWeights", "find_weights"]

logger = logging.getLogger(__name__)

#: Where weights lie in a bundle's folder: those of its own training first, then those it came with.
PLACES = ("eval/models/model.pt", "models/model.pt")


def find_weights(
    bundle_root: str | os.PathLike[str], checkpoint: str | os.PathLike[str] | None = None
) -> Path:
    """The file of weights to predict with.

    Args:
        bundle_root: the bundle's folder.
        checkpoint: a file that is asked for; None looks for ``eval/models/model.pt``, which a
            training in the bundle's folder writes, then for ``models/model.pt``.

    Raises:
        ValueError: there is none; says how to get one.
    """
    root = Path(bundle_root)
    if checkpoint is not None:
        if not Path(checkpoint).is_file():
            raise ValueError(f"there is no '{checkpoint}': give the weights with --checkpoint")
        return Path(checkpoint)
    for place in PLACES:
        if (root / place).is_file():
            return root / place
    raise ValueError(
        f"'{root.resolve().name}' has no trained weights: train it in its folder with 'python -m "
        "monai.bundle run training --config_file configs/train.yaml --dataset_dir DATA', or use "
        "a bundle that comes with weights: acdc_mixed, acdc_lv_mixed, la_mixed or wbc_mixed"
    )


class LoadWeights(CheckpointLoader):
    """Load a bundle's weights strictly, on whatever device, and say which they are.

    Args:
        network: to load them into.
        bundle_root: see :func:`find_weights`.
        checkpoint: see :func:`find_weights`.

    Raises:
        ValueError: there are no weights.
    """

    def __init__(
        self,
        network: nn.Module,
        bundle_root: str | os.PathLike[str],
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
        path = find_weights(bundle_root, checkpoint)
        logger.info("weights: %s", path)
        super().__init__(str(path), {"model": network}, map_location="cpu", strict=True)
