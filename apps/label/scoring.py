"""Choice of the next scan to annotate: the one about which the student is least certain."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.utils.others.generic import name_to_device

from mixseg.apps.label.access import check_device
from mixseg.apps.label.inference import StudentInferTask
from mixseg.files.atomic import strict_json, write_text_atomic

logger = logging.getLogger(__name__)

SCORES_NAME = "scores.json"
_DAY = 24 * 60 * 60


def read_scores(folder: Path) -> dict[str, dict[str, Any]]:
    """Scan id → its ``entropy`` and the ``weights`` it was computed with."""
    try:
        scores: dict[str, dict[str, Any]] = json.loads((folder / SCORES_NAME).read_text())
    except (OSError, ValueError):
        return {}
    return scores


def weights_id(folder: Path) -> str:
    """Changes whenever ``models/model.pt`` does."""
    stat = (folder / "models" / "model.pt").stat()
    return f"{stat.st_mtime_ns}-{stat.st_size}"


def unscored(folder: Path, images: list[str]) -> list[str]:
    """Scans without a score of the present weights; those without any come first."""
    scores, weights = read_scores(folder), weights_id(folder)
    old = [i for i in images if scores.get(i, {}).get("weights") != weights]
    return sorted(old, key=lambda image: (image in scores, image))


def pick(
    images: list[str], scores: Mapping[str, Mapping[str, Any]], served: Mapping[str, float]
) -> str | None:
    """The scan to annotate next.

    Args:
        images: ids of the scans without a label.
        scores: id → ``entropy``; a scan without one comes after those with one.
        served: id → time at which it was last handed out.

    Returns:
        The id of highest entropy among those not handed out, else the one handed out longest ago;
        None without images. Ties go by name.
    """
    return min(
        images,
        key=lambda i: (served.get(i, 0.0), -float(scores.get(i, {}).get("entropy", -1.0)), i),
        default=None,
    )


class EntropyScoring(ScoringMethod):
    """Scores the scans without a label by the student's entropy, one after the other.

    Scores go to a file of their own and not to the datastore: this runs in another process, which
    would write its own idea of the datastore over what is submitted meanwhile.
    """

    def __init__(self, task: StudentInferTask, folder: Path) -> None:
        super().__init__("Entropy of the student, averaged over a scan; 1 knows nothing")
        self.task = task
        self.folder = folder

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score what has no score of the present weights; ``max_samples`` bounds how many."""
        started = time.monotonic()
        images = datastore.get_unlabeled_images()
        todo = unscored(self.folder, images)
        todo = todo[: int(request.get("max_samples", 0)) or None]
        device = name_to_device(check_device(request.get("device", "cuda")))
        for image in todo:
            weights = weights_id(self.folder)
            entropy = self.task.entropy(datastore.get_image_uri(image), device)
            logger.info("entropy of %s: %.4f", image, entropy)
            # Read again: after a training two of these may run at once.
            scores = read_scores(self.folder)
            scores[image] = {"entropy": entropy, "weights": weights}
            write_text_atomic(self.folder / SCORES_NAME, strict_json(scores))
        return {
            "total": len(images),
            "executed": len(todo),
            "skipped": len(images) - len(todo),
            "latency": round(time.monotonic() - started, 3),
        }


class EntropyStrategy(Strategy):
    """Hands out the scan of highest entropy; one that was handed out waits for a day."""

    def __init__(self, scoring: EntropyScoring, folder: Path) -> None:
        super().__init__("The scan that the student is least sure about")
        self.scoring = scoring
        self.folder = folder

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """The next scan's id, its entropy and whether the score is of the present weights."""
        images = datastore.get_unlabeled_images()
        if images and not any(image in read_scores(self.folder) for image in images):
            # The very first question: one scan is scored now, the others in the background.
            self.scoring({**request, "max_samples": 1}, datastore)
        served = {}
        for image in images:
            infos = datastore.get_image_info(image).get("strategy", {})
            moment = float(infos.get(request["strategy"], {}).get("ts", 0))
            if time.time() - moment < _DAY:
                served[image] = moment
        scores = read_scores(self.folder)
        chosen = pick(images, scores, served)
        if chosen is None:
            return None
        score = scores.get(chosen, {})
        return {
            "id": chosen,
            "entropy": score.get("entropy"),
            "current": score.get("weights") == weights_id(self.folder),
        }
