"""Reconstruction of each class's part, against a float64 transcription."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mixseg.losses import attention_reconstruction


def make(sides: tuple[int, ...], classes: int = 3, channels: int = 2) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(6)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return draw(2, classes * channels, *sides), draw(2, channels, *sides), draw(2, classes, *sides)


@pytest.mark.parametrize("sides", [(4, 5), (3, 4, 5)])
def test_the_value_is_that_of_the_formula(sides: tuple[int, ...]) -> None:
    reconstruction, image, logits = make(sides)
    e = np.exp(logits.numpy())
    p = e / e.sum(axis=1, keepdims=True)
    squares = [
        (reconstruction.numpy()[:, 2 * c + k] - p[:, c] * image.numpy()[:, k]) ** 2
        for c in range(3)
        for k in range(2)
    ]
    found = attention_reconstruction(reconstruction, image, logits)
    assert found.item() == pytest.approx(np.mean(squares), rel=1e-12)


@pytest.mark.parametrize("sides", [(3, 4), (2, 3, 2)])
def test_gradients(sides: tuple[int, ...]) -> None:
    reconstruction, image, logits = make(sides)
    leaves = reconstruction.requires_grad_(), logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda r, z: attention_reconstruction(r, image, z), leaves)
    attention_reconstruction(reconstruction, image, logits, through_attention=False).backward()
    assert logits.grad is None
    assert reconstruction.grad is not None
    assert reconstruction.grad.any()


def test_parts_that_fit_cost_nothing_and_a_batch_is_the_mean_of_its_images() -> None:
    reconstruction, image, logits = make((4, 5))
    p = logits.softmax(dim=1)
    parts = torch.cat([p[:, c : c + 1] * image for c in range(3)], dim=1)
    assert attention_reconstruction(parts, image, logits).item() == pytest.approx(0, abs=1e-30)
    singles = [
        attention_reconstruction(reconstruction[i : i + 1], image[i : i + 1], logits[i : i + 1])
        for i in range(2)
    ]
    whole = attention_reconstruction(reconstruction, image, logits)
    torch.testing.assert_close(whole, (singles[0] + singles[1]) / 2)


def test_shapes_that_do_not_match_are_refused() -> None:
    reconstruction, image, logits = make((4, 5))
    with pytest.raises(ValueError, match=r"must have shape \(2, 6, 4, 5\), got \(2, 5, 4, 5\)$"):
        attention_reconstruction(reconstruction[:, 1:], image, logits)
    with pytest.raises(ValueError, match=r"^a reconstruction of images of shape \(1, 2, 4, 5\)"):
        attention_reconstruction(reconstruction, image[:1], logits)
