"""Steps of learned instance weights by the agreement of gradients."""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from ignite.engine import Events
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from mixseg.data import SliceDataset
from mixseg.data.samplers import process_share
from mixseg.losses import last_layer_gradients
from mixseg.networks.dual_branch.base import resized
from mixseg.networks.features import forward_with_inputs
from mixseg.objectives.dcr.objective import DynamicCoRegularization
from mixseg.objectives.dcr.report import IndicatorReport

logger = logging.getLogger(__name__)

#: Seconds that a pass may take before it shows a bar.
_PATIENCE = 5.0


class InstanceIndicators:
    """Learn the weights of instances while training (DII), and report them.

    Pan et al. (AAAI 2022), Algorithm 1, lines 8 to 18. After every ``interval`` iterations g_S is
    the mean gradient of a batch of items that guide (full masks), and g_k that of each learned item
    (noisy masks), both of the mean cross-entropy of an image in the weight and bias of the last
    layer. One pass over all learned items gives all g_k
    (:func:`mixseg.losses.last_layer_gradients`). The objective then makes its step with g_S · g_k.

    The passes are of the network that the method predicts with, in evaluation mode, on pictures
    without random transforms, and leave the network's mode and the random states as they were. The
    batch that guides depends on ``seed`` and the iteration alone, so that a resumed run makes the
    same steps. Under ``torch.distributed`` each process passes its share of the items, and all make
    the same step.

    Rank 0 writes ``indicators.csv``, ``indicators_history.csv`` and ``indicators.png``, see
    :class:`mixseg.objectives.dcr.report.IndicatorReport`.

    Attach it before the handlers that write checkpoints.

    Args:
        objective: has a weight for each item of the dataset, see :class:`DynamicCoRegularization`.
        dataset: the training set.
        output_dir: folder of the run.
        interval: iterations between two steps (τ, 400 in the paper).
        batch_strong: items that guide a step, all of them if there are fewer (16).
        batch_size: items in a pass.
        class_balanced: compare gradients of a cross-entropy in which each class of a mask counts
            alike; False is the paper's.
        feature_layer: name of the network's last layer, a 1×1 convolution with a bias.
        class_names: C names, background first, for the picture.
        seed: of the batches that guide.
        progress: show a bar for passes that take long.
        picture_seconds: least time between two drawings; the last is drawn when training ends.
        clock: seconds on any scale that only goes forward.

    Raises:
        ValueError: on an option out of range, or weights of another number than items; when
            attached to a trainer whose network has no such layer.
    """

    def __init__(
        self,
        objective: DynamicCoRegularization,
        dataset: SliceDataset,
        output_dir: str | os.PathLike[str],
        *,
        interval: int = 400,
        batch_strong: int = 16,
        batch_size: int = 16,
        class_balanced: bool = False,
        feature_layer: str = "main.head",
        class_names: Sequence[str] | None = None,
        seed: int = 0,
        progress: bool = True,
        picture_seconds: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        for name, number in (
            ("interval", interval),
            ("batch_strong", batch_strong),
            ("batch_size", batch_size),
        ):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if len(objective.gamma) != len(dataset):
            raise ValueError(
                f"the objective weighs {len(objective.gamma)} items, the dataset has {len(dataset)}"
            )
        self.objective = objective
        # The same tensors without the random transforms.
        self.dataset = copy.copy(dataset)
        self.dataset.slice_transform = None
        self.interval = interval
        self.batch_strong = batch_strong
        self.batch_size = batch_size
        self.class_balanced = class_balanced
        self.feature_layer = feature_layer
        self.seed = seed
        self.progress = progress
        self.report = IndicatorReport(
            self.dataset,
            output_dir,
            class_names=class_names,
            picture_seconds=picture_seconds,
            clock=clock,
        )

    def attach(self, engine: Any) -> None:
        """Take part in ``engine``, a :class:`mixseg.engines.MixedSupervisionTrainer`."""
        engine.register_state("indicators", self)
        if not bool(self.objective.learned.any()):
            logger.info("no instance has a weight to learn")
            return
        _check_head(engine.network, self.feature_layer)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.interval), self._step)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def state_dict(self) -> dict[str, Any]:
        """The rows of ``indicators_history.csv`` so far."""
        return {"rows": self.report.rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo of :meth:`state_dict`."""
        self.report.rows = list(state["rows"])

    def _step(self, engine: Any) -> None:
        agreement = self.agreement(engine.network, engine.state.iteration)
        self.objective.step_indicators(agreement)
        if process_share()["rank"] == 0:
            self.report.record(engine.state.iteration, self.objective.gamma, self.objective.learned)

    def agreement(self, network: nn.Module, iteration: int) -> Tensor:
        """g_S · g_k (M,) of the M learned items, float32, on the network's device.

        Args:
            network: takes ``branch=``.
            iteration: chooses, with the seed, the items that guide.
        """
        learned = self.objective.learned.cpu().numpy()
        guides, items = np.flatnonzero(~learned), np.flatnonzero(learned)
        rng = np.random.default_rng((self.seed, iteration))
        guides = rng.choice(guides, min(self.batch_strong, len(guides)), replace=False)
        spread = dist.is_available() and dist.is_initialized()
        share = process_share()
        rank, world = share["rank"], share["world_size"]
        if spread:  # each process has batch statistics of its own since its last step
            for buffer in network.buffers():
                dist.broadcast(buffer, src=0)
        training = network.training
        network.eval()
        try:
            guide = torch.cat(list(self._gradients(network, guides))).mean(dim=0)
            if spread:
                dist.broadcast(guide, src=0)
            agreement = guide.new_zeros(len(items))
            mine = range(rank, len(items), world)
            parts = tqdm(
                self._gradients(network, items[mine]),
                desc="indicators",
                total=-(-len(mine) // self.batch_size),
                disable=not self.progress,
                delay=_PATIENCE,
                leave=False,
            )
            products = [(part * guide).sum(dim=(1, 2)) for part in parts]
            if products:
                agreement[list(mine)] = torch.cat(products)
        finally:
            network.train(training)
        if spread:  # every item is one process's: a sum with zeros, equal to the bit on all
            dist.all_reduce(agreement)
        return agreement

    def _gradients(self, network: nn.Module, items: NDArray[np.intp]) -> Iterator[Tensor]:
        """(B, C, F + 1) of batch after batch."""
        parameter = next(network.parameters())
        layer, branch = self.feature_layer, self.objective.inference_branch
        for start in range(0, len(items), self.batch_size):
            chosen = [int(item) for item in items[start : start + self.batch_size]]
            batch = self.dataset.__getitems__(chosen)
            assert isinstance(batch, dict)  # as there is no random transform
            image = batch["image"].to(parameter.device, parameter.dtype)
            with torch.no_grad():
                logits, given = forward_with_inputs(network, [layer], image, branch=branch)
                if start == 0:
                    _check_linear(network, layer, given[layer], logits)
            label = batch["label"].to(parameter.device)
            yield last_layer_gradients(
                given[layer], logits, label, class_balanced=self.class_balanced
            )

    def _finish(self, engine: Any) -> None:
        if engine.state.iteration < self.interval:
            logger.warning(
                "the indicators made no step: the run has fewer than %d iterations", self.interval
            )
        self.report.draw()


def _is_head(module: nn.Module | None) -> bool:
    return (
        isinstance(module, nn.Conv2d | nn.Conv3d)
        and set(module.kernel_size) == {1}
        and module.groups == 1
        and module.bias is not None
    )


def _check_head(network: nn.Module, name: str) -> None:
    modules = dict(network.named_modules())
    if not _is_head(modules.get(name)):
        heads = [key for key, module in modules.items() if "head" in key and _is_head(module)]
        raise ValueError(
            f"feature_layer {name!r} is no 1×1 convolution with a bias in "
            f"{type(network).__name__}; its heads are {', '.join(heads) or 'none'}"
        )


def _check_linear(network: nn.Module, name: str, features: Tensor, logits: Tensor) -> None:
    """Refuse a network that does more to its head's output than resize it."""
    head = network.get_submodule(name)(features)
    if head.shape[2:] != logits.shape[2:]:
        head = resized(head, logits.shape[2:])
    if head.shape != logits.shape or not torch.allclose(head, logits, rtol=1e-3, atol=1e-3):
        raise ValueError(
            f"the logits of {type(network).__name__} are not the output of {name}, resized "
            "linearly with align_corners=False: gradients of its last layer cannot be computed "
            "from its features"
        )
