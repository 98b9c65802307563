"""Engines: training on mixed batches, evaluation of every branch, inference on volumes."""

from mixseg.configuration.processes import Processes, join_ranks
from mixseg.engines.evaluator import MixedSupervisionEvaluator, validator
from mixseg.engines.inferers import VolumeInferer
from mixseg.engines.network_set import NetworkSet
from mixseg.engines.precision import autocast_dtype
from mixseg.engines.prediction import MirroredSliceInferer, Predictor, mask_postprocessing
from mixseg.engines.schedule import OneCycleLR
from mixseg.engines.step import ForwardStep
from mixseg.engines.trainer import MixedSupervisionTrainer, NonFiniteLossError

__all__ = [
    "ForwardStep",
    "MirroredSliceInferer",
    "MixedSupervisionEvaluator",
    "MixedSupervisionTrainer",
    "NetworkSet",
    "NonFiniteLossError",
    "OneCycleLR",
    "Predictor",
    "Processes",
    "VolumeInferer",
    "autocast_dtype",
    "join_ranks",
    "mask_postprocessing",
    "validator",
]
