"""FickleNet's medical reading against a float64 NumPy transcription, and seeds by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import expit, log_softmax
from torch import Tensor, nn

from mixseg.engines import ForwardStep, NetworkSet
from mixseg.networks import DualBranchUNet
from mixseg.objectives import FickleNet
from mixseg.objectives.ficklenet import StochasticClassHead, seeds_from_maps

CLASSES = 3
CHANNELS = 5
SIZE = (8, 12)


class Tiny(nn.Module):
    """Features at half the size, and logits from them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Conv2d(1, CHANNELS, 2, stride=2)
        self.head = nn.Conv2d(CHANNELS, CLASSES, 1)
        self.double()

    def forward(self, image: Tensor, branch: str) -> Tensor:
        assert branch == "main"
        return F.interpolate(self.head(self.encoder(image)), scale_factor=2)


def make_batch(seed: int = 0) -> dict[str, dict[str, Tensor]]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES + 1, (3, 1, *SIZE))
    label[1][label[1] == 2] = 0  # the second image holds class 1 alone, the third nothing
    label[2] = 0
    return {
        "full": {
            "image": torch.from_numpy(rng.normal(0, 1, (2, 1, *SIZE))),
            "label": torch.from_numpy(rng.integers(0, CLASSES + 1, (2, 1, *SIZE))),
        },
        "noisy": {
            "image": torch.from_numpy(rng.normal(0, 1, (3, 1, *SIZE))),
            "label": torch.from_numpy(label),
        },
    }


PRESENT = np.array([[True, True], [True, False], [False, False]])


def make_objective(**options: Any) -> FickleNet:
    torch.manual_seed(1)
    objective = FickleNet("encoder", CHANNELS, CLASSES, **({"dropout": 0.5} | options)).double()
    objective.head.bias.data.copy_(torch.tensor([0.3, -0.2]))
    return objective


def draws(shape: torch.Size, number: int, share: float) -> list[np.ndarray]:
    """What dropout multiplies by, in the order of the drawing."""
    ones = torch.ones(shape, dtype=torch.float64)
    return [F.dropout(ones, share).numpy() for _ in range(number)]


def enlarged(maps: np.ndarray) -> np.ndarray:
    """Bilinear by two, voxel centers: weights ¾ and ¼, edges repeated."""
    for axis in (2, 3):
        padded = np.concatenate([maps.take([0], axis), maps, maps.take([-1], axis)], axis=axis)
        n = maps.shape[axis]
        before, here, after = (padded.take(range(i, i + n), axis) for i in range(3))
        pair = np.stack([0.25 * before + 0.75 * here, 0.75 * here + 0.25 * after], axis=axis + 1)
        maps = pair.reshape(*maps.shape[:axis], 2 * n, *maps.shape[axis + 1 :])
    return maps


def voxel_seed(
    highest: np.ndarray, mean: np.ndarray, present: np.ndarray, limits: tuple[float, float]
) -> np.ndarray:
    """The rule, voxel by voxel."""
    seeds = np.full((len(present), *mean.shape[2:]), CLASSES)
    for b, *place in np.ndindex(*seeds.shape):
        at = (slice(None), *place)
        there = np.flatnonzero(present[b])
        found = [c for c in there if highest[b][at][c] > limits[0]]
        empty = all(mean[b][at][c] / mean[b, c].max() < limits[1] for c in there)
        if found and not empty:
            seeds[(b, *place)] = 1 + max(found, key=lambda c: mean[b][at][c])
        elif empty and not found:
            seeds[(b, *place)] = 0
    return seeds


