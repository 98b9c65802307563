"""The MONAI Label app for the bundles of this project."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monailabel
import requests
import torch
from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel.utils.others.generic import device_list, name_to_device

from mixseg.apps.label.access import check_device, check_inference
from mixseg.apps.label.datastore import LabelDatastore
from mixseg.apps.label.inference import StudentInferTask
from mixseg.apps.label.scoring import EntropyScoring, EntropyStrategy, unscored
from mixseg.apps.label.training import (
    default_epochs,
    read_status,
    settings_of,
    train_model,
)
from mixseg.configuration.loading import load
from mixseg.configuration.parent import PARENT_VARIABLE

logger = logging.getLogger(__name__)


class BundleTraining(TrainTask):
    """``train.yaml`` behind MONAI Label's interface, see :mod:`mixseg.apps.label.training`."""

    def __init__(self, folder: Path, patient_pattern: str) -> None:
        self.folder = folder
        self.patient_pattern = patient_pattern
        self.train = load(folder / "configs" / "train.yaml")
        super().__init__("Training on complete, scribbled and partial labels")

    def config(self) -> dict[str, Any]:
        """Options that a client offers, with their defaults.

        A request may give other settings, too: those that
        :func:`mixseg.apps.label.access.check_settings` knows.
        """
        given = {name: self.train[name] for name in ("epoch_length", "lr") if self.train.get(name)}
        return {
            "device": device_list(),
            "pretrained": True,
            "resume": True,
            "max_epochs": default_epochs(self.train),
            "val_split": 0.2,
            **given,
        }

    def stats(self) -> dict[str, Any]:
        """How far the latest training is, for a client's progress bar."""
        return read_status(self.folder)

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train; runs in a process of its own that the server starts."""
        device = request.get("device", "cuda")
        device = name_to_device(check_device(device[0] if isinstance(device, list) else device))
        options = settings_of(request, self.train, device)
        run = train_model(self.folder, settings.MONAI_LABEL_STUDIES, options, self.patient_pattern)
        return {"training": run.name, **read_status(self.folder)}


class MixedSupervisionApp(MONAILabelApp):
    """One bundle: inference, training, and the next scan by the student's entropy.

    Args:
        conf: ``models``, the model's name; ``patient_pattern``, how ids name patients.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        if studies.startswith(("http://", "https://")):
            raise ValueError(
                f"{studies}: training reads submitted labels from a folder: give a folder of scans"
            )
        self.model = conf["models"]
        self.folder = Path(app_dir) / "model" / self.model
        self.student = StudentInferTask(self.folder, conf)
        self.entropy = EntropyScoring(self.student, self.folder)
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name=f"mixseg: {self.model}",
            description="Segmentation with mixed supervision: a few full masks, many scribbles",
            version=monailabel.__version__,
        )

    def server_mode(self, mode: bool) -> None:
        """As the parent; a training ends with the server that started it."""
        super().server_mode(mode)
        os.environ[PARENT_VARIABLE] = str(os.getpid())

    def init_datastore(self) -> Datastore:
        """The folder of scans."""
        return LabelDatastore(
            self.studies,
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def init_infers(self) -> dict[str, InferTask]:
        """The student."""
        return {self.model: self.student}

    def init_trainers(self) -> dict[str, TrainTask]:
        """The bundle's training."""
        return {self.model: BundleTraining(self.folder, self.conf.get("patient_pattern", ""))}

    def init_strategies(self) -> dict[str, Strategy]:
        """Entropy first: it is what a client offers first."""
        strategy = EntropyStrategy(self.entropy, self.folder)
        return {"entropy": strategy, "random": Random(), "first": First()}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """The entropy."""
        return {"entropy": self.entropy}

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """As the parent, where the request names no other files than the server's.

        Raises:
            ValueError: it does.
        """
        # Uploads lie in the temporary folder.
        places = [Path(self.studies), Path(tempfile.gettempdir())]
        if settings.MONAI_LABEL_SESSION_PATH:
            places.append(Path(settings.MONAI_LABEL_SESSION_PATH))
        check_inference(request, places)
        result: dict[str, Any] = super().infer(request, datastore)
        return result

    def batch_infer(
        self, request: dict[str, Any], datastore: Datastore | None = None
    ) -> dict[str, Any]:
        """As the parent; without a GPU it runs on the CPU, where the parent fails."""
        if not torch.cuda.is_available():
            request = {**request, "multi_gpu": False, "device": "cpu", "max_workers": 1}
        result: dict[str, Any] = super().batch_infer(request, datastore)
        return result

    def async_scoring(self, method: str | None, params: dict[str, Any] | None = None) -> Any:
        """As the parent, where there is something to score, and without failing the caller."""
        images = self.datastore().get_unlabeled_images()
        if method is None and not unscored(self.folder, images):
            return {}
        parent: Callable[..., Any] = super().async_scoring
        try:
            return parent(method, params)
        except requests.RequestException as error:
            # A training that is done stays done when the server cannot be told to score.
            logger.warning("scores are out of date: %s", error)
            return {}
