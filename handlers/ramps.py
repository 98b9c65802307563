"""Loss weights that grow while training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from ignite.engine import Events
from torch import nn

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


@dataclass(frozen=True)
class Ramp:
    """From ``start`` at iteration ``begin`` to the attribute's own value ``length`` later.

    Attributes:
        length: iterations from ``begin`` until the full value.
        begin: iterations before it.
        start: value until then.
        step: iterations between two changes; UA-MT's r(⌊t/150⌋, 40) has length 6000 and step 150.
        shape: see :func:`ramp_factor`; None takes the handler's.
    """

    length: int
    begin: int = 0
    start: float = 0.0
    step: int = 1
    shape: str | None = None

    def value(self, target: float, iteration: int, shape: str) -> float:
        """What the attribute is at an iteration (from 1)."""
        passed = iteration // self.step * self.step - self.begin
        if passed < 0:
            return self.start
        factor = ramp_factor(passed, self.length, self.shape or shape)
        return self.start + (target - self.start) * factor


class WeightRamps:
    """Move weights of an objective along ramps to the values that it was built with.

    The value depends on the iteration alone, so a resumed run needs no state of this handler.

    Args:
        objective: its float attributes are set, e.g. ``lambda_ent``; None for the trainer's.
        ramps: attribute → iterations until the full weight, e.g. ``{"lambda_ent": 1500}``, or the
            arguments of a :class:`Ramp`, e.g. ``{"gamma": {"length": 6000, "start": 0.2}}``.
        shape: ``"linear"``, ``"gaussian"`` (exp(−5(1−t)²)) or ``"cosine"``.

    Raises:
        ValueError: when a ramp's arguments are unknown or out of range, or the shape is unknown;
            when a name is not a float of the objective, which is seen when it is known.
    """

    def __init__(
        self,
        objective: nn.Module | None = None,
        ramps: Mapping[str, int | Mapping[str, Any]] | None = None,
        shape: str = "linear",
    ) -> None:
        ramp_factor(1, 2, shape)
        self.objective = objective
        self.shape = shape
        self.ramps = {name: _ramp(name, entry) for name, entry in (ramps or {}).items()}
        self.targets = {} if objective is None else self._values(objective)

    def _values(self, objective: nn.Module) -> dict[str, float]:
        """The weights that are moved, as the objective was built with them."""
        values: dict[str, float] = {}
        for name in self.ramps:
            value = getattr(objective, name, None)
            if not isinstance(value, float):
                raise ValueError(
                    f"{type(objective).__name__} has no weight {name!r} to ramp; it has "
                    + ", ".join(k for k, v in vars(objective).items() if isinstance(v, float))
                )
            values[name] = value
        return values

    def attach(self, engine: Any) -> None:
        """Set the weights before every iteration.

        Raises:
            ValueError: a name is not a float of the trainer's objective.
        """
        if self.objective is None:
            self.objective = engine.objective
            self.targets = self._values(engine.objective)
        if self.targets:
            engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Any) -> None:
        """Set the weights of the iteration that is about to run."""
        for name, target in self.targets.items():
            value = self.ramps[name].value(target, engine.state.iteration, self.shape)
            setattr(self.objective, name, value)


def _ramp(name: str, entry: int | Mapping[str, Any]) -> Ramp:
    arguments = dict(entry) if isinstance(entry, Mapping) else {"length": entry}
    known = [field.name for field in fields(Ramp)]
    if "length" not in arguments or not set(arguments) <= set(known):
        raise ValueError(
            f"the ramp of {name} needs length and may have {', '.join(known[1:])}, got "
            f"{', '.join(arguments) or 'nothing'}"
        )
    ramp = Ramp(**arguments)
    if ramp.length < 0:
        raise ValueError(f"the ramp of {name} cannot last {ramp.length} iterations")
    if ramp.begin < 0 or ramp.step < 1:
        raise ValueError(
            f"the ramp of {name} needs begin of at least 0 and step of at least 1, got "
            f"{ramp.begin} and {ramp.step}"
        )
    if ramp.shape is not None:
        ramp_factor(1, 2, ramp.shape)
    return ramp
