"""Methods: each one names its loss terms, their weights and the branches that they see."""

from mixseg.objectives.base import (
    Batch,
    Networks,
    NetworkSpec,
    Objective,
    Outputs,
    SingleBranchObjective,
)
from mixseg.objectives.confkd import ConfKD
from mixseg.objectives.glmi import GLMI
from mixseg.objectives.ssco import SSCO
from mixseg.objectives.uamt import UAMT

__all__ = [
    "GLMI",
    "SSCO",
    "UAMT",
    "Batch",
    "ConfKD",
    "NetworkSpec",
    "Networks",
    "Objective",
    "Outputs",
    "SingleBranchObjective",
]
