"""Engines: training on mixed batches, evaluation of every branch, inference on volumes."""

from mixseg.engines.evaluator import MixedSupervisionEvaluator
from mixseg.engines.inferers import VolumeInferer
from mixseg.engines.network_set import NetworkSet
from mixseg.engines.precision import autocast_dtype
from mixseg.engines.prediction import MirroredSliceInferer, Predictor, mask_postprocessing
from mixseg.engines.ranks import join_ranks
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
    "VolumeInferer",
    "autocast_dtype",
    "join_ranks",
    "mask_postprocessing",
]
