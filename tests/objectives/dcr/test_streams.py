"""Weighted and uniform streams: shares, seeds, ranks, resumes and the loader's batches."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from mixseg.data import SliceDataset
from mixseg.objectives.dcr import TutorialBatchSampler, TutorialDataLoader


def drawn(sampler: TutorialBatchSampler, epoch: int = 1) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


def test_primary_items_are_drawn_in_proportion_to_their_weights() -> None:
    weights = torch.tensor([0.0, 1.0, 2.0, 5.0])
    batches = drawn(TutorialBatchSampler(4, 8, weights=lambda: weights, epoch_length=1000))
    counts = Counter(item for batch in batches for item in batch[:8])
    assert counts[0] == 0
    # Binomial with n = 8,000: within five standard deviations.
    for item, share in ((1, 1 / 8), (2, 2 / 8), (3, 5 / 8)):
        assert abs(counts[item] - 8000 * share) < 5 * np.sqrt(8000 * share * (1 - share))


def test_auxiliary_items_are_drawn_evenly() -> None:
    weights = torch.tensor([1.0, 0.0, 0.0])
    batches = drawn(TutorialBatchSampler(3, 2, weights=lambda: weights, epoch_length=9))
    assert Counter(item for batch in batches for item in batch[2:]) == {0: 6, 1: 6, 2: 6}


def test_without_weights_both_streams_are_even_and_differ() -> None:
    batches = drawn(TutorialBatchSampler(50, 10))
    assert [len(batch) for batch in batches] == [20] * 5  # one pass
    primary, auxiliary = (
        [i for b in batches for i in b[part]] for part in (slice(10), slice(10, 20))
    )
    assert sorted(primary) == sorted(auxiliary) == list(range(50))
    assert primary != auxiliary


def test_only_the_primary_stream() -> None:
    assert [len(batch) for batch in drawn(TutorialBatchSampler(6, 3, auxiliary=False))] == [3, 3]


def test_draws_follow_seed_epoch_and_the_weights_when_the_pass_begins() -> None:
    weights = torch.ones(20)
    sampler = TutorialBatchSampler(20, 4, weights=lambda: weights, seed=3)
    first, second = drawn(sampler, 1), drawn(sampler, 2)
    assert first != second
    assert drawn(TutorialBatchSampler(20, 4, weights=lambda: weights, seed=3), 2) == second
    assert drawn(TutorialBatchSampler(20, 4, weights=lambda: weights, seed=4), 2) != second
    sampler.set_epoch(1)
    under_way = iter(sampler)
    begun = [next(under_way)]
    weights[:] = 0
    weights[7] = 1
    assert begun + list(under_way) == first
    assert {item for batch in drawn(sampler, 1) for item in batch[:4]} == {7}


def test_ranks_share_out_what_one_process_would_draw() -> None:
    weights = torch.rand(30, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"weights": lambda: weights, "epoch_length": 5}
    one = drawn(TutorialBatchSampler(30, 6, **options))
    two = [drawn(TutorialBatchSampler(30, 3, **options, rank=r, world_size=2)) for r in (0, 1)]
    for whole, first, second in zip(one, *two, strict=True):
        assert whole[:6] == first[:3] + second[:3]
        assert whole[6:] == first[3:] + second[3:]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 1.0], r"3 items need as many weights, got \(2,\)"),
        ([1.0, -1.0, 1.0], "not negative"),
        ([0.0, 0.0, 0.0], "not all 0"),
        ([1.0, float("nan"), 1.0], "finite"),
    ],
)
def test_weights_that_cannot_be_drawn_from(weights: list[float], message: str) -> None:
    sampler = TutorialBatchSampler(3, 2, weights=lambda: torch.tensor(weights))
    with pytest.raises(ValueError, match=message):
        next(iter(sampler))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "no item"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"epoch_length": 0}, "epoch_length must be at least 1"),
    ],
)
def test_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TutorialBatchSampler(**({"size": 3, "batch_size": 2} | arguments))


def slices(*kinds: str) -> SliceDataset:
    cases = [
        {
            "image": np.full((1, 4, 4, 1), i, np.float32),
            "label": np.zeros((1, 4, 4, 1), np.uint8),
            "supervision": kind,
            "case_id": f"c{i}",
        }
        for i, kind in enumerate(kinds)
    ]
    return SliceDataset(cases, progress=False)


def test_batches_name_their_streams_and_items() -> None:
    loader = TutorialDataLoader(slices("full", "noisy", "noisy", "noisy"), batch_size=2)
    loader.set_epoch(1)
    batches = list(loader)
    assert len(batches) == 2
    for batch in batches:
        assert batch["supervision"] == ["primary"] * 2 + ["auxiliary"] * 2
        # The pictures hold their own number.
        assert batch["image"].amax(dim=(1, 2, 3)).tolist() == batch["index"].tolist()
        assert batch["case_id"] == [f"c{i}" for i in batch["index"].tolist()]
    single = next(iter(TutorialDataLoader(slices("full", "noisy"), 2, auxiliary=False)))
    assert single["supervision"] == ["primary"] * 2


def test_items_of_a_dataset_that_makes_no_batches_are_collated() -> None:
    class Toy(list[dict[str, Any]]):
        supervision = ("full", "noisy")

    items = Toy({"image": torch.full((1,), i), "supervision": "noisy"} for i in range(2))
    batch = next(iter(TutorialDataLoader(items, batch_size=2)))
    assert batch["supervision"] == ["primary", "primary", "auxiliary", "auxiliary"]
    assert sorted(batch["image"][2:, 0].tolist()) == [0, 1]


def test_cases_without_labels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1 items have no label.*set num_unlabeled to 0"):
        TutorialDataLoader(slices("full", "none"), batch_size=1)