@pytest.mark.parametrize(
    ("maps", "dropout", "limits"), [(1, 0.5, (0.35, 0.1)), (6, 0.7, (0.8, 0.5))]
)
def test_terms_equal_transcription(maps: int, dropout: float, limits: tuple[float, float]) -> None:
    objective = make_objective(
        maps=maps, dropout=dropout, threshold=limits[0], background=limits[1]
    )
    network, batch = Tiny(), make_batch()
    outputs = {"full": network(batch["full"]["image"], branch="main")}
    torch.manual_seed(5)
    terms = objective(outputs, batch, {"network": network})

    features = network.encoder(batch["noisy"]["image"]).detach()
    torch.manual_seed(5)
    masks = draws(features.shape, 1 + maps, dropout)
    weight = objective.head.layer.weight.detach().numpy()[:, :, 0, 0]
    activations = [np.einsum("ck,bkhw->bchw", weight, m * features.numpy()) for m in masks]

    probability = expit(activations[0].mean(axis=(2, 3)) + objective.head.bias.detach().numpy())
    expected = -np.log(np.where(PRESENT, probability, 1 - probability)).mean()
    assert terms["bce_class"].item() == pytest.approx(expected, rel=1e-12)

    cut = [np.maximum(a, 0) for a in activations[1:]]
    scaled = [a / a.max(axis=(2, 3), keepdims=True) for a in cut]
    highest, mean = enlarged(np.max(scaled, axis=0)), enlarged(np.mean(scaled, axis=0))
    seeds = voxel_seed(highest, mean, PRESENT, limits)
    assert set(np.unique(seeds[0])) == {0, 1, 2, 3}
    assert 2 not in seeds[1]
    assert (seeds[2] == 0).all()
    z = network(batch["noisy"]["image"], branch="main").detach().numpy()
    known = seeds < CLASSES
    index = np.minimum(seeds, CLASSES - 1)[:, None]
    expected = -np.take_along_axis(log_softmax(z, axis=1), index, 1)[:, 0][known].mean()
    assert terms["ce_seeds"].item() == pytest.approx(expected, rel=1e-12)

    z = outputs["full"].detach().numpy()
    label = batch["full"]["label"].numpy()
    index = np.minimum(label, CLASSES - 1)
    picked = np.take_along_axis(log_softmax(z, axis=1), index, 1)
    assert terms["ce_full"].item() == pytest.approx(-picked[label < CLASSES].mean(), rel=1e-12)


def test_seeds_by_hand() -> None:
    """One image, classes 1 and 2, five voxels; limits 0.5 and 0.2."""
    highest = torch.tensor([[[0.9, 0.9, 0.1, 0.6, 0.4], [0.1, 0.8, 0.2, 0.1, 0.5]]])
    mean = torch.tensor([[[0.4, 0.1, 0.0, 0.01, 0.1], [0.1, 0.5, 0.04, 0.0, 0.1]]])
    # Divided by their largest, 0.4 and 0.5: (1, ¼, 0, 0.025, ¼) and (0.2, 1, 0.08, 0, 0.2).
    both = torch.tensor([[True, True]])
    # 1 alone; both, 2 has the larger mean; neither, background; a spike, not sure; undecided.
    assert seeds_from_maps(highest, mean, both, 0.5, 0.2).tolist() == [[[1, 2, 0, 3, 3]]]
    second = torch.tensor([[False, True]])
    assert seeds_from_maps(highest, mean, second, 0.5, 0.2).tolist() == [[[3, 2, 0, 0, 3]]]
    none = torch.tensor([[False, False]])
    assert seeds_from_maps(highest, mean, none, 0.5, 0.2).tolist() == [[[0, 0, 0, 0, 0]]]


def test_only_the_classes_of_the_noisy_mask_count() -> None:
    network, batch = Tiny(), make_batch()
    moved = {"noisy": dict(batch["noisy"])}
    moved["noisy"]["label"] = batch["noisy"]["label"].flip(2, 3)
    values = []
    for groups in ({"noisy": batch["noisy"]}, moved):
        torch.manual_seed(5)
        values.append(make_objective()({}, groups, {"network": network}))
    assert all(torch.equal(values[0][name], values[1][name]) for name in values[0])


