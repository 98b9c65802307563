"""The weights that a bundle predicts with."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from monai.handlers import CheckpointLoader
from torch import nn

__all__ = ["LoadWeights", "find_weights"]

logger = logging.getLogger(__name__)


def find_weights(
    bundle_root: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | None = None,
    ckpt_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """The file of weights to predict with.

    Args:
        bundle_root: the bundle's folder.
        checkpoint: a file that is asked for; None looks for ``model.pt`` in ``ckpt_dir``, then for
            the weights that the bundle came with, ``models/model.pt`` in its folder.
        ckpt_dir: where a training left its weights; None for ``eval/models`` in the bundle's
            folder. Another folder is the only one to be looked into.

    Raises:
        ValueError: there is none; says how to get one.
    """
    root = Path(bundle_root)
    if checkpoint is not None:
        if not Path(checkpoint).is_file():
            raise ValueError(f"there is no '{checkpoint}': give the weights with --checkpoint")
        return Path(checkpoint)
    own = root / "eval" / "models"
    places = [own, root / "models"]
    if ckpt_dir is not None and Path(ckpt_dir).resolve() != own.resolve():
        places = [Path(ckpt_dir)]
    for path in (place / "model.pt" for place in places):
        if path.is_file():
            return path
    if places[0] != own:
        raise ValueError(
            f"there is no '{places[0] / 'model.pt'}': give the folder that a training wrote to "
            "with --ckpt_dir, or a file of weights with --checkpoint"
        )
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
