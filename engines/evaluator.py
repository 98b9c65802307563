"""Evaluation of every branch in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.transforms import Invertd
from torch import nn

from mixseg.data.samplers import CaseShare
from mixseg.engines.precision import autocast_dtype
from mixseg.networks.branches import BRANCH_NAMES


class MixedSupervisionEvaluator(SupervisedEvaluator):
    """Evaluator that leaves each branch's class probabilities in ``engine.state.output``.

    The encoder runs once for all branches. After ``postprocessing`` (usually an ``Invertd`` back
    to the image's own grid), output items hold (C, *spatial) float32 probabilities by the names of
    the branches that were asked for: ``teacher`` and ``student``, or ``main``. The ensemble is the
    mean of the first two, for :class:`mixseg.handlers.CaseScorer` to take.

    Args:
        device: where the network is.
        val_data_loader: batches with ``image`` (1, channels, *spatial), whole volumes.
        network: takes ``branch=``, and has ``branch_names``, in the order in which it returns
            ``"both"``.
        branches: branches to compute, some of ``network.branch_names``; None for all.
        inferer: volumes → logits, e.g. ``monai.inferers.SliceInferer`` for a 2D network.
        postprocessing: transforms of each item's batch and output dictionary.
        val_handlers: Ignite handlers.
        amp: see :func:`mixseg.engines.autocast_dtype`.

    Attributes:
        handlers: those of ``val_handlers``.

    Raises:
        ValueError: when no branch is asked for, or one that the network does not have.
    """

    def __init__(
        self,
        device: str | torch.device,
        val_data_loader: Any,
        network: nn.Module,
        *,
        branches: Sequence[str] | None = None,
        inferer: Any = None,
        postprocessing: Any = None,
        val_handlers: Sequence | None = None,
        amp: bool | str = False,
    ) -> None:
        own = _names(network)
        branches = own if branches is None else branches
        if not branches or not set(branches) <= set(own):
            raise ValueError(
                f"branches must name some of the network's ({', '.join(own)}), got "
                f"{', '.join(branches) or 'none'}"
            )
        self.branches = tuple(branches)
        self.handlers = tuple(val_handlers or ())
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
        alone = len(self.branches) == 1
        branch = self.branches[0] if alone else "both"
        with (
            engine.mode(engine.network),
            torch.autocast(engine.state.device.type, torch.bfloat16, enabled=engine.amp),
        ):
            logits = engine.inferer(image, partial(engine.network, branch=branch))
        found = (
            {branch: logits} if alone else dict(zip(_names(engine.network), logits, strict=True))
        )
        engine.state.output = {
            name: torch.softmax(found[name].float(), dim=1) for name in self.branches
        }
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output


def validator(
    *,
    dataset: Any,
    network: nn.Module,
    inferer: Any,
    handlers: Sequence,
    device: str | torch.device,
    branches: Sequence[str] | None = None,
    amp: bool | str = False,
) -> MixedSupervisionEvaluator:
    """An evaluator of labeled cases, one by one, in the grid of their files.

    The processes of a training share the cases, see :class:`mixseg.data.CaseShare`. Probabilities
    are brought back by undoing the dataset's transforms, interpolated linearly.

    Args:
        dataset: cases with ``image``, prepared by its ``transform``.
        network: see :class:`MixedSupervisionEvaluator`, as ``inferer``, ``branches`` and ``amp``.
        inferer: see there.
        handlers: Ignite handlers, a :class:`mixseg.handlers.CaseScorer` among them.
        device: where the network is.
        branches: see there.
        amp: see there.
    """
    shared = torch.distributed.is_available() and torch.distributed.is_initialized()
    restored = Invertd(
        [name for names in BRANCH_NAMES.values() for name in names],
        transform=dataset.transform,
        orig_keys="image",
        nearest_interp=False,
        allow_missing_keys=True,
    )
    return MixedSupervisionEvaluator(
        device,
        DataLoader(dataset, batch_size=1, sampler=CaseShare(dataset) if shared else None),
        network,
        branches=branches,
        inferer=inferer,
        postprocessing=restored,
        val_handlers=handlers,
        amp=amp,
    )


def _names(network: nn.Module) -> tuple[str, ...]:
    return cast(tuple[str, ...], network.branch_names)
