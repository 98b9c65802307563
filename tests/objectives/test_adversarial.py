"""Hung et al.: terms against float64 transcriptions, what the two networks learn from, refusals."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from mixseg.networks import VoxelDiscriminator
from mixseg.objectives import AdversarialSemiSupervised

CLASSES = 3
SIDES = [(16, 16), (8, 16, 8)]


def objective(dims: int = 2, **options: Any) -> AdversarialSemiSupervised:
    torch.manual_seed(4)
    discriminator = VoxelDiscriminator(dims, CLASSES, features=(4, 4)).double()
    with torch.no_grad():  # scores on both sides of the threshold
        for parameter in discriminator.parameters():
            parameter.mul_(4)
    return AdversarialSemiSupervised(discriminator, partial(Adam, lr=1e-3), **options)


def discriminator_of(method: AdversarialSemiSupervised) -> nn.Module:
    return method.networks["discriminator"].network


def make(sides: tuple[int, ...], batch: int = 2) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Logits of both kinds and labels, a quarter of which are unlabeled."""
    generator = torch.Generator().manual_seed(3)
    outputs = {
        kind: 2 * torch.randn(batch, CLASSES, *sides, generator=generator, dtype=torch.float64)
        for kind in ("full", "none")
    }
    label = torch.randint(0, CLASSES + 1, (batch, 1, *sides), generator=generator)
    image = torch.rand(batch, 1, *sides, generator=generator, dtype=torch.float64)
    return outputs, {"full": {"image": image, "label": label}, "none": {"image": image}}


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def judged(discriminator: nn.Module, maps: np.ndarray) -> np.ndarray:
    """σ(D(maps)), (B, *spatial)."""
    with torch.no_grad():
        scores = discriminator(torch.from_numpy(maps))
    return 1 / (1 + np.exp(-scores[:, 0].numpy()))


@pytest.mark.parametrize("sides", SIDES)
def test_terms_are_those_of_the_formulas(sides: tuple[int, ...]) -> None:
    method = objective(len(sides), threshold=0.5)
    outputs, batch = make(sides)
    networks = {"discriminator": discriminator_of(method)}
    found = {k: v.item() for k, v in method(outputs, batch, networks).items()}
    turn = method.turn("discriminator", outputs, batch, networks)

    label = batch["full"]["label"][:, 0].numpy()
    labeled = label < CLASSES
    p, q = (softmax(outputs[kind].numpy()) for kind in ("full", "none"))
    true = np.take_along_axis(p, np.minimum(label, CLASSES - 1)[:, None], axis=1)[:, 0]
    shown = judged(networks["discriminator"], p * labeled[:, None])
    free = judged(networks["discriminator"], q)
    trusted = free >= 0.5
    assert 0.02 < trusted.mean() < 0.98
    wanted = {
        "ce_full": -np.log(true[labeled]).mean(),
        "adversarial_full": -np.log(shown[labeled]).mean(),
        "adversarial_none": -np.log(free).mean(),
        "self_training": -np.log(q.max(axis=1)[trusted]).mean(),
    }
    assert found == pytest.approx(wanted, rel=1e-6)

    y = np.stack([label == c for c in range(CLASSES)], axis=1).astype(float)
    real = judged(networks["discriminator"], y)[labeled]
    fake = np.concatenate([shown[labeled], free.ravel()])
    assert list(turn) == ["discriminator"]
    assert turn["discriminator"].item() == pytest.approx(
        0.5 * -np.log(real).mean() + 0.5 * -np.log(1 - fake).mean(), rel=1e-6
    )


@pytest.mark.parametrize("sides", [(8, 8), (8, 8, 8)])
def test_gradients(sides: tuple[int, ...]) -> None:
    method = objective(len(sides), threshold=0.5)
    outputs, batch = make(sides, batch=1)
    networks = {"discriminator": discriminator_of(method)}
    networks["discriminator"].requires_grad_(False)

    def total(full: Tensor, none: Tensor) -> Tensor:
        terms = method({"full": full, "none": none}, batch, networks)
        return torch.stack([method.weights[k] * v.double() for k, v in terms.items()]).sum()

    leaves = [outputs[kind].requires_grad_() for kind in ("full", "none")]
    assert torch.autograd.gradcheck(total, leaves, fast_mode=True)


