"""s4GAN: terms against float64 transcriptions, what the two networks learn from, refusals."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from mixseg.networks import ImageDiscriminator
from mixseg.objectives import S4GAN

CLASSES, CHANNELS = 3, 2


def objective(dims: int = 2, **options: Any) -> S4GAN:
    torch.manual_seed(4)
    discriminator = ImageDiscriminator(dims, CLASSES + CHANNELS, features=(4, 4)).double().eval()
    with torch.no_grad():  # scores on both sides of the threshold
        for parameter in discriminator.parameters():
            parameter.mul_(3)
    return S4GAN(discriminator, partial(Adam, lr=1e-3), **options)


def discriminator_of(method: S4GAN) -> nn.Module:
    return method.networks["discriminator"].network


def make(sides: tuple[int, ...], batch: int = 4) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Logits of both kinds, images, and labels, of which the first has an unlabeled voxel."""
    generator = torch.Generator().manual_seed(3)
    outputs: dict[str, Tensor] = {}
    groups: dict[str, Any] = {}
    for kind in ("full", "none"):
        shape = (batch, CLASSES, *sides)
        outputs[kind] = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
        scale = torch.arange(1.0, batch + 1).view(-1, *[1] * (len(sides) + 1))
        image = torch.randn(batch, CHANNELS, *sides, generator=generator, dtype=torch.float64)
        groups[kind] = {"image": scale * image}
    label = torch.randint(0, CLASSES, (batch, 1, *sides), generator=generator)
    label[(0, 0, *[1] * len(sides))] = CLASSES
    groups["full"]["label"] = label
    return outputs, groups


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def judged(method: S4GAN, maps: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """σ(D) and features of pairs, each image scaled to 0…1."""
    scaled = np.stack([(x - x.min()) / (x.max() - x.min()) for x in images])
    with torch.no_grad():
        scores, features = discriminator_of(method)(
            torch.from_numpy(np.concatenate([maps, scaled], axis=1))
        )
    return 1 / (1 + np.exp(-scores.numpy())), features.numpy()


def threshold_between(method: S4GAN, outputs: dict[str, Tensor], batch: dict[str, Any]) -> float:
    """One that half of the images without labels pass."""
    p = softmax(outputs["none"].numpy())
    return float(np.median(judged(method, p, batch["none"]["image"].numpy())[0]))


@pytest.mark.parametrize("sides", [(8, 8), (4, 8, 4)])
def test_terms_are_those_of_the_formulas(sides: tuple[int, ...]) -> None:
    outputs, batch = make(sides)
    threshold = threshold_between(objective(len(sides)), outputs, batch)
    method = objective(len(sides), threshold=threshold)
    networks = {"discriminator": discriminator_of(method)}
    found = {k: v.item() for k, v in method(outputs, batch, networks).items()}
    turn = method.turn("discriminator", outputs, batch, networks)

    label = batch["full"]["label"][:, 0].numpy()
    labeled = label < CLASSES
    p, q = (softmax(outputs[kind].numpy()) for kind in ("full", "none"))
    true = np.take_along_axis(p, np.minimum(label, CLASSES - 1)[:, None], axis=1)[:, 0]
    y = np.stack([label == c for c in range(CLASSES)], axis=1).astype(float)
    complete = labeled.reshape(len(label), -1).all(axis=1)
    assert complete.tolist() == [False, True, True, True]
    real, real_features = judged(method, y[complete], batch["full"]["image"].numpy()[complete])
    fake, features = judged(method, q, batch["none"]["image"].numpy())
    chosen = fake > threshold
    assert chosen.sum() == 2
    wanted = {
        "ce_full": -np.log(true[labeled]).mean(),
        "feature_matching": np.abs(real_features.mean(axis=0) - features.mean(axis=0)).mean(),
        "self_training": -np.log(q.max(axis=1)[chosen]).mean(),
    }
    assert found == pytest.approx(wanted, rel=1e-6)
    assert list(turn) == ["discriminator"]
    assert turn["discriminator"].item() == pytest.approx(
        0.5 * -np.log(1 - fake).mean() + 0.5 * -np.log(real).mean(), rel=1e-6
    )


@pytest.mark.parametrize("sides", [(4, 4), (4, 4, 4)])
def test_gradients(sides: tuple[int, ...]) -> None:
    outputs, batch = make(sides, batch=2)
    threshold = threshold_between(objective(len(sides)), outputs, batch)
    method = objective(len(sides), threshold=threshold)
    networks = {"discriminator": discriminator_of(method)}
    networks["discriminator"].requires_grad_(False)

    def total(full: Tensor, none: Tensor) -> Tensor:
        terms = method({"full": full, "none": none}, batch, networks)
        return torch.stack([method.weights[k] * v.double() for k, v in terms.items()]).sum()

    leaves = [outputs[kind].requires_grad_() for kind in ("full", "none")]
    assert torch.autograd.gradcheck(total, leaves, fast_mode=True)


def test_images_with_unlabeled_voxels_change_nothing_of_the_discriminator() -> None:
    """Neither a value nor a gradient; nor do the unlabeled voxels of the cross-entropy."""
    method = objective()
    outputs, batch = make((8, 8))
    networks = {"discriminator": discriminator_of(method)}
    other = {kind: dict(group) for kind, group in batch.items()}
    other["full"]["image"] = batch["full"]["image"].clone()
    other["full"]["image"][0] = torch.rand(CHANNELS, 8, 8, dtype=torch.float64)
    changed = outputs["full"].clone()
    changed[0, :, 1, 1] += torch.arange(3.0)
    found = []
    for full, groups in ((outputs["full"], batch), (changed, other)):
        seen = {"full": full.clone().requires_grad_(), "none": outputs["none"].requires_grad_()}
        terms = method(seen, groups, networks)
        first = torch.autograd.grad(terms["ce_full"], seen["full"])[0]
        assert not first[0, :, 1, 1].any()
        second = torch.autograd.grad(terms["feature_matching"], seen["none"])[0]
        loss = method.turn("discriminator", seen, groups, networks)["discriminator"]
        own = torch.autograd.grad(loss, list(networks["discriminator"].parameters()))
        found.append((terms["ce_full"], terms["feature_matching"], second, loss, *own))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)


