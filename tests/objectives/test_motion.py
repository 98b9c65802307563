"""Flips and rotations of batches, one of its own for each sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mixseg.objectives.motion import RandomMotion, draw_quarter_turns, turn


def test_a_quarter_turn_is_exact() -> None:
    """90° of square maps reads pixels' centers, and loses none."""
    motion = RandomMotion(2, 0, 0)
    motion.angles = torch.full((2,), torch.pi / 2, dtype=torch.float64)
    maps = torch.arange(2 * 3 * 4 * 4 * 2.0, dtype=torch.float64).view(2, 3, 4, 4, 2)
    found = motion(maps)
    either = [torch.rot90(maps, k, (2, 3)) for k in (1, -1)]
    assert any(torch.allclose(found, turned, atol=1e-9) for turned in either)
    assert motion.inside(maps).all()


def test_one_motion_a_sample_from_the_global_generator() -> None:
    maps = torch.randn(64, 1, 4, 6)
    torch.manual_seed(1)
    motion = RandomMotion(64, 45.0, 0.8)
    assert torch.equal(motion(maps), motion(maps))
    assert motion.flips.float().mean().item() == pytest.approx(0.8, abs=0.1)
    degrees = motion.angles.rad2deg()
    assert -45 <= degrees.min() < -35 < 35 < degrees.max() <= 45
    torch.manual_seed(1)
    again = RandomMotion(64, 45.0, 0.8)
    assert torch.equal(again(maps), motion(maps))


def test_turns_are_drawn_from_the_global_generator_and_undone() -> None:
    maps = torch.arange(2 * 3 * 4 * 4 * 2.0).view(2, 3, 4, 4, 2)
    torch.manual_seed(0)
    drawn = [draw_quarter_turns(maps) for _ in range(40)]
    torch.manual_seed(0)
    assert [draw_quarter_turns(maps) for _ in range(40)] == drawn
    assert {k for turns in drawn for k in turns} == {0, 1, 2, 3}
    for turns in drawn:
        turned = turn(maps, turns)
        for one, other, k in zip(maps, turned, turns, strict=True):
            np.testing.assert_array_equal(other.numpy(), np.rot90(one.numpy(), k, (1, 2)))
        assert torch.equal(turn(turned, turns, back=True), maps)
    assert {k for _ in range(40) for k in draw_quarter_turns(maps[:, :, :2])} == {0, 2}
