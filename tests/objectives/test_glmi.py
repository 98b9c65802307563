"""GLMI against a float64 NumPy and SciPy transcription of its paper, and its code's figures."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor, nn

from mixseg.objectives import GLMI

CLASSES = 3
CHANNELS = {"deep": 5, "middle": 4, "fine": 3}


class Layered(nn.Module):
    """Features at a quarter of the resolution, at half of it and at all of it, then logits."""

    def __init__(self, dims: int = 2, seed: int = 0) -> None:
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.deep = nn.Sequential(conv(1, 5, 4, stride=4), nn.Tanh())
        self.middle = nn.Sequential(conv(1, 4, 2, stride=2), nn.Tanh())
        self.fine = nn.Sequential(conv(1, 3, 3, padding=1), nn.Tanh())
        self.head = conv(3 + 4 + 5, CLASSES, 1)
        self.double()
        rng = np.random.default_rng(seed)
        for p in self.parameters():
            p.data = torch.from_numpy(rng.normal(0, 1, tuple(p.shape)))
        self.calls = 0

    def forward(self, image: Tensor, branch: str) -> Tensor:
        assert branch == "main"
        self.calls += 1
        maps = [self.fine(image)]
        for module in (self.middle, self.deep):
            features = module(image)
            for axis in range(2, image.ndim):
                features = features.repeat_interleave(
                    image.shape[axis] // features.shape[axis], axis
                )
            maps.append(features)
        return self.head(torch.cat(maps, dim=1))


def make_objective(dims: int = 2, seed: int = 1, scale: float = 2.0, **options: Any) -> GLMI:
    chosen: dict[str, Any] = {
        "layers": CHANNELS,
        "clusters": 4,
        "heads": 2,
        "padding": (1, 2),
        "spatial_dims": dims,
    }
    objective = GLMI(**(chosen | options)).double()
    rng = np.random.default_rng(seed)
    for p in objective.parameters():
        p.data = torch.from_numpy(rng.normal(0, scale, tuple(p.shape)))
    return objective


def make_batch(size: tuple[int, ...], seed: int = 0) -> dict[str, dict[str, Tensor]]:
    rng = np.random.default_rng(seed)
    return {
        "full": {
            "image": torch.from_numpy(rng.normal(0, 1, (2, 1, *size))),
            "label": torch.from_numpy(rng.integers(0, CLASSES + 1, (2, 1, *size))),
        },
        "none": {"image": torch.from_numpy(rng.normal(0, 1, (3, 1, *size)))},
    }


def run(objective: GLMI, batch: dict[str, Any], network: nn.Module, seed: int) -> dict[str, Tensor]:
    outputs = {"full": network(batch["full"]["image"], branch="main")}
    torch.manual_seed(seed)
    return objective(outputs, batch, {"network": network})


class Moved:
    """T by SciPy: flips, then for each pixel where it comes from."""

    def __init__(self, count: int, max_angle: float, flip_probability: float, seed: int) -> None:
        torch.manual_seed(seed)
        self.flips = (torch.rand(2, count) < flip_probability).numpy()
        self.angles = np.zeros(count)
        if max_angle:
            uniform = torch.rand(count, dtype=torch.float64).numpy()
            self.angles = np.deg2rad(max_angle) * (2 * uniform - 1)

    def sources(self, sample: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        row, column = np.mgrid[:height, :width].astype(float)
        y, x = row - (height - 1) / 2, column - (width - 1) / 2
        cos, sin = np.cos(self.angles[sample]), np.sin(self.angles[sample])
        return cos * y - sin * x + (height - 1) / 2, sin * y + cos * x + (width - 1) / 2

    def __call__(self, maps: np.ndarray) -> np.ndarray:
        out = np.empty_like(maps)
        for b, sample in enumerate(maps):
            for axis in (0, 1):
                if self.flips[axis, b]:
                    sample = np.flip(sample, axis + 1)
            where = self.sources(b, *maps.shape[2:4])
            planes = sample.reshape(*sample.shape[:3], -1)
            for c, d in itertools.product(range(planes.shape[0]), range(planes.shape[3])):
                moved = map_coordinates(planes[c, :, :, d], where, order=1, mode="nearest")
                out[b].reshape(planes.shape)[c, :, :, d] = moved
        return out

    def inside(self, maps: np.ndarray) -> np.ndarray:
        """(B, *spatial): the source lies between the outermost pixels' centers."""
        height, width = maps.shape[2:4]
        masks = []
        for b in range(len(maps)):
            row, column = self.sources(b, height, width)
            low, high = -1e-9, 1e-9
            mask = (row >= low) & (row <= height - 1 + high) & (column >= low)
            masks.append(mask & (column <= width - 1 + high))
        mask = np.stack(masks)
        return mask if maps.ndim == 4 else np.repeat(mask[..., None], maps.shape[4], axis=3)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def information(joint: np.ndarray) -> float:
    """Σ P_ij (log P_ij - log P_i - log P_j) after symmetrizing and normalizing."""
    p = (joint + joint.T) / 2
    p = p / p.sum()
    return float((p * np.log(p / p.sum(0, keepdims=True) / p.sum(1, keepdims=True))).sum())