def test_gradients_go_where_they_should() -> None:
    network, batch, objective = Tiny(), make_batch(), make_objective()

    def reached(name: str) -> set[str]:
        for module in (network, objective):
            module.zero_grad(set_to_none=True)
        outputs = {"full": network(batch["full"]["image"], branch="main")}
        objective(outputs, batch, {"network": network})[name].backward()
        parts = {"encoder": network.encoder, "head": network.head, "classes": objective.head.layer}
        return {key for key, part in parts.items() if part.weight.grad is not None}

    assert reached("ce_full") == {"encoder", "head"}
    assert reached("bce_class") == {"encoder", "classes"}
    assert reached("ce_seeds") == {"encoder", "head"}


def test_units_are_dropped_one_by_one_and_maps_differ() -> None:
    torch.manual_seed(0)
    head = StochasticClassHead(64, 2, dropout=0.9)
    nn.init.ones_(head.layer.weight)
    features = torch.ones(1, 64, 40, 40)
    seen: list[Tensor] = []
    head.layer.register_forward_hook(lambda m, x, y: seen.append(x[0]))
    highest, mean = head.localize(features, 3)
    for kept in seen:
        assert kept.unique().tolist() == pytest.approx([0, 10])  # 1 / (1 - 0.9)
        assert (kept == 0).float().mean().item() == pytest.approx(0.9, abs=0.01)
        by_channel = (kept == 0).float().mean(dim=(0, 2, 3))
        assert by_channel.max() < 0.95  # no channel goes as a whole
    assert len(seen) == 3
    assert not torch.equal(seen[0], seen[1])
    assert highest.max().item() == 1
    assert bool((mean <= highest).all())
    assert not highest.requires_grad


def test_missing_kinds_and_weights() -> None:
    network, batch = Tiny(), make_batch()
    outputs = {"full": network(batch["full"]["image"], branch="main")}
    networks = {"network": network}

    def terms(objective: FickleNet, *kinds: str) -> set[str]:
        groups = {kind: batch[kind] for kind in kinds}
        given = {kind: outputs[kind] for kind in kinds if kind in outputs}
        return set(objective(given, groups, networks))

    assert terms(make_objective(), "full") == {"ce_full"}
    assert terms(make_objective(), "noisy") == {"bce_class", "ce_seeds"}
    assert terms(make_objective(lambda_seed=0), "full", "noisy") == {"ce_full", "bce_class"}
    assert terms(make_objective(lambda_class=0), "noisy") == {"ce_seeds"}
    assert make_objective().branches == {"full": "main"}


def test_one_step_of_a_network_trains_all_and_is_stored() -> None:
    torch.manual_seed(0)
    network = DualBranchUNet(out_channels=CLASSES, features=(2, 4), branches=1)
    objective = FickleNet("encoder.center", 4, CLASSES, maps=3)
    networks = NetworkSet(network, objective)
    groups = {
        kind: {k: v.float() if k == "image" else v for k, v in group.items()}
        for kind, group in make_batch().items()
    }
    with torch.autocast("cpu", torch.bfloat16):
        terms = ForwardStep(networks, objective).train()(groups)
    assert {term.dtype for term in terms.values()} == {torch.float32}
    sum(terms.values()).backward()
    gradients = [p.grad for p in networks.trained_parameters()]
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients)
    assert set(objective.state_dict()) == {"head.layer.weight", "head.bias"}


def test_other_channels_than_stated() -> None:
    message = "^module 'encoder' has 5 channels, channels says 4$"
    with pytest.raises(ValueError, match=message):
        FickleNet("encoder", 4, CLASSES)({}, make_batch(), {"network": Tiny()})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambda_class": -1}, "lambda_class must not be negative, got -1"),
        ({"lambda_seed": -1}, "lambda_seed must not be negative, got -1"),
        ({"maps": 0}, "maps must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"background": -0.1}, r"background must lie in \[0, 1\), got -0.1"),
        ({"threshold": 1.0}, r"threshold must lie in \(0, 1\), got 1.0"),
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        FickleNet("encoder", 4, CLASSES, **options)
