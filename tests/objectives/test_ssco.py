"""SSCO against a float64 NumPy transcription of its paper, and its code's figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mixseg.engines import ForwardStep, NetworkSet
from mixseg.handlers import WeightRamps
from mixseg.networks import DualBranchUNet
from mixseg.objectives import SSCO, NetworkSpec

CLASSES = 3


class Pointwise(nn.Module):
    """Logits scale_c · tanh(3 image) + map_c; the map makes a turn of the image matter."""

    def __init__(self, seed: int, size: tuple[int, ...], flat: bool = False) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        ones = (1,) * len(size)
        self.scale = nn.Parameter(torch.from_numpy(rng.normal(0, 2.5, (1, CLASSES, *ones))))
        self.map = nn.Parameter(torch.from_numpy(rng.normal(0, 1.0, (1, CLASSES, *size))))
        if flat:
            self.map.data.zero_()
        self.calls = 0

    def forward(self, image: Tensor, branch: str) -> Tensor:
        assert branch == "main"
        self.calls += 1
        return self.scale * torch.tanh(3 * image) + self.map


def transcribed(network: Pointwise, image: np.ndarray) -> np.ndarray:
    z = network.scale.detach().numpy() * np.tanh(3 * image) + network.map.detach().numpy()
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def make_networks(count: int, size: tuple[int, ...], **options: Any) -> dict[str, Pointwise]:
    """Students that agree in part, so that some voxels have a confident class."""
    names = ["network", *(f"peer_{k}" for k in range(2, count + 1))]
    networks = {name: Pointwise(k, size, **options) for k, name in enumerate(names)}
    for name in names[1:]:
        networks[name].scale.data.mul_(0.2).add_(networks["network"].scale.data)
    return networks | {f"ema_{k}": Pointwise(20 + k, size, **options) for k in range(1, count + 1)}


def make_batch(size: tuple[int, ...], seed: int = 0) -> dict[str, dict[str, Tensor]]:
    rng = np.random.default_rng(seed)
    return {
        "full": {
            "image": torch.from_numpy(rng.normal(0, 1, (2, 1, *size))),
            "label": torch.from_numpy(rng.integers(0, CLASSES + 1, (2, 1, *size))),
        },
        "none": {"image": torch.from_numpy(rng.normal(0, 1, (3, 1, *size)))},
    }


def run(
    objective: SSCO, batch: dict[str, dict[str, Tensor]], networks: dict[str, Pointwise], seed: int
) -> dict[str, Tensor]:
    outputs = {"full": networks["network"](batch["full"]["image"], branch="main")}
    torch.manual_seed(seed)
    return objective(outputs, batch, networks)


def entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(p)).sum(axis=1)


def expected_terms(
    batch: dict[str, dict[str, Tensor]],
    networks: dict[str, Pointwise],
    students: int,
    seed: int,
    *,
    rotation: str,
    gamma: float,
    alpha: float,
    confidence: float,
    unconfident_weight: float,
) -> tuple[dict[str, float], float]:
    """Means over voxels of the paper's formulas, and the share of voxels with a target."""
    names = ["network", *(f"peer_{k}" for k in range(2, students + 1))]
    image, label = batch["full"]["image"].numpy(), batch["full"]["label"].numpy()
    known = label < CLASSES
    picked = [
        -np.log(np.take_along_axis(transcribed(networks[n], image), np.minimum(label, 2), 1))
        for n in names
    ]
    unlabeled = batch["none"]["image"].numpy()
    square = unlabeled.shape[2] == unlabeled.shape[3]

    torch.manual_seed(seed)

    def draw() -> list[int]:
        count = len(unlabeled)
        if square:
            return torch.randint(4, (count,)).tolist()
        return [2 * k for k in torch.randint(2, (count,)).tolist()]

    p, turns = [], draw()
    for i, name in enumerate(names):
        if i and rotation == "own":
            turns = draw()
        turned = np.stack([np.rot90(x, k, (1, 2)) for x, k in zip(unlabeled, turns, strict=True)])
        seen = transcribed(networks[name], turned)
        p.append(np.stack([np.rot90(q, -k, (1, 2)) for q, k in zip(seen, turns, strict=True)]))

    mean = sum(p) / students
    confident = mean.max(axis=1) > confidence
    target = mean.argmax(axis=1)
    weights = []
    for q in p:
        divergence = -np.log(np.take_along_axis(q, target[:, None], 1)[:, 0])
        weight = np.maximum(1 - divergence / gamma, 1e-5)
        weights.append(np.where(confident, weight, unconfident_weight))
    total = sum(weights)
    with np.errstate(invalid="ignore"):
        mixture = sum((w / total)[:, None] * q for w, q in zip(weights, p, strict=True))
    own = sum(w * entropy(q) for w, q in zip(weights, p, strict=True)) / students
    values = np.where(total > 0, entropy(mixture) - (1 - alpha) * own, 0)
    teachers = [transcribed(networks[f"ema_{k}"], unlabeled) for k in range(1, students + 1)]
    return {
        "ce_full": float(np.mean([x[known].mean() for x in picked])),
        "co_training": float(values.mean()),
        "self_consistency": float(
            np.mean([((q - t) ** 2).mean() for q, t in zip(p, teachers, strict=True)])
        ),
    }, float(confident.mean())


