"""One training out of the app: the bundle's own train.yaml on what annotators submitted."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow

from mixseg.apps.label.access import check_device, check_settings
from mixseg.apps.label.labels import Submitted, write_submitted
from mixseg.apps.label.model import model_classes
from mixseg.apps.label.studies import fingerprint, read_label_store
from mixseg.configuration.loading import cause_of, load
from mixseg.files.atomic import strict_json, write_text_atomic
from mixseg.files.lock import claim

logger = logging.getLogger(__name__)

STATUS_NAME = "status.json"
_REQUEST = "request.json"
#: Seconds that a training waits for the one of a killed server to end.
_PATIENCE = 60.0


@dataclass(frozen=True)
class TrainSettings:
    """Settings of a request.

    Attributes:
        max_epochs: epochs of the training, those before a resume included.
        val_split: share of the complete cases that validate.
        pretrained: begin with the model's weights of now, else with random ones.
        resume: resume a training that was interrupted, where no label has changed since.
        settings: numbers for settings of train.yaml, see
            :func:`mixseg.apps.label.access.check_settings`.
    """

    max_epochs: int
    val_split: float = 0.2
    pretrained: bool = True
    resume: bool = True
    device: str = "cpu"
    settings: dict[str, Any] = field(default_factory=dict)


def settings_of(request: Mapping[str, Any], train: Mapping[str, Any], device: str) -> TrainSettings:
    """The settings of a request; what it does not say is the bundle's.

    Clients also send options that only other trainers know (``multi_gpu``, ``run_id``, which 3D
    Slicer sends empty, and more): these are left aside.

    Args:
        device: where to train unless the request says it.

    Raises:
        ValueError: an option of a value that cannot be meant, or a setting that a request cannot
            give.
    """
    epochs = request.get("max_epochs", default_epochs(train))
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"max_epochs is {epochs!r}; it is a whole number from 1 on")
    own = {"bundle_root", "dataset_dir", "datalist", "output_dir", "ckpt_dir", "device"}
    own |= {"max_epochs", "resume", "num_full", "num_partial", "progress"}
    settings = check_settings({k: v for k, v in request.items() if k not in own}, train)
    try:
        val_split = float(request.get("val_split", 0.2))
    except (TypeError, ValueError) as error:
        raise ValueError(f"val_split is {request['val_split']!r}; it is a number") from error
    return TrainSettings(
        max_epochs=epochs,
        val_split=val_split,
        pretrained=_switch(request.get("pretrained", True)),
        resume=_switch(request.get("resume", True)),
        device=check_device(device),
        settings=settings,
    )


def default_epochs(train: Mapping[str, Any]) -> int:
    """Epochs of a training unless a request says it: MONAI Label's 50, or fewer."""
    return min(int(train["max_epochs"]), 50)


def train_model(
    folder: Path, studies: str | os.PathLike[str], settings: TrainSettings, patient_pattern: str
) -> Path:
    """Train the model in ``folder`` on what was submitted to ``studies``.

    Each training has a folder of its own, ``folder/training/<number>``, with the labels as they
    were when it began, its datalist, full-state checkpoint, curves and pictures.
    ``folder/models/model.pt`` becomes the best weights on the complete cases kept for validation;
    where there are none to keep, the latest ones after every epoch. Weights that do not load into
    the network that predicts never get there.

    Returns:
        The training's folder.

    Raises:
        ValueError: what was submitted cannot be trained on, and names the files; or another
            training of this model runs.
    """
    trainings = folder / "training"
    with claim(trainings, "the server (--work)", _PATIENCE):
        return _train(folder, trainings, studies, settings, patient_pattern)


