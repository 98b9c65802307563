"""Self-Correcting against a float64 NumPy transcription of its paper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import Tensor, nn

from mixseg.engines import ForwardStep, NetworkSet
from mixseg.handlers import WeightRamps
from mixseg.networks import DualBranchUNet
from mixseg.objectives import SelfCorrecting

CLASSES = 3
SIZE = (4, 6)


class Linear(nn.Module):
    """1×1 convolution and a map: logits of different voxels that are easy to write down."""

    def __init__(self, seed: int, channels: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.weight = nn.Parameter(torch.from_numpy(rng.normal(0, 1.5, (CLASSES, channels))))
        self.map = nn.Parameter(torch.from_numpy(rng.normal(0, 1, (1, CLASSES, *SIZE))))
        self.modes: list[bool] = []

    def forward(self, image: Tensor, branch: str) -> Tensor:
        assert branch == "main"
        self.modes.append(self.training)
        return torch.einsum("ck,bkhw->bchw", self.weight, image) + self.map


def transcribed(network: Linear, image: np.ndarray) -> np.ndarray:
    weight = network.weight.detach().numpy()
    return np.einsum("ck,bkhw->bchw", weight, image) + network.map.detach().numpy()


def with_mask(image: np.ndarray, label: np.ndarray) -> np.ndarray:
    return np.concatenate([image, *(label == c for c in range(CLASSES))], axis=1)


def make_batch(seed: int = 0) -> dict[str, dict[str, Tensor]]:
    rng = np.random.default_rng(seed)

    def labels(number: int) -> Tensor:
        return torch.from_numpy(rng.integers(0, CLASSES + 1, (number, 1, *SIZE)).astype(np.uint8))

    return {
        "full": {
            "image": torch.from_numpy(rng.normal(0, 1, (2, 2, *SIZE))),
            "label": labels(2),
            "weak_label": labels(2),
        },
        "noisy": {
            "image": torch.from_numpy(rng.normal(0, 1, (3, 2, *SIZE))),
            "label": labels(3),
        },
    }


def cross_entropy(z: np.ndarray, label: np.ndarray) -> float:
    known = label[:, 0] < CLASSES
    index = np.minimum(label, CLASSES - 1).astype(int)
    return float(-np.take_along_axis(log_softmax(z, axis=1), index, 1)[:, 0][known].mean())


@pytest.mark.parametrize("alpha", [30.0, 0.5, 0.0])
def test_terms_equal_transcription(alpha: float) -> None:
    objective = SelfCorrecting(Linear(2, 2 + CLASSES), alpha=alpha)
    network, batch = Linear(1, 2), make_batch()
    outputs = {k: network(batch[k]["image"], branch="main") for k in batch}
    terms = objective(outputs, batch, {"network": network})

    full, noisy = ({k: v.numpy() for k, v in batch[kind].items()} for kind in batch)
    z = transcribed(network, full["image"])
    assert terms["ce_full"].item() == pytest.approx(cross_entropy(z, full["label"]), rel=1e-12)
    z = transcribed(objective.ancillary, with_mask(full["image"], full["weak_label"]))
    expected = cross_entropy(z, full["label"])
    assert terms["ce_ancillary"].item() == pytest.approx(expected, rel=1e-12)
    z = transcribed(network, noisy["image"])
    proposed = transcribed(objective.ancillary, with_mask(noisy["image"], noisy["label"]))
    q = softmax((z + alpha * proposed) / (1 + alpha), axis=1)
    expected = -(q * log_softmax(z, axis=1)).sum(axis=1).mean()
    assert terms["ce_refined"].item() == pytest.approx(expected, rel=1e-12)


def test_gradients_go_where_they_should() -> None:
    objective = SelfCorrecting(Linear(2, 2 + CLASSES))
    network, batch = Linear(1, 2), make_batch()

    def reached(name: str) -> set[str]:
        outputs = {k: network(batch[k]["image"], branch="main") for k in batch}
        for module in (network, objective):
            module.zero_grad(set_to_none=True)
        objective(outputs, batch, {"network": network})[name].backward()
        parts = {"network": network, "ancillary": objective.ancillary}
        return {key for key, part in parts.items() if part.weight.grad is not None}

    assert reached("ce_full") == {"network"}
    assert reached("ce_ancillary") == {"ancillary"}
    assert reached("ce_refined") == {"network"}
    # The target is fixed: the gradient of a logit is (p - q) / voxels.
    z = network(batch["noisy"]["image"], branch="main").detach().requires_grad_()
    term = objective({"noisy": z}, batch, {})["ce_refined"]
    (gradient,) = torch.autograd.grad(term, z)
    label = batch["noisy"]["label"].numpy()
    proposed = transcribed(objective.ancillary, with_mask(batch["noisy"]["image"].numpy(), label))
    p = softmax(z.detach().numpy(), axis=1)
    q = softmax((z.detach().numpy() + 0.5 * proposed) / 1.5, axis=1)
    np.testing.assert_allclose(gradient, (p - q) / (3 * 4 * 6), atol=1e-14)


def test_the_ancillary_is_asked_in_evaluation_and_trained_in_training() -> None:
    objective = SelfCorrecting(Linear(2, 2 + CLASSES)).train()
    network, batch = Linear(1, 2), make_batch()
    outputs = {k: network(batch[k]["image"], branch="main") for k in batch}
    objective(outputs, batch, {})
    assert objective.ancillary.modes == [True, False]
    assert objective.ancillary.training


def test_missing_kinds_are_left_out() -> None:
    objective = SelfCorrecting(Linear(2, 2 + CLASSES))
    network, batch = Linear(1, 2), make_batch()
    outputs = {k: network(batch[k]["image"], branch="main") for k in batch}
    names = {kind: set(objective({kind: outputs[kind]}, {kind: batch[kind]}, {})) for kind in batch}
    assert names == {"full": {"ce_full", "ce_ancillary"}, "noisy": {"ce_refined"}}


def test_without_weight_noisy_images_take_no_part() -> None:
    objective = SelfCorrecting(Linear(2, 2 + CLASSES), lambda_weak=0)
    assert objective.branches == {"full": "main"}
    assert objective.weights == {"ce_full": 1.0, "ce_ancillary": 1.0}
    network, batch = Linear(1, 2), make_batch()
    outputs = {"full": network(batch["full"]["image"], branch="main")}
    assert set(objective(outputs, batch, {})) == {"ce_full", "ce_ancillary"}


def test_ramps_start_late_and_anneal_alpha() -> None:
    objective = SelfCorrecting(Linear(2, 2 + CLASSES), 0.8)
    ramps = WeightRamps(
        objective,
        {
            "lambda_weak": {"begin": 10, "length": 0},
            "alpha": {"begin": 10, "length": 100, "start": 30},
        },
    )

    class Engine:
        class state:
            iteration = 9

    for iteration, weight, alpha in ((9, 0.0, 30.0), (10, 0.8, 30.0), (60, 0.8, 15.25)):
        Engine.state.iteration = iteration
        ramps(Engine)
        assert (objective.lambda_weak, objective.alpha) == (weight, pytest.approx(alpha))
    Engine.state.iteration = 200
    ramps(Engine)
    assert objective.alpha == 0.5


def test_ancillary_is_stepped_and_stored_with_the_method() -> None:
    torch.manual_seed(0)

    def build() -> tuple[NetworkSet, SelfCorrecting]:
        options: dict[str, Any] = {"out_channels": CLASSES, "features": (2, 4), "branches": 1}
        objective = SelfCorrecting(DualBranchUNet(in_channels=2 + CLASSES, **options))
        return NetworkSet(DualBranchUNet(in_channels=2, **options), objective), objective

    networks, objective = build()
    stepped = {id(p) for p in networks.trained_parameters()}
    assert {id(p) for p in objective.ancillary.parameters()} <= stepped
    step = ForwardStep(networks, objective).train()
    groups = {
        kind: {k: v.float() if k == "image" else v for k, v in group.items()}
        for kind, group in make_batch().items()
    }
    sum(step(groups).values()).backward()
    assert all(p.grad is not None for p in networks.trained_parameters())
    assert not any(key.startswith("ancillary") for key in networks.state_dict())

    other_networks, other = build()
    other_networks.load_state_dict(networks.state_dict())
    other.load_state_dict(objective.state_dict())
    evaluated = [
        ForwardStep(n, o).eval()(groups)
        for n, o in ((networks, objective), (other_networks, other))
    ]
    assert evaluated[0].keys() == evaluated[1].keys()
    assert all(torch.equal(evaluated[0][key], evaluated[1][key]) for key in evaluated[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambda_weak": -1}, "lambda_weak must not be negative, got -1"),
        ({"alpha": -0.5}, "alpha must not be negative, got -0.5"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        SelfCorrecting(Linear(2, 5), **options)
