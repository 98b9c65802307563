"""Entropy minimization against a float64 NumPy transcription of its paper."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from scipy.special import log_softmax, softmax
from torch import Tensor

from mixseg.engines import ForwardStep, MixedSupervisionTrainer, NetworkSet
from mixseg.handlers import WeightRamps
from mixseg.networks import DualBranchUNet, MeanVarianceNetwork
from mixseg.objectives import EntropyMinimization

C = 3
TERMS = ["ce_segmentation", "ce_class", "gradient", "sharpening", "class_consistency"]
Heads = tuple[Tensor, ...]


def heads(batch: int, seed: int) -> Heads:
    """What a network says of images of 8×8: random, in float64."""
    rng = np.random.default_rng(seed)
    shapes = [(batch, C, 8, 8)] * 2 + [(batch, C)] * 2 + [(batch, 2, 8, 8), (batch, 3, 4, 4)]
    return tuple(torch.from_numpy(rng.normal(size=shape)) for shape in shapes)


def make_label(batch: int = 2, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, C + 1, (batch, 1, 8, 8))
    label[0][label[0] == 1] = C  # the first image lacks class 1
    return torch.from_numpy(label)


def transcription(full: Heads, none: Heads, label: Tensor, seed: int) -> dict[str, float]:
    """Wu et al., eqs. 2, 4, 8 and 9, with means for sums; the noise in the order of the pass."""
    mean, log_variance, class_mean, class_log_variance = (x.numpy() for x in full[:4])
    y = label[:, 0].numpy()
    torch.manual_seed(seed)
    z = mean + np.exp(log_variance / 2) * torch.randn(mean.shape, dtype=torch.float64).numpy()
    zc = class_mean + np.exp(class_log_variance / 2) * (
        torch.randn(class_mean.shape, dtype=torch.float64).numpy()
    )
    log_p = np.take_along_axis(log_softmax(z, axis=1), np.minimum(y, C - 1)[:, None], axis=1)
    image = [
        -np.mean(log_softmax(row)[[c for c in range(C) if (seen == c).any()]])
        for row, seen in zip(zc, y, strict=True)
    ]
    terms = {
        "ce_segmentation": float(-log_p[:, 0][y < C].mean()),
        "ce_class": float(np.mean(image)),
    }

    mean, log_variance, class_mean, _, fine, coarse = (x.numpy() for x in none)

    def magnitude(e: np.ndarray) -> np.ndarray:
        parts = [
            np.array([[scipy.ndimage.sobel(c, axis, mode="nearest") / 8 for c in i] for i in e])
            for axis in (0, 1)
        ]
        return np.asarray(np.sqrt(parts[0] ** 2 + parts[1] ** 2).mean(axis=1))

    first, second = magnitude(fine), magnitude(coarse)
    pooled = first.reshape(len(first), 4, 2, 4, 2).mean(axis=(2, 4))
    levels = [((first - first) ** 2).mean(), ((pooled + second - second) ** 2).mean()]
    terms["gradient"] = float(np.mean(levels))

    p = softmax(mean, axis=1)
    best = p.argmax(axis=1)[:, None]
    c = (p.max(axis=1, keepdims=True) + np.exp(np.take_along_axis(log_variance, best, 1)))[:, 0]
    low, high = c.min(axis=(1, 2), keepdims=True), c.max(axis=(1, 2), keepdims=True)
    t = np.maximum((c - low) / (high - low), 0.01)[:, None]
    target = p ** (1 / t) / (p ** (1 / t)).sum(axis=1, keepdims=True)
    terms["sharpening"] = float(((p - target) ** 2).mean())

    pc = softmax(class_mean, axis=1)
    pairs = [(b, k) for b, k in np.ndindex(*pc.shape) if pc[b, k] < 1 / C]
    terms["class_consistency"] = float(np.mean([pc[b, k] * p[b, k].mean() for b, k in pairs]))
    return terms


def given(full: Heads, none: Heads, label: Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
    image = torch.zeros(1)
    batch = {"full": {"image": image, "label": label}, "none": {"image": image}}
    return {"full": full, "none": none}, batch


def test_terms_equal_the_transcription() -> None:
    full, none, label = heads(2, 0), heads(3, 1), make_label()
    outputs, batch = given(full, none, label)
    torch.manual_seed(7)
    terms = EntropyMinimization()(outputs, batch, {})
    expected = transcription(full, none, label, 7)
    assert list(terms) == list(expected) == TERMS
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(expected, rel=1e-10)


def test_options_reach_their_terms() -> None:
    full, none, label = heads(2, 0), heads(3, 1), make_label()
    outputs, batch = given(full, none, label)
    reference = EntropyMinimization()(outputs, batch, {})
    fixed = EntropyMinimization(sharpening="fixed", temperature=0.25)
    p = softmax(none[0].numpy(), axis=1)
    target = p**4 / (p**4).sum(axis=1, keepdims=True)
    found = fixed(outputs, batch, {})["sharpening"].item()
    assert found == pytest.approx(((p - target) ** 2).mean())
    for name, option in (
        ("sharpening", {"temperature_min": 0.5}),
        ("gradient", {"gradient_operator": "difference"}),
        ("gradient", {"channel_reduction": "norm"}),
        ("gradient", {"gradient_sum": "below"}),
        ("class_consistency", {"class_threshold": 1.0}),
    ):
        changed = EntropyMinimization(**option)(outputs, batch, {})  # type: ignore[arg-type]
        for term in TERMS[2:]:
            assert (changed[term] != reference[term]).item() == (term == name), (term, option)
    coarse = (*none[:4], none[4], none[5][..., :2, :2])  # a factor of 4, where resizings differ
    values = [
        EntropyMinimization(resizing=r)({"none": coarse}, batch, {})["gradient"].item()  # type: ignore[arg-type]
        for r in ("pool", "interpolate")
    ]
    assert values[0] != pytest.approx(values[1], rel=1e-3)


def test_several_samples_average_probabilities() -> None:
    full, label = heads(2, 0), make_label()
    outputs, batch = given(full, full, label)
    torch.manual_seed(1)
    found = EntropyMinimization(samples=3)({"full": outputs["full"]}, batch, {})
    torch.manual_seed(1)
    mean, log_variance = (x.numpy() for x in full[:2])
    draws = [torch.randn(mean.shape, dtype=torch.float64).numpy() for _ in range(3)]
    p = np.mean([softmax(mean + np.exp(log_variance / 2) * e, axis=1) for e in draws], axis=0)
    y = label[:, 0].numpy()
    picked = np.take_along_axis(p, np.minimum(y, C - 1)[:, None], axis=1)[:, 0]
    assert found["ce_segmentation"].item() == pytest.approx(-np.log(picked[y < C]).mean())


def test_branches_weights_and_ablations() -> None:
    objective = EntropyMinimization(lambda_grad=2.0, lambda_class=0.5)
    assert objective.branches == {"full": "heads", "none": "heads"}
    assert (objective.trained_branches, objective.inference_branch) == (("main",), "main")
    assert objective.weights == pytest.approx(
        {"ce_segmentation": 1, "ce_class": 1}
        | {"gradient": 0.2, "sharpening": 0.1, "class_consistency": 0.05}
    )
    assert objective.networks == {}
    assert list(objective.parameters()) == []
    outputs, batch = given(heads(2, 0), heads(2, 1), make_label())
    for options, left in (
        ({"lambda_unsup": 0}, TERMS[:2]),
        ({"lambda_grad": 0, "lambda_sharpen": 0}, [*TERMS[:2], "class_consistency"]),
        ({"lambda_grad": 0, "lambda_class": 0}, [*TERMS[:2], "sharpening"]),
        ({"lambda_class": 0, "lambda_sharpen": 0}, [*TERMS[:2], "gradient"]),
    ):
        ablated = EntropyMinimization(**options)
        assert list(ablated.weights) == left
        assert list(ablated(outputs, batch, {})) == left
    assert EntropyMinimization(lambda_unsup=0).branches == {"full": "heads"}
    none = {"lambda_grad": 0, "lambda_sharpen": 0, "lambda_class": 0}
    assert EntropyMinimization(**none).branches == {"full": "heads"}  # type: ignore[arg-type]


def test_the_weight_of_all_can_be_ramped() -> None:
    objective = EntropyMinimization()
    ramps = WeightRamps(objective, {"lambda_unsup": 100}, shape="linear")

    class Engine:
        class state:
            iteration = 26

    ramps(Engine)
    assert objective.weights["gradient"] == pytest.approx(0.1 * 26 / 100)


def test_missing_kinds_are_left_out() -> None:
    outputs, batch = given(heads(2, 0), heads(2, 1), make_label())
    for kind, names in (("full", TERMS[:2]), ("none", TERMS[2:])):
        assert list(EntropyMinimization()({kind: outputs[kind]}, batch, {})) == names


def test_unlabeled_pixels_change_neither_value_nor_gradient() -> None:
    full, label = heads(2, 0), make_label()
    unknown = (label == C).expand(-1, C, -1, -1)
    assert 0 < unknown.sum() < unknown.numel()
    found = []
    for shift in (0.0, 4.0):
        changed = [(x + shift * unknown).requires_grad_() for x in full[:2]]
        torch.manual_seed(3)
        outputs, batch = given((*changed, *full[2:]), full, label)
        terms = EntropyMinimization(lambda_unsup=0)(outputs, batch, {})
        grads = torch.autograd.grad(terms["ce_segmentation"], changed)
        assert all(not g[unknown].any() and g[~unknown].all() for g in grads)
        found.append([terms["ce_segmentation"].detach(), terms["ce_class"], *grads])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_unsupervised_terms_of_a_batch_are_those_of_its_images() -> None:
    """The mean of all; class consistency weights images by their improbable classes."""
    none = heads(4, 2)
    parts = [tuple(x[[i]] for x in none) for i in range(4)]
    method = EntropyMinimization()
    whole, *single = (method({"none": n}, {}, {}) for n in (none, *parts))
    for name in ("gradient", "sharpening"):
        mean = np.mean([terms[name].item() for terms in single])
        assert whole[name].item() == pytest.approx(mean, rel=1e-12)
    counts = (none[2].softmax(1) < 1 / C).sum(1).numpy()
    values = np.array([terms["class_consistency"].item() for terms in single])
    expected = (counts * values).sum() / counts.sum()
    assert whole["class_consistency"].item() == pytest.approx(expected, rel=1e-12)


def unet(in_channels: int = 1) -> MeanVarianceNetwork:
    torch.manual_seed(0)
    backbone = DualBranchUNet(
        in_channels=in_channels, out_channels=2 * C, features=(4, 6, 8), branches=1
    )
    layers = ["encoder.blocks.0", "encoder.blocks.1", "encoder.center"]
    return MeanVarianceNetwork(backbone, C, layers, "encoder.center", 8)


def unet_step(objective: EntropyMinimization, **options: Any) -> tuple[ForwardStep, dict]:
    generator = torch.Generator().manual_seed(0)
    groups = {
        "full": {"image": torch.randn(2, 1, 8, 8, generator=generator), "label": make_label()},
        "none": {"image": torch.randn(3, 1, 8, 8, generator=generator)},
    }
    step = ForwardStep(NetworkSet(unet(), objective), objective, **options)
    return step.train(), groups


#: Parts of the network that each term trains.
TRAINED = {
    "ce_segmentation": ({"encoder", "main"}, False),
    "ce_class": ({"encoder"}, True),
    "gradient": ({"encoder"}, False),
    "sharpening": ({"encoder", "main"}, False),
    "class_consistency": ({"encoder", "main"}, True),
}


@pytest.mark.parametrize("term", TERMS)
def test_what_each_term_trains(term: str) -> None:
    step, groups = unet_step(EntropyMinimization())
    network = step.networks["network"]
    step(groups)[term].backward()
    moved = {
        name.split(".")[1] if name.startswith("backbone") else name.split(".")[0]
        for name, p in network.named_parameters()
        if p.grad is not None and bool(p.grad.any())
    }
    parts, head = TRAINED[term]
    assert moved == parts | ({"class_head"} if head else set())
    # Without labels nothing moves the log-variances; with them the sampled logits do.
    last = network.get_parameter("backbone.main.head.weight").grad
    if term == "ce_segmentation":
        assert last is not None
        assert last[C:].any()
    elif last is not None:
        assert not last[C:].any()


def test_kinds_may_share_a_pass() -> None:
    step, groups = unet_step(EntropyMinimization(), separate_forward=False)
    assert list(step(groups)) == TERMS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    step, groups = unet_step(EntropyMinimization())
    with torch.autocast("cpu", dtype):
        terms = step(groups)
    assert {term.dtype for term in terms.values()} == {torch.float32}
    sum(terms.values()).backward()
    gradients = [p.grad for p in step.networks["network"].parameters()]
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients)


class Batches:
    """Batches of an epoch, as the data loader makes them; the same in every epoch."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(1)
        self.batches = [
            {
                "image": torch.randn(4, 1, 8, 8, generator=generator),
                "label": torch.cat([make_label(seed=i), torch.full((2, 1, 8, 8), C)]),
                "supervision": ["full"] * 2 + ["none"] * 2,
                "case_id": ["a", "b", "c", "d"],
            }
            for i in range(count)
        ]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        return iter(self.batches)


