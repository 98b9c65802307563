"""The handlers that every training has."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mixseg.configuration.record import bundle_facts
from mixseg.configuration.settings import run_settings
from mixseg.configuration.workflow import reads_entries
from mixseg.data import Datalist, data_hash
from mixseg.handlers.checkpoint import FullCheckpoint
from mixseg.handlers.evaluation_report import EvaluationReport
from mixseg.handlers.history import History
from mixseg.handlers.progress import ProgressBar
from mixseg.handlers.ramps import WeightRamps
from mixseg.handlers.scoring import CaseScorer
from mixseg.handlers.validation import Validation
from mixseg.handlers.weights import InitialWeights, LoadWeights

logger = logging.getLogger(__name__)


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


@reads_entries(
    output_dir="output_dir",
    evaluator="validate#evaluator",
    key_metric="validate#key_metric",
    ckpt_dir="ckpt_dir",
    ramps="ramps",
    ramp_shape="ramp_shape",
    val_interval="val_interval",
    checkpoint_interval="checkpoint_interval",
    patience="patience",
    init_weights="init_weights",
    resume="resume",
    progress="progress",
)
def standard_handlers(
    *,
    output_dir: str | os.PathLike[str],
    objective: Any = None,
    evaluator: Any = None,
    scorer: Any = None,
    key_metric: str = "",
    ckpt_dir: str | os.PathLike[str] | None = None,
    ramps: Mapping[str, Any] | None = None,
    ramp_shape: str = "linear",
    val_interval: int = 1,
    checkpoint_interval: int = 1,
    patience: int = 0,
    init_weights: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = True,
    extra: Sequence[Any] = (),
    validate: bool = True,
) -> HandlerGroup:
    """Ramps, progress bar, validation, history and checkpoints, in the order that they need.

    In a bundle what is not given is the setting of the argument's name, where there is one, and
    ``validate#evaluator`` and ``validate#key_metric``.

    Args:
        output_dir: folder of the run.
        objective: the method, whose weights the ramps move; None for the trainer's.
        evaluator: the validator. Where its dataset holds no case, the training does not validate
            and keeps the latest weights.
        scorer: the validator's scorer, for the pictures; None for the one among its handlers.
        key_metric: metric that selects the weights, e.g. ``"val_dice_main"``.
        ckpt_dir: folder of ``model.pt``; None for ``output_dir/models``.
        ramps: see :class:`WeightRamps`.
        ramp_shape: see :class:`WeightRamps`.
        val_interval: epochs between two validations.
        checkpoint_interval: epochs between two full checkpoints.
        patience: epochs without a better validation after which training stops; 0 never stops it.
        init_weights: weights to start from, see :class:`InitialWeights`; None keeps those drawn.
        resume: continue from ``output_dir/checkpoint.pt`` where there is one.
        progress: show a progress bar.
        extra: further handlers, whose state becomes part of the checkpoints if they register it.
        validate: False trains without a validation and keeps the latest weights.

    Returns:
        Handlers for :class:`mixseg.engines.MixedSupervisionTrainer`.
    """
    # All of the validator's: a process' share of them may be empty.
    cases = getattr(getattr(evaluator, "data_loader", None), "dataset", None)
    if validate and cases is not None and not len(cases):
        logger.warning("no validation case: the last weights are kept")
        validate = False
    if not validate:
        evaluator = scorer = None
    elif scorer is None:
        own = getattr(evaluator, "handlers", ())
        scorer = next((handler for handler in own if isinstance(handler, CaseScorer)), None)
    ckpt_dir = Path(output_dir) / "models" if ckpt_dir is None else ckpt_dir
    handlers = [
        *([] if init_weights is None else [InitialWeights(init_weights)]),
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


@reads_entries(
    network="network",
    bundle_root="bundle_root",
    checkpoint="checkpoint",
    ckpt_dir="ckpt_dir",
    scorer="validate#scorer",
    output_dir="output_dir",
    seed="seed",
    datalist="datalist_content",
    surfaces="surfaces",
    progress="progress",
)
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
    dataset_dir: str | os.PathLike[str] | None = None,
    surfaces: bool | None = None,
    progress: bool = True,
) -> HandlerGroup:
    """Load trained weights, score every case, and write scores and pictures.

    In a bundle what is not given is the entry of the argument's name, ``validate#scorer`` and
    ``datalist_content``.

    Args:
        network: to load the weights into, strictly.
        bundle_root: see :func:`mixseg.handlers.find_weights`.
        checkpoint: see there.
        ckpt_dir: see there. Its default is ``output_dir/models``: where that holds no weights,
            those in ``models`` beside ``output_dir`` are taken (of a run inside whose folder the
            scores go), or else the bundle's.
        scorer: of the evaluator.
        output_dir: folder of ``metrics.csv``, ``summary.json`` and ``cases.png``.
        seed: of the training, for the record.
        datalist: of the data set, whose hash is recorded.
        dataset_dir: where its files are; None for where the datalist was looked for.
        surfaces: see :class:`EvaluationReport`.
        progress: show a progress bar.

    Returns:
        Handlers for :class:`mixseg.engines.MixedSupervisionEvaluator`.
    """
    output = Path(output_dir)
    if ckpt_dir is not None and Path(ckpt_dir) == output / "models":
        places = [output / "models", output.resolve().parent / "models"]
        ckpt_dir = next((place for place in places if (place / "model.pt").is_file()), None)
    settings = run_settings()
    handlers = [
        LoadWeights(network, bundle_root, checkpoint, ckpt_dir),
        ProgressBar(enabled=progress),
        scorer,
        EvaluationReport(
            output_dir,
            scorer,
            configuration=settings,
            seed=seed,
            data_hash=data_hash(datalist, dataset_dir),
            surfaces=surfaces,
            facts=bundle_facts(Path(bundle_root), settings),
            groups={
                entry.case_id: entry.groups
                for entry in (*datalist.validation, *datalist.test)
                if entry.groups
            },
        ),
    ]
    return HandlerGroup(handlers)


@reads_entries(
    network="network",
    bundle_root="bundle_root",
    checkpoint="checkpoint",
    exported="exported",
    progress="progress",
)
def inference_handlers(
    *,
    network: nn.Module,
    bundle_root: str | os.PathLike[str],
    checkpoint: str | os.PathLike[str] | None = None,
    exported: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> HandlerGroup:
    """Load trained weights and show a progress bar.

    In a bundle what is not given is the entry of the argument's name, where there is one.

    Args:
        network: to load the weights into, strictly.
        bundle_root: see :func:`mixseg.handlers.find_weights`.
        checkpoint: see there.
        exported: file of an exported network, which runs with weights of its own: none are loaded.
        progress: show a progress bar.

    Returns:
        Handlers for :class:`mixseg.engines.Predictor`.
    """
    loader = [LoadWeights(network, bundle_root, checkpoint)] if exported is None else []
    return HandlerGroup([*loader, ProgressBar(enabled=progress)])
