"""Ignite handlers of training and evaluation."""

from mixseg.files.atomic import ensure_writable
from mixseg.handlers.case_figures import CasePanel, plot_cases
from mixseg.handlers.checkpoint import FullCheckpoint
from mixseg.handlers.figures import plot_curves
from mixseg.handlers.history import History
from mixseg.handlers.indicator_figures import InstancePanel, plot_indicators
from mixseg.handlers.instance_indicators import InstanceIndicators
from mixseg.handlers.planes import select_slice
from mixseg.handlers.progress import ProgressBar
from mixseg.handlers.ramps import Ramp, WeightRamps, ramp_factor
from mixseg.handlers.report import EvaluationReport
from mixseg.handlers.scoring import CaseScorer
from mixseg.handlers.surfaces import (
    CaseSurface,
    SurfaceCollector,
    extract_surface,
    plot_surfaces,
)
from mixseg.handlers.validation import CaseShare, Validation

__all__ = [
    "CasePanel",
    "CaseScorer",
    "CaseShare",
    "CaseSurface",
    "EvaluationReport",
    "FullCheckpoint",
    "History",
    "InstanceIndicators",
    "InstancePanel",
    "ProgressBar",
    "Ramp",
    "SurfaceCollector",
    "Validation",
    "WeightRamps",
    "ensure_writable",
    "extract_surface",
    "plot_cases",
    "plot_curves",
    "plot_indicators",
    "plot_surfaces",
    "ramp_factor",
    "select_slice",
]
