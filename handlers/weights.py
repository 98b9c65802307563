"""The weights that a bundle predicts with."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine
from monai.handlers import CheckpointLoader
from torch import nn

from mixseg.configuration.loading import load
from mixseg.configuration.record import is_run
from mixseg.configuration.settings import run_settings

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
        "a bundle that comes with weights: acdc_mixed, acdc_lv_mixed or la_mixed"
    )


class LoadWeights(CheckpointLoader):
    """Load a bundle's weights strictly, on whatever device, and say which they are.

    Where they are those of a run whose recorded settings differ from the ones here, a warning names
    the settings, and the run's own configuration.

    Args:
        network: to load them into.
        bundle_root: see :func:`find_weights`.
        checkpoint: see :func:`find_weights`.
        ckpt_dir: see :func:`find_weights`.

    Raises:
        ValueError: there are no weights; when they are loaded, those of a run do not fit.
        RuntimeError: when they are loaded, other weights do not fit.
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
        self._run = path.resolve().parents[1]
        if is_run(self._run) and self._run != Path(bundle_root).resolve():
            self._compare(load(self._run / "configs" / "train.yaml"))
        super().__init__(str(path), {"model": network}, map_location="cpu", strict=True)

    def __call__(self, engine: Engine) -> None:
        """Load the weights when ``engine`` starts."""
        try:
            super().__call__(engine)
        except RuntimeError as error:
            if "state_dict" not in str(error) or not is_run(self._run):
                raise
            raise ValueError(
                f"the weights '{self.load_path}' do not fit the network: use their run's own "
                f"configuration, in '{self._run / 'configs'}'"
            ) from error

    def _compare(self, recorded: Mapping[str, Any]) -> None:
        present = run_settings()
        other = [f"{k} ({recorded[k]})" for k, v in present.items() if recorded.get(k, v) != v]
        if other:
            logger.warning(
                "the weights are of a run with other settings: %s; its own configuration is in %s",
                ", ".join(other),
                self._run / "configs",
            )
