"""The shift between two sets of labels, against the counts and against what it is for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from mixseg.losses import log_prior_ratio


def test_value() -> None:
    label = torch.tensor([[0, 1, 2, 3], [2, 2, 3, 3]])  # 1, 1, 3 and three unlabeled
    reference = torch.tensor([0] * 6 + [1] * 2 + [3])  # 6, 2, 0
    expected = np.log(np.array([2, 2, 4]) / 8 / (np.array([7, 3, 1]) / 11))
    assert log_prior_ratio(label, reference, 3).numpy() == pytest.approx(expected)


@pytest.mark.parametrize("empty", [0, 1])
def test_nothing_labeled_gives_no_shift(empty: int) -> None:
    pair = [torch.tensor([0, 0, 1]), torch.tensor([1, 1, 0])]
    pair[empty] = torch.full((3,), 2)
    assert torch.equal(log_prior_ratio(pair[0], pair[1], 2), torch.zeros(2))


def test_a_class_that_is_absent_in_one_is_bounded() -> None:
    ratio = log_prior_ratio(torch.tensor([1] * 5000), torch.tensor([0] * 5000), 2)
    assert ratio.tolist() == [-3.0, 3.0]


def test_unlabeled_voxels_and_dtype_change_nothing() -> None:
    label, reference = torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])
    more = torch.cat([label, torch.full((7,), 2)]).to(torch.uint8)
    assert torch.equal(log_prior_ratio(more, reference, 2), log_prior_ratio(label, reference, 2))


def test_a_fit_to_shifted_labels_recovers_the_reference() -> None:
    """A classifier of one binary feature, fitted to a sample with five times the foreground.

    With p(x | y) alike in both, the best logits under the shift are those of the reference: the
    posterior by Bayes' rule from the reference's shares.
    """
    likelihood = np.array([[0.9, 0.1], [0.3, 0.7]])  # of x = 0, 1 given y = 0, 1
    share, reference = np.array([0.5, 0.5]), np.array([0.9, 0.1])
    joint = share[:, None] * likelihood
    n = 100_000
    ratio = log_prior_ratio(
        torch.repeat_interleave(torch.arange(2), torch.tensor((share * n).astype(int))),
        torch.repeat_interleave(torch.arange(2), torch.tensor((reference * n).astype(int))),
        2,
    ).numpy()

    def loss(weights: np.ndarray) -> float:
        z = weights.reshape(2, 2) + ratio  # logits (x, y)
        return float(-(joint.T * log_softmax(z, axis=1)).sum())

    found = softmax(minimize(loss, np.zeros(4)).x.reshape(2, 2), axis=1)
    expected = reference[:, None] * likelihood
    assert found == pytest.approx((expected / expected.sum(axis=0)).T, abs=1e-3)
    assert math.isclose(found[1, 1], 0.07 / (0.07 + 0.09), abs_tol=1e-3)
