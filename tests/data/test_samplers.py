"""Mixed batches: counts, order, fairness, seeds, ranks and the data loader."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import Compose, RandFlipd, RandGaussianNoised

from mixseg.data import MixedBatchSampler, MixedDataLoader, SliceDataset

KINDS = ["partial", "full", "none", "partial", "partial", "full", "partial", "full", "partial"]
FULL, PARTIAL = {1, 5, 7}, {0, 3, 4, 6, 8}


def drawn(sampler: MixedBatchSampler, epoch: int = 1) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


def test_counts_and_order_of_every_batch() -> None:
    batches = drawn(MixedBatchSampler(KINDS, {"full": 2, "partial": 3}, epoch_length=7))
    assert len(batches) == 7
    for batch in batches:
        assert [KINDS[i] for i in batch] == ["full"] * 2 + ["partial"] * 3
    reversed_order = drawn(MixedBatchSampler(KINDS, {"partial": 1, "full": 2}, epoch_length=2))
    for batch in reversed_order:
        assert [KINDS[i] for i in batch] == ["partial", "full", "full"]


def test_items_without_labels_come_last() -> None:
    class Toy(list[int]):
        supervision = KINDS

    loader = MixedDataLoader(Toy(range(9)), batch_full=1, batch_partial=2, batch_unlabeled=1)
    loader.set_epoch(1)
    batches = [[KINDS[i] for i in batch.tolist()] for batch in loader]
    assert batches == [["full", "partial", "partial", "none"]] * 3


def test_no_item_is_ahead_of_another_by_more_than_one() -> None:
    batches = drawn(MixedBatchSampler(KINDS, {"full": 2, "partial": 3}, epoch_length=20))
    for first, last, items in ((0, 2, FULL), (2, 5, PARTIAL)):
        seen: Counter[int] = Counter(dict.fromkeys(items, 0))
        for item in (i for batch in batches for i in batch[first:last]):
            seen[item] += 1
            assert max(seen.values()) - min(seen.values()) <= 1
        assert set(seen) == items
        # 40 draws of 3 items, 60 draws of 5
        assert sum(seen.values()) == 20 * (last - first)


def test_one_pass_over_the_longer_stream_is_the_default_length() -> None:
    # ceil(5 partial / 3) = 2 batches, ceil(3 full / 1) = 3
    assert len(MixedBatchSampler(KINDS, {"full": 1, "partial": 3})) == 3
    assert len(MixedBatchSampler(KINDS, {"full": 2, "partial": 3})) == 2
    assert len(MixedBatchSampler(KINDS, {"full": 0, "partial": 3})) == 2
    assert len(MixedBatchSampler(KINDS, {"full": 1, "partial": 1})) == 5
    # two ranks draw twice as many a batch: ceil(3 / 2), ceil(5 / 2)
    assert len(MixedBatchSampler(KINDS, {"full": 1, "partial": 1}, world_size=2)) == 3
    assert len(MixedBatchSampler(KINDS, {"full": 1, "partial": 3}, epoch_length=11)) == 11
    pass_over_all = drawn(MixedBatchSampler(KINDS, {"full": 1, "partial": 1}))
    assert {batch[1] for batch in pass_over_all} == PARTIAL


def test_order_depends_on_seed_and_epoch_alone() -> None:
    kinds = ["full"] * 30 + ["partial"] * 60
    make = lambda seed: MixedBatchSampler(kinds, {"full": 4, "partial": 8}, seed=seed)  # noqa: E731
    one, other = make(3), make(3)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    first, second = drawn(one, 1), drawn(one, 2)
    np.random.seed(99)  # noqa: NPY002
    torch.manual_seed(99)
    assert drawn(other, 2) == second
    assert drawn(other, 1) == first
    assert first != second
    assert drawn(make(4), 1) != first
    # A kind's order does not hang on which other kinds are drawn.
    alone = drawn(MixedBatchSampler(kinds, {"partial": 8}, seed=3), 1)
    assert alone == [batch[4:] for batch in first]


def test_ranks_draw_disjoint_parts_of_each_pass() -> None:
    kinds = ["full"] * 12 + ["partial"] * 24
    counts = {"full": 2, "partial": 4}
    # 12 / (2·2) = 24 / (4·2) = 3 batches are one pass over both streams
    ranks = [drawn(MixedBatchSampler(kinds, counts, rank=r, world_size=2), 5) for r in (0, 1)]
    items = [[i for batch in batches for i in batch] for batches in ranks]
    assert all(len(batches) == 3 for batches in ranks)
    assert len(items[0]) == len(items[1]) == 18
    assert set(items[0]) | set(items[1]) == set(range(36))
    assert not set(items[0]) & set(items[1])


def test_absent_kind_is_reported_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        sampler = MixedBatchSampler(["full"] * 4, {"full": 2, "partial": 16})
    assert caplog.messages == ["no partial item in the data: batches hold none of the 16"]
    assert [len(batch) for batch in drawn(sampler)] == [2, 2]


@pytest.mark.parametrize(
    ("supervision", "options", "message"),
    [
        (
            KINDS,
            {"counts": {"weak": 2}},
            "unknown supervision kind 'weak'; known: full, partial, noisy, none",
        ),
        (KINDS, {"counts": {"full": -1}}, "the batch cannot hold -1 full items"),
        (
            ["none", "none"],
            {"counts": {"full": 8, "partial": 16}},
            "no batch can be drawn: the data hold ['none'], "
            "the batch asks for {'full': 8, 'partial': 16}",
        ),
        (
            KINDS,
            {"counts": {"full": 0, "partial": 0}},
            "no batch can be drawn: the data hold ['full', 'none', 'partial'], "
            "the batch asks for {'full': 0, 'partial': 0}",
        ),
        (
            KINDS,
            {"counts": {"full": 1}, "epoch_length": 0},
            "epoch_length must be at least 1, got 0",
        ),
    ],
)
def test_errors(supervision: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        MixedBatchSampler(supervision, **options)
    assert str(caught.value) == message


def make_dataset(slice_transform: Any = None, seed: int = 0) -> SliceDataset:
    generator = torch.Generator().manual_seed(0)
    cases = [
        {
            "image": torch.rand(1, 6, 6, 4, generator=generator),
            "label": torch.randint(0, 2, (1, 6, 6, 4), generator=generator),
            "supervision": kind,
            "case_id": f"case{i}",
        }
        for i, kind in enumerate(["full", "partial", "partial"])
    ]
    return SliceDataset(cases, slice_transform=slice_transform, seed=seed, progress=False)


def epoch_of(loader: MixedDataLoader, epoch: int) -> list[dict[str, Any]]:
    loader.set_epoch(epoch)
    return list(loader)


def equal(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> bool:
    return len(a) == len(b) and all(
        x.keys() == y.keys()
        and all(
            torch.equal(x[key], y[key]) if isinstance(x[key], torch.Tensor) else x[key] == y[key]
            for key in x
        )
        for x, y in zip(a, b, strict=True)
    )


def random_transform() -> Compose:
    return Compose(
        [
            RandFlipd(["image", "label"], prob=0.5, spatial_axis=0),
            RandGaussianNoised("image", prob=1.0, std=0.1),
        ]
    )


@pytest.mark.parametrize("augment", [False, True])
def test_workers_make_the_same_batches(augment: bool) -> None:
    def loader(num_workers: int) -> MixedDataLoader:
        dataset = make_dataset(random_transform() if augment else None)
        return MixedDataLoader(dataset, 2, 3, epoch_length=4, num_workers=num_workers)

    in_process, in_workers = loader(0), loader(2)
    for epoch in (1, 2):
        assert equal(epoch_of(in_process, epoch), epoch_of(in_workers, epoch))


def test_random_transforms_repeat_by_epoch_and_vary_within_it() -> None:
    loader = MixedDataLoader(make_dataset(random_transform()), 2, 3, epoch_length=12)
    first = epoch_of(loader, 1)
    second = epoch_of(loader, 2)
    assert equal(epoch_of(loader, 1), first)
    assert not equal(first, second)
    other = MixedDataLoader(make_dataset(random_transform()), 2, 3, epoch_length=12)
    np.random.seed(7)  # noqa: NPY002 (the global state plays no part)
    assert equal(epoch_of(other, 2), second)
    # The noise is drawn anew for each item: no two draws of a slice are the same.
    drawn_images = [image for batch in first + second for image in batch["image"]]
    assert len({tuple(image.flatten().tolist()) for image in drawn_images}) == len(drawn_images)
    reseeded = make_dataset(random_transform(), seed=5)
    assert not equal(epoch_of(MixedDataLoader(reseeded, 2, 3, epoch_length=12), 1), first)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_leaves_the_global_random_state_alone(num_workers: int) -> None:
    loader = MixedDataLoader(make_dataset(), 1, 1, num_workers=num_workers)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    epoch_of(loader, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_loader_collates_items_that_the_dataset_does_not_batch() -> None:
    class Items(torch.utils.data.Dataset):
        supervision = ("full", "partial", "full", "partial")

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"image": torch.full((1, 2), float(index)), "case_id": f"c{index}"}

    batch = next(iter(MixedDataLoader(Items(), 2, 2)))
    kinds = [Items.supervision[int(i)] for i in batch["image"][:, 0, 0]]
    assert kinds == ["full", "full", "partial", "partial"]
    assert batch["case_id"] == [f"c{int(i)}" for i in batch["image"][:, 0, 0]]