def heads_of(layer: nn.Module, features: np.ndarray) -> list[np.ndarray]:
    """Soft clusters (B, K, …) of each of two sub-heads."""
    weight = layer.weight.detach().numpy()
    z = np.einsum("kc,bc...->bk...", weight.reshape(weight.shape[:2]), features)
    z = z + layer.bias.detach().numpy().reshape(1, -1, *[1] * (features.ndim - 2))
    return [softmax(part) for part in np.split(z, 2, axis=1)]


def shifted(size: int, delta: int) -> tuple[slice, slice]:
    """Positions u and u + δ that both lie inside."""
    return slice(max(0, -delta), size - max(0, delta)), slice(max(0, delta), size - max(0, -delta))


def local_information(first: np.ndarray, second: np.ndarray, padding: int) -> float:
    spatial = first.shape[2:]
    values = []
    for delta in itertools.product(range(-padding, padding + 1), repeat=len(spatial)):
        pairs = [shifted(n, d) for n, d in zip(spatial, delta, strict=True)]
        one = first[(slice(None), slice(None), *(p[0] for p in pairs))]
        other = second[(slice(None), slice(None), *(p[1] for p in pairs))]
        rows, columns = (z.swapaxes(0, 1).reshape(z.shape[1], -1) for z in (one, other))
        values.append(information(rows @ columns.T))
    return float(np.mean(values))


def features_of(module: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module(torch.from_numpy(images)).numpy()


def expected_terms(
    objective: GLMI, batch: dict[str, Any], network: Layered, move: Moved, padding: tuple[int, ...]
) -> dict[str, float]:
    image = batch["none"]["image"].numpy()
    moved = move(image)
    label = batch["full"]["label"].numpy()
    with torch.no_grad():
        logits = {
            name: network(torch.from_numpy(x), branch="main").numpy()
            for name, x in (("full", batch["full"]["image"].numpy()), ("x", image), ("tx", moved))
        }
    picked = np.take_along_axis(softmax(logits["full"]), np.minimum(label, CLASSES - 1), 1)

    pooled = [
        features_of(network.deep, x).reshape(len(x), 5, -1).mean(axis=2) for x in (image, moved)
    ]
    clusters = [heads_of(objective.global_head.layer, x) for x in pooled]
    whole = np.mean([information(a.T @ b) for a, b in zip(*clusters, strict=True)])

    local = []
    for name, head, pad in zip(("middle", "fine"), objective.local_heads, padding, strict=True):
        module = getattr(network, name)
        plain, other = move(features_of(module, image)), features_of(module, moved)
        inside = move.inside(other)[:, None]
        assigned = [[z * inside for z in heads_of(head.layer, f)] for f in (plain, other)]
        pairs = zip(*assigned, strict=True)
        local.append(np.mean([local_information(a, b, pad) for a, b in pairs]))

    inside = move.inside(logits["tx"])
    squared = (softmax(logits["tx"]) - move(softmax(logits["x"]))) ** 2
    return {
        "ce_full": float(-np.log(picked)[label < CLASSES].mean()),
        "global": -float(whole) / 2,
        "local": -float(sum(local)) / 4,
        "consistency": float(squared.mean(axis=1)[inside].mean()),
    }


@pytest.mark.parametrize("size", [(8, 8), (8, 12), (8, 12, 4)])
@pytest.mark.parametrize("max_angle", [0.0, 45.0, 180.0])
def test_terms_equal_transcription(size: tuple[int, ...], max_angle: float) -> None:
    dims = len(size)
    padding = (1, 2) if dims == 2 else (1, 0)
    objective = make_objective(dims, max_angle=max_angle, padding=padding)
    batch, network = make_batch(size), Layered(dims)
    terms = run(objective, batch, network, seed=4)
    move = Moved(3, max_angle, 0.8, seed=4)
    expected = expected_terms(objective, batch, network, move, padding)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-8)
    if max_angle:
        assert 0.1 < move.inside(batch["none"]["image"].numpy()).mean() < 0.999


