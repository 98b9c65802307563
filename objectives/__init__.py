"""Methods: each one names its loss terms, their weights and the branches that they see."""

from mixseg.objectives.base import Batch, Networks, NetworkSpec, Objective, Outputs
from mixseg.objectives.confkd import ConfKD

__all__ = ["Batch", "ConfKD", "NetworkSpec", "Networks", "Objective", "Outputs"]