def make_trainer(epochs: int) -> MixedSupervisionTrainer:
    """SGD with momentum, weight decay and the polynomial schedule of the paper."""
    objective = EntropyMinimization()
    networks = NetworkSet(unet(), objective)
    optimizer = torch.optim.SGD(
        networks.trained_parameters(), lr=1e-2, momentum=0.9, weight_decay=5e-4
    )
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=4, power=0.9)
    return MixedSupervisionTrainer(
        "cpu", epochs, Batches(3), networks, optimizer, objective, lr_scheduler=schedule
    )


def weights_of(trainer: MixedSupervisionTrainer) -> dict[str, Tensor]:
    return {k: v for k, v in trainer.networks.state_dict().items() if isinstance(v, Tensor)}


def test_resume_equals_uninterrupted(tmp_path: Path) -> None:
    torch.manual_seed(21)
    whole = make_trainer(4)
    torch.manual_seed(22)
    whole.run()
    torch.manual_seed(21)
    first = make_trainer(2)
    torch.manual_seed(22)
    first.run()
    torch.save(first.full_state(), tmp_path / "state.pt")
    second = make_trainer(4)
    second.load_full_state(torch.load(tmp_path / "state.pt", weights_only=True))
    second.run()
    one, other = weights_of(whole), weights_of(second)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    # Epoch e of 4 had 1e-2 (1 - e/4)^0.9.
    assert whole.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)
    assert first.optimizer.param_groups[0]["lr"] == pytest.approx(1e-2 * 0.5**0.9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambda_unsup": -1}, "lambda_unsup must not be negative, got -1"),
        ({"lambda_grad": -1}, "lambda_grad must not be negative, got -1"),
        ({"lambda_sharpen": -1}, "lambda_sharpen must not be negative, got -1"),
        ({"lambda_class": math.nan}, "lambda_class must not be negative, got nan"),
        ({"sharpening": "soft"}, "sharpening must be one of adaptive, fixed, got 'soft'"),
        (
            {"sharpening": "fixed", "temperature": 0.0},
            "temperature must be positive, got 0.0",
        ),
        (
            {"temperature_min": 0.0},
            r"the smallest temperature must lie in \(0, 1\], got 0.0",
        ),
        (
            {"gradient_operator": "laplace"},
            "operator must be one of sobel, difference, got 'laplace'",
        ),
        (
            {"channel_reduction": "max"},
            "channel_reduction must be one of mean, norm, got 'max'",
        ),
        ({"resizing": "max"}, "resizing must be one of pool, interpolate, got 'max'"),
        ({"gradient_sum": "all"}, "gradient_sum must be one of through, below, got 'all'"),
        ({"class_threshold": 0.0}, r"threshold must lie in \(0, 1\], got 0.0"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        EntropyMinimization(**options)
