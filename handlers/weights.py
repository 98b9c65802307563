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
from mixseg.configuration.settings import written_settings
from mixseg.files.weights import read_weights

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
    """Load a bundle's weights strictly, whatever device wrote them, and say which they are.

    The file is read by :func:`mixseg.files.read_weights`: a state dict, or the full state of a
    training.

    Where they are those of a run whose recorded settings differ from the ones here, a warning names
    the settings, and the run's own configuration.

    Args:
        network: to load them into.
        bundle_root: see :func:`find_weights`.
        checkpoint: see :func:`find_weights`.
        ckpt_dir: see :func:`find_weights`.

    Raises:
        ValueError: there are no weights; or, when the engine starts, they cannot be read, hold
            values that are not finite, or do not fit the network.
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
        self.network = network
        self._run = path.resolve().parents[1]
        if is_run(self._run) and self._run != Path(bundle_root).resolve():
            self._compare(load(self._run / "configs" / "train.yaml"))
        super().__init__(str(path), {"model": network}, map_location="cpu", strict=True)

    def __call__(self, engine: Engine) -> None:
        """Load the weights when ``engine`` starts."""
        try:
            self.network.load_state_dict(read_weights(self.load_path))
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines()]
            advice = (
                f"Use the configuration in '{self._run / 'configs'}'"
                if is_run(self._run)
                else "Give the settings that they were trained with, such as --features"
            )
            raise ValueError(
                f"the weights '{self.load_path}' do not fit the network: {' '.join(lines[:2])} "
                f"{advice}"
            ) from error

    def _compare(self, recorded: Mapping[str, Any]) -> None:
        present = written_settings()
        other = [f"{k} ({recorded[k]})" for k, v in present.items() if recorded.get(k, v) != v]
        if other:
            logger.warning(
                "the weights are of a run with other settings: %s; its own configuration is in %s",
                ", ".join(other),
                self._run / "configs",
            )