def test_unlabeled_voxels_change_neither_a_value_nor_a_gradient() -> None:
    method = objective()
    outputs, batch = make((16, 16))
    networks = {"discriminator": discriminator_of(method)}
    unlabeled = (batch["full"]["label"] == CLASSES).expand(-1, CLASSES, -1, -1)
    changed = outputs["full"].clone()
    changed[unlabeled] = 7 * changed[unlabeled].flip(0) + 1
    found = []
    for full in (outputs["full"], changed):
        leaf = full.clone().requires_grad_()
        seen = {"full": leaf, "none": outputs["none"]}
        terms = method(seen, batch, networks)
        (gradient,) = torch.autograd.grad(terms["ce_full"] + terms["adversarial_full"], leaf)
        assert not gradient[unlabeled].any()
        loss = method.turn("discriminator", seen, batch, networks)["discriminator"]
        own = torch.autograd.grad(loss, list(networks["discriminator"].parameters()))
        found.append((*terms.values(), gradient[~unlabeled], loss, *own))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_a_batch_is_the_mean_of_its_images() -> None:
    method = objective()
    outputs, batch = make((16, 16), batch=3)
    batch["full"]["label"] = batch["full"]["label"][:1].expand(3, -1, -1, -1)  # as many labels
    networks = {"discriminator": discriminator_of(method)}

    def losses(which: slice) -> dict[str, Tensor]:
        seen = {kind: logits[which] for kind, logits in outputs.items()}
        part = {"full": {"label": batch["full"]["label"][which]}}
        terms = method(seen, part, networks)
        del terms["self_training"]  # a mean over voxels whose number differs
        return terms | method.turn("discriminator", seen, part, networks)

    singles = [losses(slice(i, i + 1)) for i in range(3)]
    for name, value in losses(slice(None)).items():
        mean = torch.stack([single[name] for single in singles]).mean()
        torch.testing.assert_close(value, mean, rtol=1e-9, atol=0)


def test_the_network_s_argmax_is_followed_only_where_the_score_is_high() -> None:
    outputs, batch = make((16, 16))
    leaf = outputs["none"].clone().requires_grad_()
    method = objective(threshold=0.5)
    networks = {"discriminator": discriminator_of(method)}
    method({"none": leaf}, batch, networks)["self_training"].backward()
    assert leaf.grad is not None
    with torch.no_grad():
        trusted = networks["discriminator"](leaf.softmax(dim=1)).sigmoid() >= 0.5
    assert torch.equal(leaf.grad.abs().sum(dim=1, keepdim=True) > 0, trusted)
    none = objective(threshold=1.0)({"none": leaf}, batch, networks)
    assert none["self_training"].item() == 0


def test_weights_choose_the_terms() -> None:
    outputs, batch = make((16, 16))
    method = objective(lambda_adv=0, lambda_adv_none=0, lambda_semi=0)
    networks = {"discriminator": discriminator_of(method)}
    assert list(method(outputs, batch, networks)) == ["ce_full"]
    # The discriminator learns from the start, so that it knows something when others need it.
    assert list(method.turn("discriminator", outputs, batch, networks)) == ["discriminator"]
    assert method.turn("discriminator", {"none": outputs["none"]}, batch, networks) == {}
    assert not list(method.parameters())  # the set of networks holds it


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambda_adv": -1}, "^lambda_adv must not be negative, got -1$"),
        ({"lambda_adv_none": -1}, "^lambda_adv_none must not be negative, got -1$"),
        ({"lambda_semi": -0.1}, "^lambda_semi must not be negative, got -0.1$"),
        ({"threshold": 1.5}, r"^threshold must lie in \[0, 1\], got 1.5$"),
        ({"supervised_loss": "dice"}, "^supervised_loss must be one of cross_entropy, dice_cr"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        objective(**options)
