"""Ignite handlers of training and evaluation."""

from mixseg.configuration.start import start_command
from mixseg.files.atomic import ensure_writable
from mixseg.handlers.checkpoint import FullCheckpoint
from mixseg.handlers.evaluation_report import EvaluationReport
from mixseg.handlers.history import History
from mixseg.handlers.progress import ProgressBar
from mixseg.handlers.ramps import Ramp, WeightRamps, ramp_factor
from mixseg.handlers.scoring import CaseScorer
from mixseg.handlers.standard import HandlerGroup, evaluation_handlers, standard_handlers
from mixseg.handlers.start import start_run
from mixseg.handlers.surfaces import SurfaceCollector
from mixseg.handlers.validation import CaseShare, Validation
from mixseg.handlers.weights import InitialWeights, LoadWeights, find_weights

__all__ = [
    "CaseScorer",
    "CaseShare",
    "EvaluationReport",
    "FullCheckpoint",
    "HandlerGroup",
    "History",
    "InitialWeights",
    "LoadWeights",
    "ProgressBar",
    "Ramp",
    "SurfaceCollector",
    "Validation",
    "WeightRamps",
    "ensure_writable",
    "evaluation_handlers",
    "find_weights",
    "ramp_factor",
    "standard_handlers",
    "start_command",
    "start_run",
]
