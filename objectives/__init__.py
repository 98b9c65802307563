"""Methods: each one names its loss terms, their weights and the branches that they see."""

from mixseg.objectives.adversarial import AdversarialSemiSupervised
from mixseg.objectives.base import (
    Batch,
    Networks,
    NetworkSpec,
    Objective,
    Outputs,
    SingleBranchObjective,
    TurnSpec,
    supervised_term,
)
from mixseg.objectives.confkd import ConfKD
from mixseg.objectives.dcr.objective import DynamicCoRegularization
from mixseg.objectives.dcr.weights import InstanceWeights
from mixseg.objectives.entropy_minimization import EntropyMinimization
from mixseg.objectives.ficklenet import FickleNet
from mixseg.objectives.glmi import GLMI
from mixseg.objectives.macro_micro import MacroMicro
from mixseg.objectives.mixed_supervision import MixedSupervision
from mixseg.objectives.multitask import MultiTaskAttention
from mixseg.objectives.s4gan import S4GAN
from mixseg.objectives.self_correcting import SelfCorrecting
from mixseg.objectives.ssco import SSCO
from mixseg.objectives.uamt import UAMT

__all__ = [
    "GLMI",
    "S4GAN",
    "SSCO",
    "UAMT",
    "AdversarialSemiSupervised",
    "Batch",
    "ConfKD",
    "DynamicCoRegularization",
    "EntropyMinimization",
    "FickleNet",
    "InstanceWeights",
    "MacroMicro",
    "MixedSupervision",
    "MultiTaskAttention",
    "NetworkSpec",
    "Networks",
    "Objective",
    "Outputs",
    "SelfCorrecting",
    "SingleBranchObjective",
    "TurnSpec",
    "supervised_term",
]
