"""Ignite handlers of training and evaluation."""

from mixseg.handlers.checkpoint import FullCheckpoint
from mixseg.handlers.figures import CasePanel, plot_cases, plot_curves, select_slice
from mixseg.handlers.files import ensure_writable
from mixseg.handlers.history import History
from mixseg.handlers.progress import ProgressBar
from mixseg.handlers.ramps import WeightRamps, ramp_factor
from mixseg.handlers.report import EvaluationReport
from mixseg.handlers.scoring import CaseScorer, spacing_mm
from mixseg.handlers.validation import Validation

__all__ = [
    "CasePanel",
    "CaseScorer",
    "EvaluationReport",
    "FullCheckpoint",
    "History",
    "ProgressBar",
    "Validation",
    "WeightRamps",
    "ensure_writable",
    "plot_cases",
    "plot_curves",
    "ramp_factor",
    "select_slice",
    "spacing_mm",
]
