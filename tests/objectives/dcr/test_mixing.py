"""Regions and boxes: what is pasted, how often, and what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mixseg.objectives.dcr.objective import draw_boxes, draw_regions


def test_region_is_one_annotated_foreground_class_drawn_evenly() -> None:
    """Classes 1, 2 and 4 of five are there; class 3 is not, 5 is unlabeled, 0 background."""
    label = torch.tensor([0, 1, 1, 2, 4, 5]).view(1, 1, 2, 3).expand(3000, -1, -1, -1).clone()
    torch.manual_seed(0)
    found = draw_regions(label, 5)
    assert found.shape == label.shape
    chosen = [set(row[mask].tolist()) for row, mask in zip(label, found, strict=True)]
    counts = [sum(classes == {c} for classes in chosen) for c in (1, 2, 4)]
    assert sum(counts) == 3000
    assert min(counts) > 900  # 1000 expected, standard deviation 26
    whole = [bool(torch.equal(mask, row == next(iter(classes)))) for row, mask, classes in
             zip(label, found, chosen, strict=True)]  # fmt: skip
    assert all(whole)


@pytest.mark.parametrize("value", [0, 5])
def test_nothing_is_pasted_without_annotated_foreground(value: int) -> None:
    label = torch.full((4, 1, 3, 3), value, dtype=torch.uint8)
    assert not draw_regions(label, 5).any()


@pytest.mark.parametrize("size", [(40, 60), (20, 30, 24)])
def test_boxes_have_uniform_shares(size: tuple[int, ...]) -> None:
    """Boxes that no border cuts cover what was drawn; all of them are full boxes."""
    torch.manual_seed(3)
    found = draw_boxes(torch.zeros(200, 1, *size)).squeeze(1)
    torch.manual_seed(3)
    shares = torch.rand(200)
    assert found.shape == (200, *size)
    uncut = 0
    for mask, share in zip(found, shares, strict=True):
        extent = [torch.nonzero(mask.any(dim=[d for d in range(len(size)) if d != axis]).flatten())
                  for axis in range(len(size))]  # fmt: skip
        if not mask.any():
            continue
        sides = [int(e.max() - e.min() + 1) for e in extent]
        assert np.prod(sides) == mask.sum()
        full = [2 * (int(side * float(share) ** (1 / len(size))) // 2) for side in size]
        assert all(a <= b for a, b in zip(sides, full, strict=True))
        if sides == full:
            uncut += 1
    assert uncut > 20


def test_draws_do_not_depend_on_labels() -> None:
    torch.manual_seed(0)
    draw_regions(torch.zeros(4, 1, 2, 2), 3)
    after = torch.rand(1)
    torch.manual_seed(0)
    draw_regions(torch.ones(4, 1, 2, 2), 3)
    assert torch.equal(torch.rand(1), after)
