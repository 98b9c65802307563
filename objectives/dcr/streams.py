"""Batches that are drawn by weight: the two streams of co-trained networks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from mixseg.data.samplers import EpochBatchSampler, SeededDataLoader, process_share

#: Streams of a batch, in its order; the objective sees each as a group of that name.
STREAMS = ("primary", "auxiliary")


class TutorialBatchSampler(EpochBatchSampler):
    """Batches of a weighted and of a uniform stream over one dataset.

    Pan et al. (AAAI 2022), 'Dynamic Co-Regularized Framework': the primary tutorial is drawn from
    the multinomial distribution of the instances' weights, with replacement, the auxiliary one
    uniformly, in shuffled passes, so that no item is ahead of another by more than one.

    The draws of an epoch depend on ``seed``, the epoch and the weights when its pass begins, so
    that a resumed run draws what it would have drawn.

    Args:
        size: items of the dataset.
        batch_size: items of each stream in a batch and process.
        weights: returns one weight an item, (size,), not negative; None draws both streams
            uniformly.
        auxiliary: draw the auxiliary stream, too.
        epoch_length: batches an epoch; None is one pass over the data.
        seed: of the order.
        rank: of this process; ranks draw disjoint parts of each stream.
        world_size: number of processes.

    Raises:
        ValueError: no item, a batch or an epoch of less than 1; when a pass begins, weights of
            another number, negative, not finite or all 0.

    Examples:
        >>> sampler = TutorialBatchSampler(3, 2, weights=lambda: torch.tensor([0.0, 1.0, 0.0]))
        >>> batch = next(iter(sampler))
        >>> batch[:2], len(set(batch[2:]))  # the only one with a weight; two others
        ([1, 1], 2)
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        weights: Callable[[], Tensor] | None = None,
        auxiliary: bool = True,
        epoch_length: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if size < 1:
            raise ValueError("there is no item to draw from")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        super().__init__(
            -(-size // (batch_size * world_size)), epoch_length, seed, rank, world_size
        )
        self.size = size
        self.batch_size = batch_size
        self.weights = weights
        self.auxiliary = auxiliary

    def _probabilities(self) -> np.ndarray | None:
        if self.weights is None:
            return None
        weights = self.weights().detach().cpu().double().numpy()
        if weights.shape != (self.size,):
            raise ValueError(f"{self.size} items need as many weights, got {weights.shape}")
        if not np.isfinite(weights).all() or weights.min() < 0 or weights.sum() == 0:
            raise ValueError(
                "weights must be finite, not negative and not all 0; they are between "
                f"{weights.min():g} and {weights.max():g}"
            )
        probabilities: np.ndarray = weights / weights.sum()
        return probabilities

    def streams(self) -> list[np.ndarray]:
        """The weighted one, then the uniform one where it is drawn."""
        items, each = np.arange(self.size), self.batch_size
        streams = [self.stream(0, items, each, self._probabilities())]
        return [*streams, self.stream(1, items, each)] if self.auxiliary else streams


class TutorialDataLoader(SeededDataLoader):
    """Data loader of the streams of co-trained networks.

    A batch is one dictionary of 2 · ``batch_size`` items, the primary ones first. In place of the
    items' supervision its ``supervision`` names their stream, ``"primary"`` or ``"auxiliary"``, by
    which the engine makes the groups that an objective sees.

    Args:
        dataset: items with an image and a label each; it may make a batch at once, as
            :class:`mixseg.data.SliceDataset` does.
        batch_size: items of each stream in a batch (16 in the paper).
        weights: see :class:`TutorialBatchSampler`.
        auxiliary: False leaves out the second stream.
        epoch_length: batches an epoch, None for one pass over the data.
        seed: of the order and of the workers.
        num_workers: processes that load; 0 loads in this process.
        pin_memory: see :class:`mixseg.data.samplers.SeededDataLoader`.

    Raises:
        ValueError: an item without a label; see also :class:`TutorialBatchSampler`.

    Examples:
        >>> class Toy(list):
        ...     supervision = ("full", "noisy", "noisy")
        >>> items = [{"image": torch.zeros(1), "supervision": kind} for kind in Toy.supervision]
        >>> next(iter(TutorialDataLoader(Toy(items), batch_size=1)))["supervision"]
        ['primary', 'auxiliary']
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 16,
        *,
        weights: Callable[[], Tensor] | None = None,
        auxiliary: bool = True,
        epoch_length: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
        pin_memory: bool | None = None,
    ) -> None:
        supervision: Any = dataset.supervision  # type: ignore[attr-defined]
        if "none" in supervision:
            raise ValueError(
                f"{list(supervision).count('none')} items have no label, and both streams need "
                "one: set num_unlabeled to 0"
            )
        sampler = TutorialBatchSampler(
            len(supervision),
            batch_size,
            weights=weights,
            auxiliary=auxiliary,
            epoch_length=epoch_length,
            seed=seed,
            **process_share(),
        )
        super().__init__(
            dataset,
            sampler,
            seed=seed,
            num_workers=num_workers,
            pin_memory=pin_memory,
            collate_fn=partial(_collate, streams=STREAMS[: 1 + auxiliary]),
        )


def _collate(items: Any, streams: tuple[str, ...]) -> dict[str, Any]:
    """One dictionary, an equal part of it for each stream, whose names are its supervision."""
    batch = dict(items) if isinstance(items, dict) else dict(default_collate(items))
    each = len(batch["supervision"]) // len(streams)
    return batch | {"supervision": [name for name in streams for _ in range(each)]}
