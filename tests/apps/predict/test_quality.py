"""Expected Dice: the formula by hand, its invariances, and what it estimates."""

from __future__ import annotations

import numpy as np
import pytest

from mixseg.apps.predict.quality import expected_dice


def test_by_hand() -> None:
    # Class 1: p = .9 .6 .2 .1, mask on the first two: 2 · 1.5 / (1.8 + 2) = 0.78947…
    p = np.array([0.9, 0.6, 0.2, 0.1], np.float32)
    mask = np.array([1, 1, 0, 0], np.uint8)
    assert expected_dice(np.stack([1 - p, p]), mask) == pytest.approx(3 / 3.8, abs=1e-7)


def test_classes_that_are_not_found_do_not_count() -> None:
    p = np.array([[0.1, 0.9], [0.8, 0.05], [0.1, 0.05]], np.float32)
    mask = np.array([1, 0], np.uint8)
    assert expected_dice(p, mask) == pytest.approx(2 * 0.8 / (0.85 + 1), abs=1e-7)
    assert expected_dice(p, np.zeros(2, np.uint8)) is None


def test_certain_and_background_only_voxels() -> None:
    mask = np.zeros((5, 6, 7), np.uint8)
    mask[1:3, 2:5, 3:6] = 1
    sure = np.stack([mask == 0, mask == 1]).astype(np.float32)
    assert expected_dice(sure, mask) == 1.0
    # Voxels that are surely background change nothing.
    p = np.stack([1 - 0.7 * sure[1], 0.7 * sure[1]])
    wider = np.pad(p[1], 4)
    assert expected_dice(np.stack([1 - wider, wider]), np.pad(mask, 4)) == pytest.approx(
        expected_dice(p, mask), abs=1e-7
    )


def test_it_is_the_dice_that_probabilities_promise() -> None:
    """Of references drawn from the probabilities, the mean Dice comes near (ratio of means)."""
    rng = np.random.default_rng(0)
    p = np.clip(rng.normal(0.5, 0.35, 20_000), 0, 1).astype(np.float32)
    mask = (p > 0.5).astype(np.uint8)
    drawn = rng.random((50, p.size)) < p
    shared = (drawn & (mask == 1)).sum(axis=1)
    dice = 2 * shared / (drawn.sum(axis=1) + mask.sum())
    assert expected_dice(np.stack([1 - p, p]), mask) == pytest.approx(dice.mean(), abs=2e-3)


def test_a_component_that_was_dropped_lowers_it() -> None:
    p = np.array([0.9, 0.9, 0.1, 0.9, 0.9, 0.1], np.float32)
    both, one = np.array([1, 1, 0, 1, 1, 0], np.uint8), np.array([1, 1, 0, 0, 0, 0], np.uint8)
    probabilities = np.stack([1 - p, p])
    assert expected_dice(probabilities, one) < expected_dice(probabilities, both)  # type: ignore[operator]
