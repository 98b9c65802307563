"""Mixed batches: a fixed number of cases of each supervision kind in every batch."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

logger = logging.getLogger(__name__)

# Independent random streams for the kinds, whatever their order in a mapping.
_STREAM = {"full": 0, "partial": 1, "noisy": 2, "none": 3}


def process_share() -> dict[str, int]:
    """``rank`` and ``world_size`` of this process; one of one outside ``torch.distributed``."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        return {"rank": rank, "world_size": world_size}
    return {"rank": 0, "world_size": 1}


class CaseShare(Sampler[int]):
    """Every n-th case of a dataset, for one of n processes: each case in one process only.

    MONAI's ``DistributedSampler(even_divisible=False)`` shares in the same way, but refuses fewer
    cases than processes. Here such a share is empty, which :class:`mixseg.handlers.Validation`
    knows of.

    Args:
        dataset: cases, in the order of the datalist.
        rank: of this process; None for that of :func:`process_share`.
        world_size: number of processes; None for theirs.

    Raises:
        ValueError: when the rank is not below the number of processes, or the dataset is empty.
    """

    def __init__(
        self, dataset: Sized, rank: int | None = None, world_size: int | None = None
    ) -> None:
        share = process_share()
        rank = share["rank"] if rank is None else rank
        world_size = share["world_size"] if world_size is None else world_size
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in 0…{world_size - 1}, got {rank}")
        if not len(dataset):
            raise ValueError("no case to share among the processes")
        self.indices = range(rank, len(dataset), world_size)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


