"""Scores of every case and branch on the stitched volume, in the image's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events

from mixseg.handlers.figures import CasePanel, select_slice
from mixseg.metrics import CaseScore, dice_coefficient, score_case

__all__ = ["CaseScorer", "spacing_mm"]


def spacing_mm(meta: dict[str, Any], ndim: int = 3) -> tuple[float, ...] | None:
    """Voxel size in mm (x, y, z), or None where the file does not know it.

    A NIfTI header with units unknown and all sizes 1 says nothing (the public ACDC copies). Any
    other size is taken as mm, which NRRD and most NIfTI writers mean; metres and micrometres in
    the NIfTI units field are converted.

    Args:
        meta: metadata of a MONAI MetaTensor, with ``affine``.
        ndim: spatial axes.
    """
    affine = torch.as_tensor(meta["affine"]).numpy()
    sizes = np.linalg.norm(affine[:ndim, :ndim], axis=0)
    code = int(meta.get("xyzt_units", 2)) & 7
    if code == 0 and np.allclose(sizes, 1.0):
        return None
    factor = {1: 1e3, 3: 1e-3}.get(code, 1.0)
    return tuple(float(size * factor) for size in sizes)


class CaseScorer:
    """Score each case of an evaluator and keep what the report and the pictures need.

    Reads from each item: ``label`` (1, *spatial) in the file's own grid, the probabilities of
    the branches in the same grid, ``case_id``, and ``native`` (1, *spatial), the image as it was
    read, for the pictures. Where teacher and student are both there, their mean is the ensemble.

    After an epoch ``engine.state.metrics`` holds ``val_dice_<branch>`` and, with distances,
    ``val_hd95_<branch>`` (voxels), means over cases and foreground classes; ``rows`` all scores.

    Args:
        class_names: names of all classes, background first.
        panels: cases to keep pictures of, spread over the list.
        distances: score surface distances too. Selection while training needs Dice alone, and
            the surfaces of an untrained network's predictions are large.
    """

    def __init__(self, class_names: Sequence[str], panels: int = 4, distances: bool = True) -> None:
        self.class_names = list(class_names)
        self.max_panels = panels
        self.distances = distances
        self.rows: list[CaseScore] = []
        self._dice: dict[str, list[float]] = {}
        self.panels: list[CasePanel] = []

    def attach(self, engine: Engine) -> None:
        """Collect while the evaluator runs."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _start(self, engine: Any) -> None:
        self.rows, self.panels, self._dice = [], [], {}
        count = len(engine.data_loader)
        wanted = np.linspace(0, count - 1, min(self.max_panels, count)).round()
        self._pictured = set(wanted.astype(int).tolist())

    def _score(self, engine: Any) -> None:
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            probabilities = {
                name: torch.as_tensor(output[name]).numpy()
                for name in ("teacher", "student")
                if name in output
            }
            if len(probabilities) == 2:
                mean = 0.5 * (probabilities["teacher"] + probabilities["student"])
                probabilities["ensemble"] = mean
            reference = torch.as_tensor(batch["label"])[0].numpy()
            case_id = str(batch["case_id"])
            predictions = {name: p.argmax(axis=0) for name, p in probabilities.items()}
            scores = {}
            for name, prediction in predictions.items():
                dice = self._score_branch(case_id, name, prediction, reference, batch["label"].meta)
                self._dice.setdefault(name, []).extend(dice)
                scores[name] = float(np.mean(dice))
            if engine.state.iteration - 1 in self._pictured:
                native = torch.as_tensor(batch["native"])[0].numpy()
                self.panels.append(
                    self._panel(case_id, native, reference, probabilities, predictions, scores)
                )

    def _score_branch(
        self,
        case_id: str,
        branch: str,
        prediction: np.ndarray,
        reference: np.ndarray,
        meta: dict[str, Any],
    ) -> list[float]:
        """Dice of each foreground class; with distances, rows too."""
        count = len(self.class_names)
        if not self.distances:
            known = reference != count
            return [
                dice_coefficient((prediction == label) & known, reference == label)
                for label in range(1, count)
            ]
        rows = score_case(
            prediction,
            reference,
            case_id=case_id,
            branch=branch,
            class_names=self.class_names,
            num_classes=count,
            spacing=spacing_mm(meta, reference.ndim),
        )
        self.rows += rows
        return [row.dice for row in rows]

    def _panel(
        self,
        case_id: str,
        image: np.ndarray,
        reference: np.ndarray,
        probabilities: dict[str, np.ndarray],
        predictions: dict[str, np.ndarray],
        scores: dict[str, float],
    ) -> CasePanel:
        where = select_slice(reference, unlabeled=len(self.class_names))
        entropy = None
        if "student" in probabilities:
            p = np.clip(probabilities["student"][..., where], 1e-12, 1.0)
            # The restored probabilities fade to zero at the edge of a crop and are zero outside.
            total = p.sum(axis=0)
            p = p / total
            entropy = np.where(total > 0.5, -(p * np.log(p)).sum(axis=0), 0.0)
        cut = {name: prediction[..., where] for name, prediction in predictions.items()}
        return CasePanel(
            case_id=case_id,
            image=image[..., where],
            reference=reference[..., where],
            teacher=cut.get("teacher"),
            student=cut.get("student"),
            entropy=entropy,
            scores=scores,
        )

    def _finish(self, engine: Any) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, (self.rows, self._dice))
            self.rows = [row for rows, _ in parts for row in rows]
            # A rank without a case of its own still needs the scores that select and stop.
            names = dict.fromkeys(name for _, dice in parts for name in dice)
            self._dice = {
                name: [d for _, dice in parts for d in dice.get(name, [])] for name in names
            }
        for name, dice in self._dice.items():
            engine.state.metrics[f"val_dice_{name}"] = float(np.mean(dice))
        for name in dict.fromkeys(row.branch for row in self.rows):
            hd95 = [row.hd95_vox for row in self.rows if row.branch == name]
            engine.state.metrics[f"val_hd95_{name}"] = float(np.mean(hd95))
