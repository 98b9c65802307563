"""Engines: training on mixed batches, evaluation of every branch."""

from mixseg.engines.evaluator import MixedSupervisionEvaluator
from mixseg.engines.step import ForwardStep
from mixseg.engines.trainer import MixedSupervisionTrainer, NonFiniteLossError

__all__ = [
    "ForwardStep",
    "MixedSupervisionEvaluator",
    "MixedSupervisionTrainer",
    "NonFiniteLossError",
]