class EpochBatchSampler(Sampler[list[int]], ABC):
    """Batches out of streams that depend on the seed and the epoch alone; see its subclasses."""

    def __init__(
        self, length: int, epoch_length: int | None, seed: int, rank: int, world_size: int
    ) -> None:
        if epoch_length is not None and epoch_length < 1:
            raise ValueError(f"epoch_length must be at least 1, got {epoch_length}")
        self._length = epoch_length or length
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch = 1

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass (epochs count from 1)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._length

    @abstractmethod
    def streams(self) -> list[np.ndarray]:
        """Item indices of each stream for this epoch and rank, (length, count)."""

    def stream(
        self, number: int, items: np.ndarray, count: int, weights: np.ndarray | None = None
    ) -> np.ndarray:
        """Items in shuffled passes, or by their weights with replacement, (length, count)."""
        rng = np.random.default_rng((self.seed, self.epoch, number))
        needed = self._length * count * self.world_size
        if weights is None:
            passes = [rng.permutation(items) for _ in range(-(-needed // len(items)))]
            drawn = np.concatenate(passes)[:needed]
        else:
            drawn = rng.choice(items, size=needed, p=weights)
        return drawn.reshape(self._length, self.world_size, count)[:, self.rank]

    def __iter__(self) -> Iterator[list[int]]:
        streams = self.streams()
        for batch in range(self._length):
            yield [int(item) for stream in streams for item in stream[batch]]


class MixedBatchSampler(EpochBatchSampler):
    """Batches of ``counts[kind]`` items of each kind, in the order of ``counts``.

    Every kind is a stream of its own: its items are shuffled, and shuffled again whenever they
    are used up, so the rarer kind is repeated and no item appears k + 1 times before all have
    appeared k times. The order depends on ``seed`` and the epoch only, so a resumed run sees the
    batches that it would have seen.

    Args:
        supervision: the kind of each item of the dataset.
        counts: items of each kind in a batch; kinds with 0 are never drawn.
        epoch_length: batches an epoch; None is one pass over the kind that needs most batches.
        seed: of the order.
        rank: of this process; ranks draw disjoint parts of each stream.
        world_size: number of processes; each draws ``counts`` items.

    Raises:
        ValueError: when nothing is to be drawn, or a count is negative or of an unknown kind.

    Examples:
        One full item and two partial ones a batch; four partial items make an epoch of two batches:

        >>> kinds = ["full", "partial", "partial", "partial", "partial"]
        >>> sampler = MixedBatchSampler(kinds, {"full": 1, "partial": 2})
        >>> batches = list(sampler)
        >>> [batch[0] for batch in batches], sorted(batches[0][1:] + batches[1][1:])
        ([0, 0], [1, 2, 3, 4])
        >>> list(sampler) == batches  # the same epoch, the same order
        True
    """

    def __init__(
        self,
        supervision: Sequence[str],
        counts: Mapping[str, int],
        *,
        epoch_length: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        for kind, count in counts.items():
            if kind not in _STREAM:
                raise ValueError(f"unknown supervision kind {kind!r}; known: {', '.join(_STREAM)}")
            if count < 0:
                raise ValueError(f"the batch cannot hold {count} {kind} items")
        self._items: dict[str, np.ndarray] = {}
        self.counts: dict[str, int] = {}
        for kind, count in counts.items():
            items = np.flatnonzero(np.asarray(supervision, dtype=object) == kind)
            if count and not len(items):
                logger.warning("no %s item in the data: batches hold none of the %d", kind, count)
            elif count:
                self._items[kind], self.counts[kind] = items, count
        if not self.counts:
            raise ValueError(
                f"no batch can be drawn: the data hold {sorted(set(supervision))}, "
                f"the batch asks for {dict(counts)}"
            )
        longest = max(
            -(-len(self._items[kind]) // (count * world_size))
            for kind, count in self.counts.items()
        )
        super().__init__(longest, epoch_length, seed, rank, world_size)

    def streams(self) -> list[np.ndarray]:
        """One for each kind."""
        return [self.stream(_STREAM[k], self._items[k], n) for k, n in self.counts.items()]


class SeededDataLoader(DataLoader):
    """Data loader whose order and random states depend on its seed and the epoch alone.

    Args:
        dataset: items; ``set_epoch`` is told to it, too, where it has one.
        batch_sampler: batches of an epoch, chosen by its ``set_epoch``.
        seed: of the workers.
        num_workers: processes that load; 0 loads in this process.
        pin_memory: page-locked host memory, for faster copies to CUDA; None takes it where there is
            CUDA and the dataset's arrays are on the CPU.
        collate_fn: makes a batch of items.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_sampler: Sampler[list[int]],
        *,
        seed: int,
        num_workers: int,
        pin_memory: bool | None,
        collate_fn: Callable[[Any], Any],
    ) -> None:
        self.seed = seed
        if pin_memory is None:
            place = torch.device(getattr(dataset, "device", "cpu"))
            pin_memory = place.type == "cpu" and torch.cuda.is_available()
        # A generator of its own keeps worker seeds from drawing on the global random state,
        # which a resumed run restores.
        super().__init__(
            dataset,
            batch_sampler=batch_sampler,
            num_workers=num_workers,
            collate_fn=collate_fn,
            pin_memory=pin_memory,
            generator=torch.Generator(),
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose order and random states of the next pass."""
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
        self.generator.manual_seed(self.seed * 1_000_003 + epoch)
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)


class MixedDataLoader(SeededDataLoader):
    """Data loader of mixed batches.

    The dataset names the kind of each of its items in ``supervision``. A batch is one dictionary
    with ``counts`` items in the order full, partial, noisy, none; the dataset may make it at once
    (``__getitems__`` returning a dictionary, as :class:`mixseg.data.SliceDataset` does).

    Args:
        dataset: items with a ``supervision`` sequence.
        batch_full: fully labeled items in a batch (8 in the journal).
        batch_partial: partially labeled items in a batch (16 in the journal).
        batch_unlabeled: items without any label in a batch.
        batch_noisy: items with masks that may be wrong in a batch.
        epoch_length: batches an epoch, None for one pass over the longer stream.
        seed: of the order and of the workers.
        num_workers: processes that load; 0 loads in this process.
        pin_memory: see :class:`SeededDataLoader`.

    Examples:
        >>> class Toy(list):
        ...     supervision = ("full", "partial", "partial")
        >>> loader = MixedDataLoader(Toy([7, 8, 9]), batch_full=1, batch_partial=2)
        >>> loader.set_epoch(1)
        >>> [(batch[0].item(), sorted(batch[1:].tolist())) for batch in loader]
        [(7, [8, 9])]
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_full: int = 8,
        batch_partial: int = 16,
        batch_unlabeled: int = 0,
        batch_noisy: int = 0,
        *,
        epoch_length: int | None = None,
        seed: int = 0,
        num_workers: int = 0,
        pin_memory: bool | None = None,
    ) -> None:
        sampler = MixedBatchSampler(
            dataset.supervision,  # type: ignore[attr-defined]
            {
                "full": batch_full,
                "partial": batch_partial,
                "noisy": batch_noisy,
                "none": batch_unlabeled,
            },
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
            collate_fn=_collate,
        )


def _collate(items: Any) -> Any:
    """Pass on what the dataset has batched already."""
    return items if isinstance(items, dict) else torch.utils.data.default_collate(items)