@pytest.mark.parametrize("students", [2, 3, 4])
@pytest.mark.parametrize("size", [(4, 4), (4, 6), (4, 4, 3)])
@pytest.mark.parametrize("rotation", ["own", "shared"])
@pytest.mark.parametrize(("gamma", "alpha", "unconfident_weight"), [(8, 1e-5, 0), (0.2, 0.3, 1)])
def test_terms_equal_transcription(
    students: int,
    size: tuple[int, ...],
    rotation: str,
    gamma: float,
    alpha: float,
    unconfident_weight: float,
) -> None:
    options: dict[str, Any] = {
        "rotation": rotation,
        "gamma": gamma,
        "alpha": alpha,
        "confidence": 0.7,
        "unconfident_weight": unconfident_weight,
    }
    batch, networks = make_batch(size), make_networks(students, size)
    terms = run(SSCO(students=students, **options), batch, networks, seed=5)
    expected, share = expected_terms(batch, networks, students, 5, **options)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-9)
    assert 0.02 < share < 0.98  # voxels with a target, and voxels without


#: What the authors' code returned (see below); γ moves the co-training alone.
AUTHORS = {"ce_full": 0.5287225246429443, "self_consistency": 0.24607859551906586}
AUTHORS_CO_TRAINING = {8.0: 0.10238271951675415, 0.2: 0.11309695243835449}


@pytest.mark.parametrize("gamma", [8.0, 0.2])
def test_equals_the_authors_code(gamma: float) -> None:
    """`CoMTSelf._run_step` with two students, on the same networks, images and turns.

    Its cross-entropy is divided by C; its divergence of 0 at voxels without a target is set to
    1e-3, so that their weight is 1 - 1e-3/γ where it is 1 here.
    """
    size = (4, 4)
    networks = {n: v.float() for n, v in make_networks(2, size).items()}
    batch = make_batch(size)
    batch["full"]["label"] = batch["full"]["label"].clamp(max=CLASSES - 1)
    for group in batch.values():
        group["image"] = group["image"].float()
    objective = SSCO(
        students=2, gamma=gamma, alpha=1e-5, rotation="shared", unconfident_weight=1 - 1e-3 / gamma
    )
    terms = {name: term.item() for name, term in run(objective, batch, networks, 5).items()}
    terms["ce_full"] /= CLASSES
    expected = AUTHORS | {"co_training": AUTHORS_CO_TRAINING[gamma]}
    assert terms == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("weights", "names", "student_passes", "teacher_passes"),
    [
        ((0.5, 4), {"ce_full", "co_training", "self_consistency"}, 2, 1),
        ((0.5, 0), {"ce_full", "co_training"}, 2, 0),
        ((0, 4), {"ce_full", "self_consistency"}, 2, 1),
        ((0, 0), {"ce_full"}, 1, 0),
    ],
)
def test_zero_weights_forward_nothing(
    weights: tuple[float, float], names: set[str], student_passes: int, teacher_passes: int
) -> None:
    batch, networks = make_batch((4, 4)), make_networks(2, (4, 4))
    objective = SSCO(*weights, students=2)
    assert set(run(objective, batch, networks, 0)) == names
    assert set(objective.weights) == names
    assert {name: network.calls for name, network in networks.items()} == {
        "network": student_passes,
        "peer_2": student_passes,
        "ema_1": teacher_passes,
        "ema_2": teacher_passes,
    }


def test_networks_and_branches() -> None:
    objective = SSCO(students=3)
    assert objective.branches == {"full": "main"}
    assert objective.trained_branches == ("main",)
    assert objective.inference_branch == "main"
    assert objective.networks == {
        "peer_2": NetworkSpec(),
        "peer_3": NetworkSpec(),
        "ema_1": NetworkSpec(average_of="network", decay=0.999, per="epoch"),
        "ema_2": NetworkSpec(average_of="peer_2", decay=0.999, per="epoch"),
        "ema_3": NetworkSpec(average_of="peer_3", decay=0.999, per="epoch"),
    }


def test_missing_kinds_are_left_out() -> None:
    batch, networks = make_batch((4, 4)), make_networks(2, (4, 4))
    objective = SSCO(students=2)
    logits = networks["network"](batch["full"]["image"], branch="main")
    assert set(objective({"full": logits}, {"full": batch["full"]}, networks)) == {"ce_full"}
    assert set(objective({}, {"none": batch["none"]}, networks)) == {
        "co_training",
        "self_consistency",
    }


