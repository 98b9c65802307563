"""Ignite handlers of training and evaluation."""

from mixseg.files.atomic import ensure_writable
from mixseg.handlers.checkpoint import FullCheckpoint
from mixseg.handlers.evaluation_report import EvaluationReport
from mixseg.handlers.history import History
from mixseg.handlers.progress import ProgressBar
from mixseg.handlers.ramps import Ramp, WeightRamps, ramp_factor
from mixseg.handlers.scoring import CaseScorer
from mixseg.handlers.stop_with_parent import StopWithParent
from mixseg.handlers.surfaces import SurfaceCollector
from mixseg.handlers.validation import CaseShare, Validation

__all__ = [
    "CaseScorer",
    "CaseShare",
    "EvaluationReport",
    "FullCheckpoint",
    "History",
    "ProgressBar",
    "Ramp",
    "StopWithParent",
    "SurfaceCollector",
    "Validation",
    "WeightRamps",
    "ensure_writable",
    "ramp_factor",
]
