"""Engines: training on mixed batches, evaluation of every branch, inference on volumes."""

from mixseg.engines.evaluator import MixedSupervisionEvaluator
from mixseg.engines.inferers import VolumeInferer
from mixseg.engines.network_set import NetworkSet
from mixseg.engines.step import ForwardStep
from mixseg.engines.trainer import MixedSupervisionTrainer, NonFiniteLossError

__all__ = [
    "ForwardStep",
    "MixedSupervisionEvaluator",
    "MixedSupervisionTrainer",
    "NetworkSet",
    "NonFiniteLossError",
    "VolumeInferer",
]
