"""Loss weights that grow while training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

__all__ = ["WeightRamps", "ramp_factor"]

_SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda t: t,
    # exp(-5 (1 - t)²), Laine & Aila, 'Temporal ensembling', ICLR 2017
    "gaussian": lambda t: math.exp(-5.0 * (1.0 - t) ** 2),
    "cosine": lambda t: 0.5 - 0.5 * math.cos(math.pi * t),
}


def ramp_factor(iteration: int, length: int, shape: str = "linear") -> float:
    """Factor in [0, 1] of a weight at an iteration (from 1), 1 from ``length`` on.

    Raises:
        ValueError: on an unknown shape.

    Examples:
        >>> ramp_factor(5, 10), ramp_factor(10, 10), ramp_factor(50, 10)
        (0.5, 1.0, 1.0)
        >>> round(ramp_factor(5, 10, "gaussian"), 4)  # exp(-5 · ¼)
        0.2865
    """
    if shape not in _SHAPES:
        raise ValueError(f"ramp shape must be one of {', '.join(_SHAPES)}, got {shape!r}")
    return 1.0 if iteration >= length else _SHAPES[shape](iteration / length)


class WeightRamps:
    """Multiply weights of an objective by a ramp, from the values that it was built with.

    The factor depends on the iteration alone, so a resumed run needs no state of this handler.

    Args:
        objective: its attributes are set, e.g. ``lambda_ent``.
        ramps: attribute → iterations until the full weight, e.g. ``{"lambda_ent": 1500}``.
        shape: ``"linear"``, ``"gaussian"`` (exp(−5(1−t)²)) or ``"cosine"``.

    Raises:
        ValueError: when a name is no weight of the objective, a length is negative, or the shape
            is unknown.
    """

    def __init__(
        self, objective: nn.Module, ramps: Mapping[str, int] | None = None, shape: str = "linear"
    ) -> None:
        ramp_factor(1, 2, shape)
        self.objective = objective
        self.ramps = dict(ramps or {})
        self.shape = shape
        self.targets: dict[str, float] = {}
        for name, length in self.ramps.items():
            value = getattr(objective, name, None)
            if not isinstance(value, float):
                raise ValueError(
                    f"{type(objective).__name__} has no weight {name!r} to ramp; it has "
                    + ", ".join(k for k in vars(objective) if k.startswith("lambda_"))
                )
            if length < 0:
                raise ValueError(f"the ramp of {name} cannot last {length} iterations")
            self.targets[name] = value

    def attach(self, engine: Engine) -> None:
        """Set the weights before every iteration."""
        if self.targets:
            engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Any) -> None:
        """Set the weights of the iteration that is about to run."""
        for name, target in self.targets.items():
            factor = ramp_factor(engine.state.iteration, self.ramps[name], self.shape)
            setattr(self.objective, name, target * factor)
