"""Dynamic instance indicators and co-regularization (Pan et al., AAAI 2022)."""

from mixseg.objectives.dcr.figure import InstancePanel, plot_indicators
from mixseg.objectives.dcr.indicators import InstanceIndicators
from mixseg.objectives.dcr.objective import DynamicCoRegularization
from mixseg.objectives.dcr.streams import TutorialBatchSampler, TutorialDataLoader
from mixseg.objectives.dcr.weights import InstanceWeights

__all__ = [
    "DynamicCoRegularization",
    "InstanceIndicators",
    "InstancePanel",
    "InstanceWeights",
    "TutorialBatchSampler",
    "TutorialDataLoader",
    "plot_indicators",
]
