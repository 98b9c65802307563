"""Evaluation of every branch in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from torch import nn

from mixseg.engines.precision import autocast_dtype

__all__ = ["MixedSupervisionEvaluator"]


class MixedSupervisionEvaluator(SupervisedEvaluator):
    """Evaluator that leaves each branch's class probabilities in ``engine.state.output``.

    The encoder runs once for both branches. After ``postprocessing`` (usually an ``Invertd`` back
    to the image's own grid), output items hold ``teacher`` and ``student``, each (C, *spatial)
    float32 probabilities, where the network has and the caller asks for them. The ensemble is
    their mean, for :class:`mixseg.handlers.CaseScorer` to take.

    Args:
        device: where the network is.
        val_data_loader: batches with ``image`` (1, channels, *spatial), whole volumes.
        network: takes ``branch=``.
        branches: branches to compute, ``("teacher", "student")`` or one of them.
        inferer: volumes → logits, e.g. ``monai.inferers.SliceInferer`` for a 2D network.
        postprocessing: transforms of each item's batch and output dictionary.
        val_handlers: Ignite handlers.
        amp: see :func:`mixseg.engines.autocast_dtype`.

    Raises:
        ValueError: when no branch or an unknown one is asked for.
    """

    def __init__(
        self,
        device: str | torch.device,
        val_data_loader: Any,
        network: nn.Module,
        *,
        branches: Sequence[str] = ("teacher", "student"),
        inferer: Any = None,
        postprocessing: Any = None,
        val_handlers: Sequence | None = None,
        amp: bool | str = False,
    ) -> None:
        if not branches or not set(branches) <= {"teacher", "student"}:
            raise ValueError(f"branches must name teacher, student or both, got {tuple(branches)}")
        self.branches = tuple(branches)
        device = torch.device(device)
        super().__init__(
            device=device,
            val_data_loader=val_data_loader,
            network=network,
            inferer=inferer,
            postprocessing=postprocessing,
            val_handlers=val_handlers,
            amp=autocast_dtype(amp, device) is not None,
        )

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, torch.Tensor]:
        image = batchdata["image"].to(engine.state.device, non_blocking=engine.non_blocking)
        branch = self.branches[0] if len(self.branches) == 1 else "both"
        with (
            engine.mode(engine.network),
            torch.autocast(engine.state.device.type, torch.bfloat16, enabled=engine.amp),
        ):
            logits = engine.inferer(image, partial(engine.network, branch=branch))
        pairs = zip(self.branches, (logits,) if branch != "both" else logits, strict=True)
        engine.state.output = {name: torch.softmax(z.float(), dim=1) for name, z in pairs}
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output