def read_status(folder: Path) -> dict[str, Any]:
    """How far the latest training of the model in ``folder`` is; empty before the first one.

    The content of :class:`mixseg.apps.label.status.TrainingStatus`'s file, with ``status``
    ``running``, ``done``, ``failed``, or ``interrupted`` where its process is gone.
    """
    latest = _latest(folder / "training")
    if latest is None:
        return {}
    try:
        status: dict[str, Any] = json.loads((latest / STATUS_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if status["status"] == "running" and not _is_held(folder / "training"):
        status["status"] = "interrupted"
    return status


def _train(
    folder: Path,
    trainings: Path,
    studies: str | os.PathLike[str],
    settings: TrainSettings,
    patient_pattern: str,
) -> Path:
    scans = read_label_store(studies)
    labels = fingerprint(scans)
    run = _unfinished(trainings, labels, settings) if settings.resume else None
    resuming = run is not None
    run = run or _new_run(trainings)
    status = {"epoch": 0, "total_epochs": settings.max_epochs, "best_metric": 0.0}
    try:
        if resuming:
            logger.info("resuming the interrupted training in %s", run)
        else:
            _write(run / STATUS_NAME, {"status": "running", **status})
            submitted = write_submitted(
                scans,
                model_classes(folder),
                run,
                val_split=settings.val_split,
                patient_pattern=patient_pattern,
            )
            _explain(submitted)
            request = {"labels": labels, "settings": asdict(settings)}
            _write(run / _REQUEST, {**request, "validation": len(submitted.validation)})
        _run_bundle(folder, run, settings, resuming)
    except Exception as error:
        # MONAI wraps the cause, which is what the last lines of the server's log should say.
        cause = cause_of(error)
        _write(run / STATUS_NAME, {"status": "failed", **status, "error": str(cause)})
        raise cause from error
    return run


def _run_bundle(folder: Path, run: Path, settings: TrainSettings, resuming: bool) -> None:
    configs = folder / "configs"
    validation = json.loads((run / _REQUEST).read_text(encoding="utf-8"))["validation"]
    overrides = training_overrides(
        load(configs / "train.yaml"),
        folder,
        run,
        settings,
        validates=validation > 0,
        resuming=resuming,
    )
    workflow = ConfigWorkflow(
        config_file=str(configs / "train.yaml"),
        meta_file=str(configs / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        run_id="training",
        **overrides,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_text_atomic(path, strict_json(content))


def training_overrides(
    train: Mapping[str, Any],
    folder: Path,
    run: Path,
    settings: TrainSettings,
    *,
    validates: bool,
    resuming: bool,
) -> dict[str, Any]:
    """What train.yaml is run with: its own parts, found by their names and not their places.

    Args:
        validates: whether there are complete cases to validate on.
        resuming: whether weights come from the training's checkpoint.

    Raises:
        ValueError: the bundle does not have the standard handlers.
    """
    handlers = deepcopy(train["train"]["handlers"])
    standard = [
        handler
        for handler in handlers
        if isinstance(handler, dict)
        and str(handler.get("_target_", "")).rpartition(".")[2] == "standard_handlers"
    ]
    if not standard:
        raise ValueError("train.yaml has no standard_handlers in train#handlers: add them there")
    if settings.pretrained and not resuming:
        loader = {
            "_target_": "monai.handlers.CheckpointLoader",
            "load_path": str(folder / "models" / "model.pt"),
            "load_dict": {"model": "@network"},
            "strict": True,
        }
        handlers.insert(0, loader)
    # It is attached before the checkpoints, which keep its state.
    status = {
        "_target_": "mixseg.apps.label.status.TrainingStatus",
        "path": str(run / STATUS_NAME),
        "evaluator": "@validate#evaluator" if validates else None,
        "key": "@validate#key_metric",
    }
    standard[0]["extra"] = [*standard[0].get("extra", ()), status]
    publish = {
        "_target_": "mixseg.apps.label.publish.PublishWeights",
        "source": str(run / "models" / "model.pt"),
        "model": str(folder),
    }
    return {
        **settings.settings,
        "bundle_root": str(folder),
        "dataset_dir": str(run),
        "datalist": str(run / "datalist.json"),
        "output_dir": str(run),
        "ckpt_dir": str(run / "models"),
        "device": torch.device(settings.device),
        "max_epochs": settings.max_epochs,
        "resume": resuming,
        "train#handlers": [*handlers, publish],
    }


def _explain(submitted: Submitted) -> None:
    """Say what is not used as one might think."""
    if submitted.none:
        logger.info(
            "%d scans without a label are in the datalist as 'none'; the bundle's select_cases "
            "leaves them out unless its method learns from images alone, and opens no mask of "
            "theirs",
            len(submitted.none),
        )
    if not submitted.full:
        logger.warning(
            "no complete mask was submitted: the teacher is not trained, and the "
            "student learns from scribbles alone"
        )
    if not submitted.validation:
        logger.info(
            "too few complete masks to set one aside for validation: the last weights are kept"
        )


def _unfinished(trainings: Path, labels: str, settings: TrainSettings) -> Path | None:
    """The latest training, where it can be gone on with."""
    latest = _latest(trainings)
    if latest is None or not (latest / "checkpoint.pt").is_file():
        return None
    try:
        status = json.loads((latest / STATUS_NAME).read_text(encoding="utf-8"))
        request = json.loads((latest / _REQUEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if status["status"] != "running":
        return None  # it is done, or has failed and would fail again
    if request["labels"] != labels:
        logger.info("labels have changed since the interrupted training: starting a new one")
        return None
    asked, before = asdict(settings), request["settings"]
    same = ("val_split", "pretrained", "settings")
    if any(asked[name] != before[name] for name in same):
        logger.info("the interrupted training had other settings: starting a new one")
        return None
    return latest


def _new_run(trainings: Path) -> Path:
    latest = _latest(trainings)
    for old in trainings.glob("[0-9]*/checkpoint*.pt"):
        old.unlink()  # megabytes each, of use only while their training is the latest
    run = trainings / f"{1 if latest is None else int(latest.name) + 1:04d}"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    return run


def _latest(trainings: Path) -> Path | None:
    runs = sorted(p for p in trainings.glob("[0-9][0-9][0-9][0-9]") if p.is_dir())
    return runs[-1] if runs else None


def _is_held(folder: Path) -> bool:
    """Whether a living process writes to the folder."""
    try:
        with claim(folder, "the server"):
            return False
    except ValueError:
        return True


def _switch(value: Any) -> bool:
    """A switch of a client's request, which may be a text."""
    return value.lower() in ("true", "1", "yes", "on") if isinstance(value, str) else bool(value)
