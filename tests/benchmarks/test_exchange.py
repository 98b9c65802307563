"""Exchange of regions between the images of a batch, a candidate for the flagship."""

from __future__ import annotations

from typing import Any

import torch
from exchange import ExchangeRegions

#: The recipe's augmentation, switched off.
STILL = dict.fromkeys(
    ("rotation", "scale", "aspect", "shift", "elastic", "intensity_probability"), 0.0
) | {"flip_axes": ()}


def exchange(**options: Any) -> ExchangeRegions:
    return ExchangeRegions(spatial_dims=2, num_classes=4, **STILL, **options)


def batch() -> dict[str, Any]:
    """Four images; an image and its label hold its number."""
    number = torch.arange(4).view(4, 1, 1, 1).expand(4, 1, 12, 9)
    return {"image": number.float(), "label": number.to(torch.uint8), "index": torch.arange(4)}


def test_a_box_of_image_and_label_changes_places() -> None:
    made = exchange(share=0.5, probability=1.0)
    places = set()
    for _ in range(20):
        out = made(batch())
        assert torch.equal(out["image"].round().to(torch.uint8), out["label"])
        assert torch.equal(out["index"], torch.arange(4))
        for i in range(4):
            moved = out["label"][i, 0] != i
            # Half of either side (4.5 pixels are rounded to 4), all from the partner.
            assert moved.sum() == 6 * 4
            assert (out["label"][i, 0][moved] == 3 - i).all()
            rows, columns = (moved.any(axis).nonzero().flatten() for axis in (1, 0))
            assert (rows[-1] - rows[0], columns[-1] - columns[0]) == (5, 3)
        places.add((int(rows[0]), int(columns[0])))
    assert len(places) > 5


def test_some_batches_stay_as_they_are() -> None:
    made = exchange(probability=0.5)
    kept = sum(torch.equal(made(batch())["label"], batch()["label"]) for _ in range(200))
    assert 70 < kept < 130


def test_a_restored_state_draws_the_same_boxes() -> None:
    made = exchange()
    state = {name: value.clone() for name, value in made.state_dict().items()}
    first = [made(batch())["label"] for _ in range(5)]
    made.load_state_dict(state)
    again = [made(batch())["label"] for _ in range(5)]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