#: What the authors' code returned (see below).
AUTHORS = {
    "global": -0.22338806777548428,
    "local": -0.019729115205677,
    "consistency": 0.19869679822094166,
}


def test_equals_the_authors_code() -> None:
    """`IIDLoss`, `IIDSegmentationSmallPathLoss`, `average_iter` and `weighted_average_iter`.

    They ran as `IICTrainEpocher.regularization` and `UDATrainEpocher.regularization` call them, on
    the features of the same network and the assignments of the same heads, with the same flips.
    The assignments are nearly hard, so that the smallest entry of the joint distribution, which the
    code subtracts, is nearly 0.
    """
    objective = make_objective(scale=40.0, max_angle=0.0, flip_probability=0.5)
    terms = run(objective, make_batch((8, 8)), Layered(), seed=4)
    assert {name: terms[name].item() for name in AUTHORS} == pytest.approx(AUTHORS, rel=1e-6)


@pytest.mark.parametrize(
    ("weights", "names", "passes"),
    [
        ((1, 0.1, 10), {"ce_full", "global", "local", "consistency"}, 2),
        ((1, 0, 0), {"ce_full", "global"}, 2),
        ((0, 0.1, 0), {"ce_full", "local"}, 2),
        ((0, 0, 10), {"ce_full", "consistency"}, 2),
        ((0, 0, 0), {"ce_full"}, 1),
    ],
)
def test_zero_weights_skip_terms_heads_and_passes(
    weights: tuple[float, float, float], names: set[str], passes: int
) -> None:
    network, objective = Layered(), make_objective()
    objective.lambda_global, objective.lambda_local, objective.lambda_con = map(float, weights)
    asked: list[str] = []
    objective.global_head.register_forward_hook(lambda *_: asked.append("global"))
    for head in objective.local_heads:
        head.register_forward_hook(lambda *_: asked.append("local"))
    assert set(run(objective, make_batch((8, 8)), network, 0)) == names
    assert set(objective.weights) == names
    assert network.calls == passes
    assert set(asked) == names & {"global", "local"}


def test_branches() -> None:
    objective = make_objective()
    assert objective.branches == {"full": "main"}
    assert objective.trained_branches == ("main",)
    assert objective.inference_branch == "main"
    assert objective.networks == {}


def test_missing_kinds_are_left_out() -> None:
    batch, network, objective = make_batch((8, 8)), Layered(), make_objective()
    logits = network(batch["full"]["image"], branch="main")
    networks = {"network": network}
    assert set(objective({"full": logits}, {"full": batch["full"]}, networks)) == {"ce_full"}
    terms = objective({}, {"none": batch["none"]}, networks)
    assert set(terms) == {"global", "local", "consistency"}


def test_unlabeled_voxels_do_not_matter() -> None:
    batch = make_batch((8, 8))
    unknown = (batch["full"]["label"] == CLASSES).expand(-1, CLASSES, -1, -1)
    assert 0 < unknown.sum() < unknown.numel()
    logits = torch.randn(2, CLASSES, 8, 8, dtype=torch.float64)
    one, other = (
        make_objective()({"full": z}, {"full": batch["full"]}, {})["ce_full"].item()
        for z in (logits, logits + 3 * unknown * torch.randn_like(logits))
    )
    assert one == pytest.approx(other, rel=1e-12)


def test_batch_is_the_mean_of_its_images() -> None:
    """The consistency, with a T that is the same for all; information belongs to a batch."""
    network, image = Layered(), make_batch((8, 8))["none"]["image"]
    objective = make_objective(max_angle=0.0, flip_probability=1.0)
    whole, *parts = (
        objective({}, {"none": {"image": part}}, {"network": network})["consistency"].item()
        for part in (image, *image.split(1))
    )
    assert whole == pytest.approx(np.mean(parts), rel=1e-12)
    assert whole > 0.01
