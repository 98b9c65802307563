"""The surfaces of an evaluation's cases, collected while it runs."""

from __future__ import annotations

import logging
import os
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events

from mixseg.files.geometry import spacing_mm
from mixseg.handlers.scoring import CaseScorer, shown_branch
from mixseg.report.surfaces import (
    INSTALL_SURFACES,
    CaseSurface,
    extract_surface,
    plot_surfaces,
    pyvista_is_installed,
    rendering_problem,
)

logger = logging.getLogger(__name__)


class SurfaceCollector:
    """Keep the surfaces of the cases that a scorer keeps pictures of, and render them.

    Of the student's prediction, or of the only branch's, as meshes: no volume is kept. Whatever
    fails here is logged and leaves the evaluation alone.

    Args:
        scorer: of the same evaluator, attached before.
    """

    def __init__(self, scorer: CaseScorer) -> None:
        self.scorer = scorer
        self.surfaces: list[CaseSurface] = []
        self.branch = "student"
        self._is_off = False

    def attach(self, engine: Engine) -> None:
        """Collect while the evaluator runs."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)

    def _start(self) -> None:
        self.surfaces, self._is_off = [], False

    def _collect(self, engine: Any) -> None:
        if self._is_off or not self.scorer.is_pictured(engine):
            return
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            if min(batch["label"].shape[1:]) < 2 or batch["label"].ndim != 4:
                self._is_off = True  # pictures have no surface
            elif not pyvista_is_installed():
                self._is_off = True
                logger.info("surfaces.png is left out: %s adds it", INSTALL_SURFACES)
            else:
                try:
                    self._add(batch, output)
                except Exception as error:
                    self._is_off = True
                    logger.warning("surfaces.png is left out: %s", error)

    def _add(self, batch: dict[str, Any], output: dict[str, Any]) -> None:
        predictions = self.scorer.predictions(output)
        self.branch = shown_branch(predictions)
        predicted = predictions[self.branch]
        reference = torch.as_tensor(batch["label"])[0].numpy()
        meta = batch["label"].meta
        spacing = spacing_mm(meta)
        axes = torch.as_tensor(meta["affine"]).numpy()[:3, :3]
        names = self.scorer.class_names
        known = reference != len(names)
        for label in range(1, len(names)):
            found, truth = extract_surface(
                (predicted == label) & known,
                reference == label,
                spacing or (1.0, 1.0, 1.0),
                axes / np.linalg.norm(axes, axis=0),
            )
            unit = "mm" if spacing else "voxels"
            case_id = str(batch["case_id"])
            self.surfaces.append(CaseSurface(case_id, names[label], found, truth, unit))

    def render(self, path: str | os.PathLike[str]) -> bool:
        """Write the picture, if there is something to draw and a way to; returns whether."""
        if self._is_off or not self.surfaces:
            return False
        problem = rendering_problem()
        if problem is None:
            captions = [self._caption(surface) for surface in self.surfaces]
            try:
                plot_surfaces(self.surfaces, path, captions=captions, branch=self.branch)
            except Exception as error:
                problem = str(error)
        if problem is not None:
            logger.warning("surfaces.png is left out: %s", problem)
        return problem is None

    def _caption(self, surface: CaseSurface) -> str:
        parts = [surface.case_id]
        if len(self.scorer.class_names) > 2:
            parts.append(surface.class_name)
        key = (surface.case_id, self.branch, surface.class_name)
        for row in self.scorer.rows:
            if (row.case_id, row.branch, row.class_name) == key:
                parts.append(f"Dice {100 * row.dice:.1f} %")
                hd95 = row.hd95_vox if row.hd95_mm is None else row.hd95_mm
                parts.append(f"HD95 {hd95:.1f} {surface.unit}")
        return "   ".join(parts)
