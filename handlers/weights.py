"""The weights that a bundle predicts with."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from monai.handlers import CheckpointLoader
from torch import nn

__all__ = ["LoadWeights", "find_weights"]

logger = logging.getLogger(__name__)

#: Weights in a bundle's folder: those of a training there, then those that it came with.
PLACES = ("eval/models/model.pt", "models/model.pt")


def find_weights(
    bundle_root: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | None = None,
    ckpt_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """The file of weights to predict with.

    Args:
        bundle_root: the bundle's folder.
        checkpoint: a file that is asked for; None looks for ``eval/models/model.pt``, which a
            training in the bundle's folder writes, then for ``models/model.pt``, which the bundle
            came with.
        ckpt_dir: another folder with a training's ``model.pt``, the only place to look then; None
            and the folders of these two files are the same.

    Raises:
        ValueError: there is none; says how to get one.
    """
    root = Path(bundle_root)
    if checkpoint is not None:
        if not Path(checkpoint).is_file():
            raise ValueError(f"there is no '{checkpoint}': give the weights with --checkpoint")
        return Path(checkpoint)
    places = [root / place for place in PLACES]
    if ckpt_dir is not None:
        other = Path(ckpt_dir) / places[0].name
        if other.resolve() not in [path.resolve() for path in places]:
            if other.is_file():
                return other
            raise ValueError(
                f"there is no '{other}': give the folder that a training wrote to with "
                "--ckpt_dir, or a file of weights with --checkpoint"
            )
    for path in places:
        if path.is_file():
            return path
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
        ckpt_dir: see :func:`find_weights`.

    Raises:
        ValueError: there are no weights.
    """

    def __init__(
        self,
        network: nn.Module,
        bundle_root: str | os.PathLike[str],
        checkpoint: str | os.PathLike[str] | None = None,
        ckpt_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        path = find_weights(bundle_root, checkpoint, ckpt_dir)
        logger.info("weights: %s", path)
        super().__init__(str(path), {"model": network}, map_location="cpu", strict=True)
