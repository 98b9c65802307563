"""Output of an evaluation: scores, summary, pictures and a table on the screen."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events

from mixseg.handlers.scoring import CaseScorer
from mixseg.handlers.surfaces import SurfaceCollector
from mixseg.report.cases import plot_cases
from mixseg.report.page import try_to_write_page
from mixseg.report.scores import write_metrics_csv, write_summary
from mixseg.report.surfaces import INSTALL_SURFACES, pyvista_is_installed
from mixseg.report.tables import print_scores

logger = logging.getLogger(__name__)


class EvaluationReport:
    """Write ``metrics.csv``, ``summary.json``, pictures and ``report.html``; print the table.

    The pictures are ``cases.png``, ``best_median_worst.png`` and, of volumes, ``surfaces.png``: the
    predicted surfaces of the cases of ``cases.png``, colored by their distance to the reference. A
    rendering or a page that fails is logged and left out. Attach it after the scorer.

    Args:
        output_dir: folder of the run.
        scorer: of the same evaluator.
        configuration: what ``summary.json`` records of the run: settings by name.
        seed: of the run.
        data_hash: of the datalist, see :func:`mixseg.data.data_hash`.
        surfaces: render ``surfaces.png``; None does where PyVista is installed.
        facts: what else ``summary.json`` says of the run, under ``run``.
        groups: groups that cases belong to, kind → group by case, such as a phase or a disease.

    Raises:
        ImportError: when the surfaces are asked for and PyVista is not installed.
        ValueError: when it is attached in one of more processes than there are cases, which would
            wait for each other's scores without end.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        scorer: CaseScorer,
        *,
        configuration: Mapping[str, Any],
        seed: int,
        data_hash: str,
        surfaces: bool | None = None,
        facts: Mapping[str, Any] | None = None,
        groups: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        if surfaces and not pyvista_is_installed():
            raise ImportError(f"surfaces.png needs PyVista: {INSTALL_SURFACES}")
        self.output_dir = Path(output_dir)
        self.scorer = scorer
        self.configuration = dict(configuration)
        self.seed = seed
        self.data_hash = data_hash
        self.facts = dict(facts or {})
        self.groups = dict(groups or {})
        self._started = time.monotonic()
        self.surfaces = None if surfaces is False else SurfaceCollector(scorer)

    def attach(self, engine: Any) -> None:
        """Report when the evaluator is done; rank 0 only."""
        if torch.distributed.is_initialized():
            processes = torch.distributed.get_world_size()
            if not len(engine.data_loader):
                raise ValueError(
                    f"there are fewer cases to score than the {processes} processes: start at "
                    "most one for each case (--nproc_per_node)"
                )
            if torch.distributed.get_rank() != 0:
                return
        if self.surfaces is not None:
            self.surfaces.attach(engine)
        engine.add_event_handler(Events.COMPLETED, self._report)

    def _report(self, engine: Any) -> None:
        rows = self.scorer.rows
        extra: dict[str, Any] = {
            "run": {
                **self.facts,
                **_computed(engine),
                "seconds": round(time.monotonic() - self._started, 1),
            },
            "spacing_mm": self.scorer.spacings,
        }
        scored = {row.case_id for row in rows}
        if groups := {case: kinds for case, kinds in self.groups.items() if case in scored}:
            extra["groups"] = groups
        write_metrics_csv(rows, self.output_dir / "metrics.csv")
        write_summary(
            self.output_dir / "summary.json",
            rows,
            configuration=self.configuration,
            seed=self.seed,
            data_hash=self.data_hash,
            extra=extra,
        )
        plot_cases(self.scorer.panels, self.output_dir / "cases.png", self.scorer.class_names)
        try:
            path = self.output_dir / "best_median_worst.png"
            plot_cases(self.scorer.ranked_panels(), path, self.scorer.class_names)
        except Exception as error:
            logger.warning("best_median_worst.png is left out: %s", error)
        if self.surfaces is not None:
            self.surfaces.render(self.output_dir / "surfaces.png")
        page = try_to_write_page(self.output_dir)
        print_scores(rows)
        first = "scores, summary and pictures are in" if page is None else f"report: {page}; all in"
        print(f"{first} {self.output_dir}")


def _computed(engine: Any) -> dict[str, str]:
    """Device and precision of the forward passes, where the evaluator says them."""
    if not hasattr(engine.state, "device"):
        return {}
    precision = "bfloat16" if getattr(engine, "amp", False) else "float32"
    return {"device": str(engine.state.device), "precision": precision}