def test_a_batch_is_the_mean_of_its_images() -> None:
    """But for the features, of which the means over the batch are compared."""
    method = objective(lambda_fm=0, threshold=0)
    outputs, batch = make((8, 8))
    batch["full"]["label"].clamp_(max=CLASSES - 1)
    networks = {"discriminator": discriminator_of(method)}

    def losses(which: slice) -> dict[str, Tensor]:
        seen = {kind: logits[which] for kind, logits in outputs.items()}
        part = {k: {n: v[which] for n, v in group.items()} for k, group in batch.items()}
        terms = method(seen, part, networks)
        return terms | method.turn("discriminator", seen, part, networks)

    singles = [losses(slice(i, i + 1)) for i in range(4)]
    for name, value in losses(slice(None)).items():
        mean = torch.stack([single[name] for single in singles]).mean()
        torch.testing.assert_close(value, mean, rtol=1e-9, atol=0)


def test_brightness_and_contrast_of_an_image_change_no_score() -> None:
    method = objective()
    outputs, batch = make((8, 8))
    networks = {"discriminator": discriminator_of(method)}
    brighter = {kind: {**group, "image": 3 * group["image"] + 5} for kind, group in batch.items()}
    one, other = (
        method.turn("", outputs, b, {"": networks["discriminator"]}) for b in (batch, brighter)
    )
    torch.testing.assert_close(one["discriminator"], other["discriminator"])
    flat = {"none": {"image": torch.ones(4, CHANNELS, 8, 8, dtype=torch.float64)}}
    terms = method({"none": outputs["none"]}, flat, networks)
    assert terms["self_training"].isfinite()


def test_weights_and_kinds_choose_the_terms() -> None:
    outputs, batch = make((8, 8))
    method = objective(lambda_fm=0, lambda_st=0)
    networks = {"discriminator": discriminator_of(method)}
    assert list(method(outputs, batch, networks)) == ["ce_full"]
    assert list(method.turn("discriminator", outputs, batch, networks)) == ["discriminator"]
    assert method.turn("discriminator", {"none": outputs["none"]}, batch, networks) == {}
    alone = objective()({"none": outputs["none"]}, batch, networks)
    assert list(alone) == ["self_training"]
    assert not list(method.parameters())  # the set of networks holds the discriminator


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambda_fm": -1}, "^lambda_fm must not be negative, got -1$"),
        ({"lambda_st": -0.1}, "^lambda_st must not be negative, got -0.1$"),
        ({"threshold": -0.5}, r"^threshold must lie in \[0, 1\], got -0.5$"),
        ({"supervised_loss": "dice"}, "^supervised_loss must be one of cross_entropy, dice_cr"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        objective(**options)