def test_unlabeled_voxels_do_not_matter() -> None:
    """Images differ where nothing is labeled; the networks look at one voxel at a time."""
    batch, networks = make_batch((4, 4)), make_networks(2, (4, 4))
    unknown = batch["full"]["label"] == CLASSES
    assert 0 < unknown.sum() < unknown.numel()
    before = run(SSCO(students=2), batch, networks, 0)["ce_full"].item()
    batch["full"]["image"] = batch["full"]["image"] + 3.0 * unknown
    assert run(SSCO(students=2), batch, networks, 0)["ce_full"].item() == pytest.approx(before)


def test_batch_is_the_mean_of_its_images() -> None:
    """With networks that look at one voxel, whose logits a turn and its undoing leave alone."""
    networks = make_networks(3, (4, 4), flat=True)
    image = make_batch((4, 4))["none"]["image"]
    objective = SSCO(students=3)
    whole, *parts = (
        objective({}, {"none": {"image": part}}, networks) for part in (image, *image.split(1))
    )
    for name, term in whole.items():
        assert term.item() == pytest.approx(np.mean([p[name].item() for p in parts]), rel=1e-12)


def unet_step(objective: SSCO) -> tuple[ForwardStep, dict[str, dict[str, Tensor]]]:
    torch.manual_seed(0)
    network = DualBranchUNet(features=(4, 8), out_channels=CLASSES, branches=1)
    groups = make_batch((4, 4))
    for group in groups.values():
        group["image"] = group["image"].float()
    return ForwardStep(NetworkSet(network, objective), objective).train(), groups


@pytest.mark.parametrize("term", ["ce_full", "co_training", "self_consistency"])
def test_gradients_reach_every_student_and_no_teacher(term: str) -> None:
    # At first no class is confident: the authors' reading keeps the co-training's gradient.
    objective = SSCO(students=3, unconfident_weight=1)
    step, groups = unet_step(objective)
    step(groups)[term].backward()
    for name in objective.students:
        gradients = [p.grad for p in step.networks[name].parameters()]
        assert all(g is not None for g in gradients)
        assert any(bool(g.any()) for g in gradients)
    for name in objective.teachers:
        assert step.networks[name].training
        assert all(p.grad is None for p in step.networks[name].parameters())


def test_half_precision() -> None:
    step, groups = unet_step(SSCO(students=2, unconfident_weight=1))
    with torch.autocast("cpu", torch.bfloat16):
        terms = step(groups)
    assert {term.dtype for term in terms.values()} == {torch.float32}
    sum(terms.values()).backward()
    for name in ("network", "peer_2"):
        gradients = [p.grad for p in step.networks[name].parameters()]
        assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)
        assert any(bool(g.any()) for g in gradients)


def test_ramps_of_the_authors() -> None:
    """γ from 0.2 to 8 and λ from 0 in epochs 5 to 50, α in epochs 10 to 60, of 4 iterations."""
    objective = SSCO()
    weight = {"begin": 20, "length": 180, "step": 4}
    ramps = WeightRamps(
        objective,
        {
            "lambda_co": weight,
            "lambda_sc": weight,
            "gamma": weight | {"start": 0.2},
            "alpha": {"begin": 40, "length": 200, "step": 4},
        },
        shape="gaussian",
    )

    class Engine:
        class state:
            iteration = 1

    ramps(Engine)
    assert (objective.gamma, objective.alpha) == (0.2, 0.0)
    assert objective.weights == {"ce_full": 1.0}
    Engine.state.iteration = 110  # epoch 27: half of 45 is 22.5
    ramps(Engine)
    factor = np.exp(-5 * (1 - (108 - 20) / 180) ** 2)
    assert objective.weights["self_consistency"] == pytest.approx(4 * factor)
    assert objective.gamma == pytest.approx(0.2 + 7.8 * factor)
    Engine.state.iteration = 240
    ramps(Engine)
    assert (objective.gamma, objective.alpha) == (8.0, 1e-5)
    assert objective.weights == {"ce_full": 1.0, "co_training": 0.5, "self_consistency": 4.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambda_co": -1}, "lambda_co must not be negative, got -1"),
        ({"lambda_sc": -1}, "lambda_sc must not be negative, got -1"),
        ({"students": 1}, "students must be at least 2, got 1"),
        ({"gamma": 0}, "gamma must be positive, got 0"),
        ({"alpha": 2}, r"alpha must lie in \[0, 1\], got 2"),
        ({"confidence": 0.4}, r"confidence must lie in \[0.5, 1\), got 0.4"),
        ({"unconfident_weight": -1}, r"unconfident_weight must lie in \[0, 1\], got -1"),
        ({"rotation": "none"}, "rotation must be one of own, shared, got 'none'"),
        ({"decay": 1.0}, r"decay must lie in \[0, 1\), got 1.0"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        SSCO(**options)


def test_parameters_of_table_8() -> None:
    with torch.device("meta"):
        networks = NetworkSet(DualBranchUNet(branches=1), SSCO(students=4))
    assert sum(p.numel() for p in networks.parameters()) == 248_339_472
    assert sum(p.numel() for p in networks.trained_parameters()) == 4 * 31_042_434
