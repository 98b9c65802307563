"""Ignite handlers of training and evaluation."""

from mixseg.handlers.case_figures import CasePanel, plot_cases
from mixseg.handlers.checkpoint import FullCheckpoint
from mixseg.handlers.command_line import start_command
from mixseg.handlers.figures import plot_curves
from mixseg.handlers.files import ensure_writable
from mixseg.handlers.history import History
from mixseg.handlers.indicator_figures import InstancePanel, plot_indicators
from mixseg.handlers.instance_indicators import InstanceIndicators
from mixseg.handlers.planes import select_slice
from mixseg.handlers.progress import ProgressBar
from mixseg.handlers.ramps import Ramp, WeightRamps, ramp_factor
from mixseg.handlers.report import EvaluationReport
from mixseg.handlers.scoring import CaseScorer, spacing_mm
from mixseg.handlers.standard import HandlerGroup, evaluation_handlers, standard_handlers
from mixseg.handlers.start import start_run
from mixseg.handlers.surfaces import (
    CaseSurface,
    SurfaceCollector,
    extract_surface,
    plot_surfaces,
)
from mixseg.handlers.validation import CaseShare, Validation
from mixseg.handlers.weights import LoadWeights, find_weights

__all__ = [
    "CasePanel",
    "CaseScorer",
    "CaseShare",
    "CaseSurface",
    "EvaluationReport",
    "FullCheckpoint",
    "HandlerGroup",
    "History",
    "InstanceIndicators",
    "InstancePanel",
    "LoadWeights",
    "ProgressBar",
    "Ramp",
    "SurfaceCollector",
    "Validation",
    "WeightRamps",
    "ensure_writable",
    "evaluation_handlers",
    "extract_surface",
    "find_weights",
    "plot_cases",
    "plot_curves",
    "plot_indicators",
    "plot_surfaces",
    "ramp_factor",
    "select_slice",
    "spacing_mm",
    "standard_handlers",
    "start_command",
    "start_run",
]
