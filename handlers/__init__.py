"""Ignite handlers of training and evaluation."""

from mixseg.configuration.start import start_command
from mixseg.data.samplers import CaseShare
from mixseg.files.atomic import ensure_writable
from mixseg.handlers.checkpoint import FullCheckpoint
from mixseg.handlers.evaluation_report import EvaluationReport
from mixseg.handlers.history import History
from mixseg.handlers.progress import ProgressBar
from mixseg.handlers.ramps import Ramp, WeightRamps, ramp_factor
from mixseg.handlers.scoring import CaseScorer
from mixseg.handlers.standard import (
    HandlerGroup,
    evaluation_handlers,
    inference_handlers,
    standard_handlers,
)
from mixseg.handlers.start import start_evaluation, start_inference, start_run, start_training
from mixseg.handlers.surfaces import SurfaceCollector
from mixseg.handlers.validation import Validation
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
    "inference_handlers",
    "ramp_factor",
    "standard_handlers",
    "start_command",
    "start_evaluation",
    "start_inference",
    "start_run",
    "start_training",
]
