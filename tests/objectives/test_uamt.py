"""UA-MT against a float64 NumPy transcription of its paper, and its code's figures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mixseg.engines import ForwardStep, NetworkSet
from mixseg.handlers import WeightRamps
from mixseg.networks import DualBranchUNet
from mixseg.objectives import UAMT

from .pointwise import Pointwise, transcribed

CLASSES = 3
SIZE = (6, 4)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def make_batch(seed: int = 0, size: tuple[int, ...] = SIZE) -> dict[str, dict[str, Tensor]]:
    rng = np.random.default_rng(seed)
    return {
        "full": {
            "image": torch.from_numpy(rng.normal(0, 1, (2, 1, *size))),
            "label": torch.from_numpy(rng.integers(0, CLASSES + 1, (2, 1, *size))),
        },
        "none": {"image": torch.from_numpy(rng.normal(0, 1, (3, 1, *size)))},
    }


def supervised(z: np.ndarray, label: np.ndarray, rule: str) -> float:
    """Cross-entropy, and Dice of the foreground over the batch, on labeled voxels."""
    p, y = softmax(z), label[:, 0]
    known = y < CLASSES
    ce = -np.log(np.take_along_axis(p, np.minimum(y, CLASSES - 1)[:, None], 1)[:, 0])[known].mean()
    dice = []
    for c in range(1, CLASSES):
        pc, yc = p[:, c][known], (y == c)[known]
        dice.append(1 - (2 * (pc * yc).sum() + 1e-5) / ((pc**2).sum() + (yc**2.0).sum() + 1e-5))
    return float(ce) if rule == "ce" else float(0.5 * (ce + np.mean(dice)))


def consistency(
    network: Pointwise, teacher: Pointwise, image: np.ndarray, certainty: float, seed: int, **o: Any
) -> tuple[float, float]:
    """The term, and the share of voxels that take part."""
    torch.manual_seed(seed)

    def noisy() -> np.ndarray:
        noise = torch.randn(image.shape, dtype=torch.float64).numpy() * o["noise_sd"]
        return image + np.clip(noise, -o["noise_limit"], o["noise_limit"])

    target = softmax(transcribed(teacher, noisy()))
    mean = np.mean([softmax(transcribed(teacher, noisy())) for _ in range(o["passes"])], axis=0)
    uncertainty = -(mean * np.log(mean)).sum(axis=1)
    kept = uncertainty < (0.75 + 0.25 * certainty) * np.log(CLASSES)
    squared = ((softmax(transcribed(network, image)) - target) ** 2).sum(axis=1)
    return float((kept * squared).sum() / (CLASSES * kept.sum())), float(kept.mean())


@pytest.mark.parametrize("rule", ["ce_dice", "ce"])
@pytest.mark.parametrize("certainty", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    "options",
    [
        {"passes": 8, "noise_sd": 0.1, "noise_limit": 0.2},
        {"passes": 3, "noise_sd": 0.5, "noise_limit": 0.3},
    ],
)
def test_terms_equal_transcription(rule: str, certainty: float, options: dict[str, Any]) -> None:
    objective = UAMT(supervised=rule, certainty=certainty, **options)
    networks = {"network": Pointwise(1, SIZE), "ema": Pointwise(2, SIZE)}
    batch = make_batch()
    outputs = {k: networks["network"](batch[k]["image"], branch="main") for k in batch}
    torch.manual_seed(7)
    terms = objective(outputs, batch, networks)

    z = transcribed(networks["network"], batch["full"]["image"].numpy())
    expected, share = consistency(
        networks["network"],
        networks["ema"],
        batch["none"]["image"].numpy(),
        certainty,
        7,
        **options,
    )
    assert terms["supervised"].item() == pytest.approx(
        supervised(z, batch["full"]["label"].numpy(), rule),
        rel=1e-7,  # MONAI's Dice has one-hot labels in float32
    )
    assert terms["consistency"].item() == pytest.approx(expected, rel=1e-9)
    # The gate is neither open nor shut; at certainty 1 it is the largest possible entropy.
    assert 0.3 < share < 1 or (certainty, share) == (1.0, 1.0)
    assert networks["ema"].calls == 1 + options["passes"]


def test_equals_the_authors_code() -> None:
    """`train_LA_meanteacher_certainty_unlabel.py` on float32 tensors of two classes in 3D.

    Its lines from the noise to the losses ran with the same networks, images and seed, at
    iteration 0, where r is exp(-5); 44 % of the voxels were kept.
    """
    size = (4, 4, 8)
    rng = np.random.default_rng(3)
    image = torch.from_numpy(rng.normal(0, 1, (4, 1, *size)).astype(np.float32))
    label = torch.from_numpy(rng.integers(0, 2, (2, 1, *size)))
    networks = {"network": Pointwise(1, size, 2).float(), "ema": Pointwise(2, size, 2).float()}
    batch = {"full": {"image": image[:2], "label": label}, "none": {"image": image[2:]}}
    outputs = {k: networks["network"](batch[k]["image"], branch="main") for k in batch}
    torch.manual_seed(11)
    terms = UAMT(certainty=math.exp(-5))(outputs, batch, networks)
    assert terms["supervised"].item() == pytest.approx(AUTHORS["supervised"], rel=1e-5)
    assert terms["consistency"].item() == pytest.approx(AUTHORS["consistency"], rel=1e-5)


#: What that run printed.
AUTHORS = {"supervised": 0.6981920003890991, "consistency": 0.2813471853733063}


def test_zero_weight_asks_no_teacher() -> None:
    objective = UAMT(lambda_con=0)
    assert objective.branches == {"full": "main"}
    assert objective.weights == {"supervised": 1.0}
    networks = {"network": Pointwise(1, SIZE), "ema": Pointwise(2, SIZE)}
    batch = make_batch()
    outputs = {"full": networks["network"](batch["full"]["image"], branch="main")}
    assert set(objective(outputs, batch, networks)) == {"supervised"}
    assert networks["ema"].calls == 0


def test_branches_and_weights() -> None:
    objective = UAMT(0.25)
    assert objective.branches == {"full": "main", "none": "main"}
    assert objective.trained_branches == ("main",)
    assert objective.inference_branch == "main"
    assert objective.weights == {"supervised": 1.0, "consistency": 0.25}
    (spec,) = objective.networks.values()
    assert (spec.average_of, spec.decay, spec.per, spec.buffers) == (
        "network", 0.99, "iteration", False,
    )  # fmt: skip


def test_ramps_of_ua_mt() -> None:
    """0.1 r(⌊t/150⌋, 40) and r(t, 6000), r = exp(-5 (1 - t/T)²)."""
    objective = UAMT()
    ramps = WeightRamps(
        objective,
        {"lambda_con": {"length": 6000, "step": 150}, "certainty": 6000},
        shape="gaussian",
    )

    class Engine:
        class state:
            iteration = 3100

    ramps(Engine)
    assert objective.weights["consistency"] == pytest.approx(
        0.1 * math.exp(-5 * (1 - 20 / 40) ** 2)
    )
    assert objective.certainty == pytest.approx(math.exp(-5 * (1 - 3100 / 6000) ** 2))


def test_missing_kinds_are_left_out() -> None:
    networks = {"network": Pointwise(1, SIZE), "ema": Pointwise(2, SIZE)}
    batch = make_batch()
    outputs = {k: networks["network"](batch[k]["image"], branch="main") for k in batch}
    for kind, name in (("full", "supervised"), ("none", "consistency")):
        terms = UAMT()({kind: outputs[kind]}, {kind: batch[kind]}, networks)
        assert set(terms) == {name}


def test_unlabeled_voxels_do_not_matter() -> None:
    batch = make_batch()
    label = batch["full"]["label"]
    unknown = (label == CLASSES).expand(-1, CLASSES, -1, -1)
    assert 0 < unknown.sum() < unknown.numel()
    logits = torch.randn(2, CLASSES, *SIZE, dtype=torch.float64)
    found = []
    for shift in (0.0, 5.0):
        z = (logits + shift * unknown * torch.randn_like(logits)).requires_grad_()
        value = UAMT()({"full": z}, {"full": batch["full"]}, {})["supervised"]
        (gradient,) = torch.autograd.grad(value, z)
        assert not gradient[unknown].any()
        found.append(value.item())
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_batch_is_the_mean_of_its_images() -> None:
    """Without noise, and with a gate that leaves all voxels in."""
    networks = {"network": Pointwise(1, SIZE), "ema": Pointwise(2, SIZE)}
    image = make_batch()["none"]["image"]
    objective = UAMT(noise_sd=0)
    values = [
        objective(
            {"none": networks["network"](part, branch="main")},
            {"none": {"image": part}},
            networks,
        )["consistency"].item()
        for part in (image, *image.split(1))
    ]
    assert values[0] == pytest.approx(np.mean(values[1:]), rel=1e-12)


def unet_step(objective: UAMT) -> tuple[ForwardStep, dict[str, dict[str, Tensor]]]:
    torch.manual_seed(0)
    network = DualBranchUNet(features=(4, 8), out_channels=CLASSES, branches=1)
    networks = NetworkSet(network, objective)
    groups = {
        kind: {name: value[..., :4, :4] for name, value in group.items()}
        for kind, group in make_batch().items()
    }
    for group in groups.values():
        group["image"] = group["image"].float()
    return ForwardStep(networks, objective).train(), groups


@pytest.mark.parametrize("term", ["supervised", "consistency"])
def test_gradients_reach_the_network_alone(term: str) -> None:
    step, groups = unet_step(UAMT())
    step(groups)[term].backward()
    assert all(p.grad is not None for p in step.networks["network"].parameters())
    assert any(bool(p.grad.any()) for p in step.networks["network"].parameters())
    assert all(p.grad is None for p in step.networks["ema"].parameters())


def test_teacher_is_stochastic_and_keeps_statistics_of_its_own() -> None:
    step, groups = unet_step(UAMT(noise_sd=0, passes=3))
    teacher = step.networks["ema"]
    assert teacher.training
    seen: list[Tensor] = []
    teacher.register_forward_hook(lambda *call: seen.append(call[2]))
    step(groups)
    assert len(seen) == 4
    assert not torch.equal(seen[0], seen[1])  # dropout: there is no noise here
    assert not any(z.requires_grad for z in seen)
    counts = {
        name: buffer.item()
        for name, buffer in teacher.named_buffers()
        if name.endswith("num_batches_tracked")
    }
    assert set(counts.values()) == {4}


def test_half_precision() -> None:
    step, groups = unet_step(UAMT())
    with torch.autocast("cpu", torch.bfloat16):
        terms = step(groups)
    assert {term.dtype for term in terms.values()} == {torch.float32}
    sum(terms.values()).backward()
    gradients = [p.grad for p in step.networks["network"].parameters()]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)
    assert any(bool(g.any()) for g in gradients)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambda_con": -1}, "lambda_con must not be negative, got -1"),
        ({"supervised": "dice"}, "supervised must be one of ce_dice, ce, got 'dice'"),
        ({"passes": 0}, "passes must be at least 1, got 0"),
        ({"noise_sd": -0.1}, "noise_sd must not be negative, got -0.1"),
        ({"noise_limit": -0.2}, "noise_limit must not be negative, got -0.2"),
        ({"certainty": 1.5}, r"certainty must lie in \[0, 1\], got 1.5"),
        ({"decay": 1.0}, r"decay must lie in \[0, 1\), got 1.0"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        UAMT(**options)


def test_parameters_of_table_8() -> None:
    with torch.device("meta"):
        networks = NetworkSet(DualBranchUNet(branches=1), UAMT())
    assert sum(p.numel() for p in networks.parameters()) == 62_084_868
    assert sum(p.numel() for p in networks.trained_parameters()) == 31_042_434
