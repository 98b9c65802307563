"""Terms of discriminators, against float64 transcriptions of the papers' formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mixseg.losses import feature_matching, labeled_maps, real_or_fake


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(2, 1, 5, 6), (2, 1, 4, 5, 6), (7,)])
def test_real_or_fake_is_the_binary_cross_entropy_where_selected(shape: tuple[int, ...]) -> None:
    scores = 3 * draw(*shape)
    mask = draw(*shape) > 0
    d = 1 / (1 + np.exp(-scores.numpy()))
    for real, value in ((True, -np.log(d)), (False, -np.log(1 - d))):
        assert real_or_fake(scores, real).item() == pytest.approx(value.mean(), rel=1e-12)
        found = real_or_fake(scores, real, mask=mask).item()
        assert found == pytest.approx(value[mask.numpy()].mean(), rel=1e-12)


def test_real_or_fake_gradients() -> None:
    scores, mask = draw(2, 1, 3, 4).requires_grad_(), draw(2, 1, 3, 4) > 0
    for real in (True, False):
        assert torch.autograd.gradcheck(lambda s, r=real: real_or_fake(s, r, mask=mask), scores)
    real_or_fake(scores, True, mask=mask).backward()
    assert scores.grad is not None
    assert not scores.grad[~mask].any()
    assert (scores.grad[mask] < 0).all()  # higher scores please more


def test_real_or_fake_of_nothing_and_of_certain_scores() -> None:
    scores = torch.full((4,), 1e4, requires_grad=True)
    assert real_or_fake(scores, False).item() == pytest.approx(1e4)  # and not infinite
    nothing = real_or_fake(scores, True, mask=torch.zeros(4, dtype=torch.bool))
    nothing.backward()
    assert nothing.item() == 0
    assert scores.grad is not None
    assert not scores.grad.any()
    assert real_or_fake(scores.bfloat16(), True).dtype == torch.float32


def test_real_or_fake_refusals() -> None:
    with pytest.raises(TypeError, match=r"^scores must be floating point, got torch.int64$"):
        real_or_fake(torch.zeros(2, dtype=torch.long), True)
    with pytest.raises(TypeError, match=r"^mask must be bool, got torch.float32$"):
        real_or_fake(torch.zeros(2), True, mask=torch.ones(2))
    with pytest.raises(ValueError, match=r"^mask must have the shape \(2, 1\) of the scores"):
        real_or_fake(torch.zeros(2, 1), True, mask=torch.ones(2, dtype=torch.bool))


def test_feature_matching_is_the_distance_of_the_means() -> None:
    real, fake = draw(3, 5), draw(4, 5).flip(1)
    wanted = np.abs(real.numpy().mean(0) - fake.numpy().mean(0)).mean()
    assert feature_matching(real, fake).item() == pytest.approx(wanted, rel=1e-12)
    assert torch.autograd.gradcheck(feature_matching, (real, fake.requires_grad_()))
    # Order and repetition of the images change no mean.
    assert feature_matching(real[[2, 0, 1]], torch.cat((fake, fake))).item() == pytest.approx(
        wanted, rel=1e-12
    )


def test_feature_matching_with_an_empty_set_is_0() -> None:
    fake = draw(4, 5).requires_grad_()
    value = feature_matching(draw(0, 5), fake)
    value.backward()
    assert value.item() == 0
    assert fake.grad is not None
    assert not fake.grad.any()
    with pytest.raises(ValueError, match=r"^features must be \(B, F\) and \(B', F\), got \(2, 3\)"):
        feature_matching(torch.zeros(2, 3), torch.zeros(2, 4))


@pytest.mark.parametrize("sides", [(4, 5), (3, 4, 5)])
def test_labeled_maps_are_the_masks_and_0_where_unlabeled(sides: tuple[int, ...]) -> None:
    label = torch.randint(0, 4, (2, 1, *sides), generator=torch.Generator().manual_seed(1))
    maps, labeled = labeled_maps(label.to(torch.uint8), 3)
    assert maps.shape == (2, 3, *sides)
    assert torch.equal(labeled, label < 3)
    for index in np.ndindex(2, *sides):
        batch, *place = index
        value = int(label[(batch, 0, *place)])
        wanted = [float(c == value) for c in range(3)]
        assert maps[(batch, slice(None), *place)].tolist() == wanted
