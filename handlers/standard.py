"""The handlers that every training has."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mixseg.configuration.settings import run_settings
from mixseg.data import Datalist, data_hash
from mixseg.handlers.checkpoint import FullCheckpoint
from mixseg.handlers.evaluation_report import EvaluationReport
from mixseg.handlers.history import History
from mixseg.handlers.progress import ProgressBar
from mixseg.handlers.ramps import WeightRamps
from mixseg.handlers.scoring import CaseScorer
from mixseg.handlers.validation import Validation
from mixseg.handlers.weights import LoadWeights

__all__ = ["HandlerGroup", "evaluation_handlers", "standard_handlers"]


class HandlerGroup:
    """Handlers that are attached one after the other, as one entry of a bundle's list of handlers.

    Args:
        handlers: each with ``attach``.
    """

    def __init__(self, handlers: Sequence[Any]) -> None:
        self.handlers = list(handlers)

    def attach(self, engine: Any) -> None:
        """Attach each of them."""
        for handler in self.handlers:
            handler.attach(engine)


def standard_handlers(
    *,
    objective: Any,
    output_dir: str | os.PathLike[str],
    evaluator: Any = None,
    scorer: Any = None,
    key_metric: str = "",
    ckpt_dir: str | os.PathLike[str] | None = None,
    ramps: Mapping[str, Any] | None = None,
    ramp_shape: str = "linear",
    val_interval: int = 1,
    checkpoint_interval: int = 1,
    patience: int = 0,
    resume: bool = False,
    progress: bool = True,
    extra: Sequence[Any] = (),
    validate: bool = True,
) -> HandlerGroup:
    """Ramps, progress bar, validation, history and checkpoints, in the order that they need.

    Args:
        objective: the method, whose weights the ramps move.
        output_dir: folder of the run.
        evaluator: the validator.
        scorer: the validator's scorer, for the pictures.
        key_metric: metric that selects the weights, e.g. ``"val_dice_main"``.
        ckpt_dir: folder of ``model.pt``; None for ``output_dir/models``.
        ramps: see :class:`WeightRamps`.
        ramp_shape: see :class:`WeightRamps`.
        val_interval: epochs between two validations.
        checkpoint_interval: epochs between two full checkpoints.
        patience: epochs without a better validation after which training stops; 0 never stops it.
        resume: continue from ``output_dir/checkpoint.pt`` where there is one.
        progress: show a progress bar.
        extra: further handlers, whose state becomes part of the checkpoints if they register it.
        validate: False trains without a validation and keeps the latest weights.

    Returns:
        Handlers for :class:`mixseg.engines.MixedSupervisionTrainer`.
    """
    if not validate:
        evaluator = scorer = None
    ckpt_dir = Path(output_dir) / "models" if ckpt_dir is None else ckpt_dir
    handlers = [
        WeightRamps(objective, ramps or {}, ramp_shape),
        ProgressBar(evaluator=evaluator, key=key_metric, enabled=progress),
        *([Validation(evaluator, val_interval)] if validate else []),
        History(output_dir, evaluator=evaluator, scorer=scorer),
        *extra,
        FullCheckpoint(
            output_dir,
            ckpt_dir,
            evaluator=evaluator,
            key=key_metric,
            interval=checkpoint_interval,
            patience=patience,
            resume=resume,
        ),
    ]
    return HandlerGroup(handlers)


def evaluation_handlers(
    *,
    network: nn.Module,
    bundle_root: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | None = None,
    ckpt_dir: str | os.PathLike[str] | None = None,
    scorer: CaseScorer,
    output_dir: str | os.PathLike[str],
    seed: int,
    datalist: Datalist,
    dataset_dir: str | os.PathLike[str],
    surfaces: bool | None = None,
    progress: bool = True,
) -> HandlerGroup:
    """Load trained weights, score every case, and write scores and pictures.

    Args:
        network: to load the weights into, strictly.
        bundle_root: see :func:`mixseg.handlers.find_weights`.
        checkpoint: see there.
        ckpt_dir: see there; ``output_dir/models``, where a run has its weights, is passed over if
            it holds none, so that scores can be written to another folder than the run's.
        scorer: of the evaluator.
        output_dir: folder of ``metrics.csv``, ``summary.json`` and ``cases.png``.
        seed: of the training, for the record.
        datalist: of the data set, whose hash is recorded.
        dataset_dir: where its files are.
        surfaces: see :class:`EvaluationReport`.
        progress: show a progress bar.

    Returns:
        Handlers for :class:`mixseg.engines.MixedSupervisionEvaluator`.
    """
    own = Path(output_dir) / "models"
    if ckpt_dir is not None and Path(ckpt_dir) == own and not (own / "model.pt").is_file():
        ckpt_dir = None
    handlers = [
        LoadWeights(network, bundle_root, checkpoint, ckpt_dir),
        ProgressBar(enabled=progress),
        scorer,
        EvaluationReport(
            output_dir,
            scorer,
            configuration=run_settings(),
            seed=seed,
            data_hash=data_hash(datalist, dataset_dir),
            surfaces=surfaces,
        ),
    ]
    return HandlerGroup(handlers)
