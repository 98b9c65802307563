"""Batches that are drawn by weight: the two streams of co-trained networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, default_collate

from mixseg.data.samplers import SeededDataLoader

__all__ = ["TutorialBatchSampler", "TutorialDataLoader"]

#: Streams of a batch, in its order; the objective sees each as a group of that name.
STREAMS = ("primary", "auxiliary")


class TutorialBatchSampler(Sampler[list[int]]):
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
        if epoch_length is not None and epoch_length < 1:
            raise ValueError(f"epoch_length must be at least 1, got {epoch_length}")
        self.size = size
        self.batch_size = batch_size
        self.weights = weights
        self.auxiliary = auxiliary
        self._length = epoch_length or -(-size // (batch_size * world_size))
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch = 1

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass (epochs count from 1)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._length

    def _stream(self, number: int, weights: np.ndarray | None) -> np.ndarray:
        """Items of one stream for one epoch of this rank, (length, batch_size)."""
        rng = np.random.default_rng((self.seed, self.epoch, number))
        needed = self._length * self.batch_size * self.world_size
        if weights is None:
            passes = [rng.permutation(self.size) for _ in range(-(-needed // self.size))]
            drawn = np.concatenate(passes)[:needed]
        else:
            drawn = rng.choice(self.size, size=needed, p=weights)
        return drawn.reshape(self._length, self.world_size, self.batch_size)[:, self.rank]

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

    def __iter__(self) -> Iterator[list[int]]:
        streams = [self._stream(0, self._probabilities())]
        if self.auxiliary:
            streams.append(self._stream(1, None))
        for batch in range(self._length):
            yield [int(item) for stream in streams for item in stream[batch]]


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
        pin_memory: page-locked host memory, for faster copies to CUDA.

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
        pin_memory: bool = False,
    ) -> None:
        supervision: Any = dataset.supervision  # type: ignore[attr-defined]
        if "none" in supervision:
            raise ValueError(
                f"{list(supervision).count('none')} items have no label, and both streams need "
                "one: set num_unlabeled to 0"
            )
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        sampler = TutorialBatchSampler(
            len(supervision),
            batch_size,
            weights=weights,
            auxiliary=auxiliary,
            epoch_length=epoch_length,
            seed=seed,
            rank=torch.distributed.get_rank() if distributed else 0,
            world_size=torch.distributed.get_world_size() if distributed else 1,
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
