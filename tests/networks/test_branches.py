"""``ensemble_logits``: means of any number of softmax outputs."""

from __future__ import annotations

import pytest
import scipy.special
import torch

from mixseg.networks import ensemble_logits


@pytest.mark.parametrize("count", [1, 2, 5])
def test_its_softmax_is_the_mean(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    logits = 5 * torch.randn(count, 2, 3, 4, 5, generator=generator, dtype=torch.float64)
    found = torch.softmax(ensemble_logits(*logits.unbind()), dim=1).numpy()
    expected = scipy.special.softmax(logits.numpy(), axis=2).mean(axis=0)
    assert found == pytest.approx(expected, rel=1e-12)


def test_large_logits_stay_finite() -> None:
    sure = torch.tensor([1e4, -1e4]).view(1, 2, 1)
    found = ensemble_logits(sure, sure.flip(1), sure)
    assert found.exp().flatten().tolist() == pytest.approx([2 / 3, 1 / 3], rel=1e-6)
