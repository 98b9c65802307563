"""The weights that a bundle predicts with."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine
from monai.handlers import CheckpointLoader
from torch import Tensor, nn

from mixseg.configuration.loading import load
from mixseg.configuration.record import is_run
from mixseg.configuration.settings import written_settings
from mixseg.files.weights import read_weights
from mixseg.networks.dual_branch.base import present_names

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
    """Load a bundle's weights strictly, whatever device wrote them, and say which they are.

    The file is read by :func:`mixseg.files.read_weights`: a state dict, or the full state of a
    training.

    Where they are those of a run whose recorded settings differ from the ones here, a warning names
    the settings, and the run's own configuration.

    Args:
        network: to load them into; the other arguments are those of :func:`find_weights`.

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


class InitialWeights:
    """Start a training from trained weights (fine-tuning), on whatever device.

    Everything must fit the network strictly, but for its head: where the weights are of another
    number of classes, the last layer of each branch keeps its drawn values, and a warning names it.
    A resumed training continues from its checkpoint all the same.

    Args:
        source: folder of a run or of a bundle, see :func:`find_weights`; or a file of weights.

    Raises:
        ValueError: there are no weights, they cannot be read, or they are of another network.
    """

    def __init__(self, source: str | os.PathLike[str]) -> None:
        self.path = Path(source)
        if not self.path.exists():
            raise ValueError(
                f"init_weights: there is no '{source}': give a run, a bundle or a file of weights"
            )
        if self.path.is_dir():
            self.path = find_weights(self.path)

    def attach(self, engine: Any) -> None:
        """Load them when ``engine``, a trainer, is run."""
        engine.before_run.append(self)

    def __call__(self, engine: Any) -> None:
        """Load them into the trained network; averages of it begin with its first update."""
        network = engine.network
        weights = present_names(network, read_weights(self.path))
        head = _other_head(network, weights, self.path)
        network.load_state_dict(
            {name: value for name, value in weights.items() if name not in head}, strict=not head
        )
        logger.info("starting from the weights %s", self.path)
        if head:
            name, *_ = head
            logger.warning(
                "%s is of %d classes, this network of %d: %s keep their drawn values and are "
                "learned anew",
                self.path,
                len(weights[name]),
                len(network.state_dict()[name]),
                ", ".join(head),
            )


def _other_head(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> list[str]:
    """Tensors of the head where it is of another number of classes.

    Raises:
        ValueError: the weights do not fit in any other way; names what does not.
    """
    own = network.state_dict()
    other = [n for n in own if n in weights and weights[n].shape != own[n].shape]
    counts = {(weights[n].shape[:1], own[n].shape[:1]) for n in other}
    faults = [
        *(f"it lacks {name}" for name in own if name not in weights),
        *(f"the network has no {name}" for name in weights if name not in own),
    ]
    if len(counts) > 1 or any(weights[n].shape[1:] != own[n].shape[1:] for n in other):
        faults += [
            f"{n} is {tuple(weights[n].shape)} instead of {tuple(own[n].shape)}" for n in other
        ]
    if faults:
        more = f" and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise ValueError(
            f"init_weights: '{path}' is of another network: {'; '.join(faults[:4])}{more}. Train "
            "with the network's settings (features, norm, in_channels …) that it was trained with"
        )
    return other
