"""Scores of every case and branch on the stitched volume, in the image's own grid."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.transforms import KeepLargestConnectedComponent

from mixseg.files.geometry import spacing_mm
from mixseg.metrics import CaseScore, dice_coefficient, score_case
from mixseg.networks.branches import BRANCH_NAMES
from mixseg.report.cases import CasePanel, cut_panels
from mixseg.transforms import KeepMostProbableComponent

#: Names of branches, in the order in which they are scored.
_NAMES = [name for names in BRANCH_NAMES.values() for name in names]


#: Cases whose pictures are kept until the best, the median and the worst are known.
_KEPT = 24


def shown_branch(branches: Collection[str]) -> str:
    """Of the branches that predict, the one that pictures are about: a student, or the only one."""
    return next(name for name in ("student", *_NAMES) if name in branches)


class CaseScorer:
    """Score each case of an evaluator and keep what the report and the pictures need.

    Reads from each item: ``label`` (1, *spatial) in the file's own grid, the probabilities of
    the branches (``main``, or ``teacher`` and ``student``) in the same grid, ``case_id``, and
    ``native`` (channels, *spatial), the image as it was read, for the pictures. Where teacher and
    student are both there, their mean is the ensemble.

    After an epoch ``engine.state.metrics`` holds ``val_dice_<branch>`` and, with distances,
    ``val_hd95_<branch>`` (voxels), means over cases and foreground classes; ``rows`` all scores;
    with distances also ``spacings``, the size of a voxel in mm by case or None where a file does
    not know it.

    Args:
        class_names: names of all classes, background first.
        panels: cases to keep pictures of, spread over the list; 0 for no pictures at all.
        distances: score surface distances too. Selection while training needs Dice alone, and
            the surfaces of an untrained network's predictions are large.
        planes: ``"last"`` pictures the slice along the last array axis that shows most of the
            object; ``"all"`` such an axial, a coronal and a sagittal slice of a 3D volume, turned
            by its affine as radiologists look at them and labeled with anatomical letters.
        largest_component: the same as ``keep_component="largest"``.
        keep_component: of each predicted class keep one connected component, as the inference of
            a bundle may: the ``"largest"`` by voxels, or the ``"most_probable"``, that with the
            largest summed probability
            (:class:`~mixseg.transforms.components.KeepMostProbableComponent`); None keeps all.

    Raises:
        ValueError: on other planes or components, or if the two settings of components differ.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        panels: int = 4,
        distances: bool = True,
        *,
        planes: str = "last",
        largest_component: bool = False,
        keep_component: str | None = None,
    ) -> None:
        if planes not in ("last", "all"):
            raise ValueError(f"planes must be 'last' or 'all', got {planes!r}")
        if keep_component not in (None, "largest", "most_probable"):
            raise ValueError(
                f"keep_component must be None, 'largest' or 'most_probable', got {keep_component!r}"
            )
        if largest_component and keep_component not in (None, "largest"):
            raise ValueError(
                f"keep_component is {keep_component!r}, but largest_component asks for the "
                "largest one; leave largest_component out"
            )
        self.class_names = list(class_names)
        self.max_panels = panels
        self.distances = distances
        self.planes = planes
        self.largest_component = largest_component
        self.keep_component = "largest" if largest_component else keep_component
        self._keep_largest = KeepLargestConnectedComponent(list(range(1, len(self.class_names))))
        self._keep_most_probable = KeepMostProbableComponent()
        self.rows: list[CaseScore] = []
        self._dice: dict[str, list[float]] = {}
        self.panels: list[CasePanel] = []
        self.spacings: dict[str, list[float] | None] = {}
        self._ranked: list[tuple[float, list[CasePanel]]] = []

    def attach(self, engine: Engine) -> None:
        """Collect while the evaluator runs."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _start(self, engine: Any) -> None:
        self.rows, self.panels, self._dice = [], [], {}
        self.spacings, self._ranked = {}, []
        count = len(engine.data_loader)
        wanted = np.linspace(0, count - 1, min(self.max_panels, count)).round()
        self._pictured = set(wanted.astype(int).tolist())

    def _score(self, engine: Any) -> None:
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            reference = torch.as_tensor(batch["label"])[0].numpy()
            case_id = str(batch["case_id"])
            predictions = self.predictions(output)
            scores = {}
            for name, prediction in predictions.items():
                dice = self._score_branch(case_id, name, prediction, reference, batch["label"].meta)
                self._dice.setdefault(name, []).extend(dice)
                scores[name] = float(np.mean(dice))
            pictured, ranked = self.is_pictured(engine), self.distances and self.max_panels > 0
            panels: list[CasePanel] = []
            if pictured or ranked:
                panels = self._panels(batch, output, predictions, scores)
            if pictured:
                self.panels += panels
            if ranked:
                self._keep(scores[shown_branch(scores)], panels)
            if self.distances:
                spacing = spacing_mm(batch["label"].meta, reference.ndim)
                self.spacings[case_id] = None if spacing is None else list(map(float, spacing))

    def ranked_panels(self) -> list[CasePanel]:
        """The rows that picture the best, the median and the worst case by mean Dice.

        Of more than 24 cases the median is the nearest of those whose pictures were kept. Empty
        without distances.
        """
        count = len(self._ranked)
        found: list[CasePanel] = []
        # By position: one case or two are named once.
        for place in dict.fromkeys((count - 1, self._median(), 0) if count else ()):
            names = [n for n, at in (("best", count - 1), ("worst", 0)) if at == place]
            title = " and ".join(names) or "median"
            found += [
                replace(panel, case_id=f"{title}: {panel.case_id}")
                for panel in self._ranked[place][1]
            ]
        return found

    def _median(self) -> int:
        """Position of the kept case whose Dice is nearest to the median of all cases."""
        branch = shown_branch({row.branch for row in self.rows})
        dice: dict[str, list[float]] = {}
        for row in self.rows:
            if row.branch == branch:
                dice.setdefault(row.case_id, []).append(row.dice)
        median = float(np.median([np.mean(values) for values in dice.values()]))
        return min(range(len(self._ranked)), key=lambda i: abs(self._ranked[i][0] - median))

    def _keep(self, dice: float, panels: list[CasePanel]) -> None:
        """Keep a case's pictures; of too many, every second one between the extremes goes."""
        self._ranked.append((dice, [_small(panel) for panel in panels]))
        self._ranked.sort(key=lambda item: item[0])
        if len(self._ranked) > _KEPT:
            self._ranked = [*self._ranked[:-1:2], self._ranked[-1]]

    def is_pictured(self, engine: Any) -> bool:
        """Whether to keep pictures of the evaluator's current case."""
        return engine.state.iteration - 1 in self._pictured

    def predictions(self, output: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Label map (*spatial) of every branch in an evaluator's output, and of the ensemble."""
        names = [name for name in _NAMES if name in output]
        probabilities = {name: torch.as_tensor(output[name]) for name in names}
        if {"teacher", "student"} <= set(names):
            probabilities["ensemble"] = probabilities["teacher"] + probabilities["student"]
        return {name: self._labels(p) for name, p in probabilities.items()}

    def _labels(self, probabilities: torch.Tensor) -> np.ndarray:
        """The label map (*spatial) of probabilities (C, *spatial)."""
        if self.keep_component == "most_probable":
            labels = self._keep_most_probable(probabilities)
        else:
            labels = probabilities.argmax(dim=0, keepdim=True)
            if self.keep_component == "largest":
                labels = self._keep_largest(labels)
        return torch.as_tensor(labels)[0].numpy()

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

    def _panels(
        self,
        batch: Mapping[str, Any],
        output: Mapping[str, Any],
        predictions: dict[str, np.ndarray],
        scores: dict[str, float],
    ) -> list[CasePanel]:
        label = batch["label"]
        affine = torch.as_tensor(label.meta["affine"]).numpy() if self.planes == "all" else None
        sure = next((name for name in ("student", "main") if name in output), None)
        return cut_panels(
            str(batch["case_id"]),
            torch.as_tensor(batch["native"]).float().numpy(),
            reference=torch.as_tensor(label)[0].numpy(),
            branches={name: predictions[name] for name in _NAMES if name in predictions},
            probabilities=None if sure is None else torch.as_tensor(output[sure]).numpy(),
            unlabeled=len(self.class_names),
            affine=affine,
            scores=scores,
        )

    def _finish(self, engine: Any) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            parts: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(
                parts, (self.rows, self._dice, self.spacings, self._ranked)
            )
            self.rows = [row for rows, *_ in parts for row in rows]
            self.spacings = {k: v for _, _, spacings, _ in parts for k, v in spacings.items()}
            self._ranked = sorted(
                (item for *_, ranked in parts for item in ranked), key=lambda item: item[0]
            )
            # A rank without a case of its own still needs the scores that select and stop.
            names = dict.fromkeys(name for _, dice, *_ in parts for name in dice)
            self._dice = {
                name: [d for _, dice, *_ in parts for d in dice.get(name, [])] for name in names
            }
        for name, dice in self._dice.items():
            engine.state.metrics[f"val_dice_{name}"] = float(np.mean(dice))
        for name in dict.fromkeys(row.branch for row in self.rows):
            hd95 = [row.hd95_vox for row in self.rows if row.branch == name]
            engine.state.metrics[f"val_hd95_{name}"] = float(np.mean(hd95))


def _small(panel: CasePanel) -> CasePanel:
    """The panel with arrays of as few bytes as show the same."""
    masks = {
        name: labels.astype(np.int16)
        for name in ("reference", *_NAMES)
        if (labels := getattr(panel, name, None)) is not None
    }
    entropy = None if panel.entropy is None else panel.entropy.astype(np.float16)
    return replace(panel, image=panel.image.astype(np.float32), entropy=entropy, **masks)
