"""The flagship's objective against a float64 NumPy transcription of its terms."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import Tensor

from mixseg.engines import ForwardStep, NetworkSet
from mixseg.handlers import WeightRamps
from mixseg.networks import DualBranchDynUNet
from mixseg.objectives import MixedSupervision

CLASSES = 3
SIZE = (5, 4)
KINDS = ("full", "partial", "noisy", "none")
LABELS = {"full": 1.0, "partial": 0.3}

Groups = dict[str, dict[str, Tensor]]
Logits = dict[str, Any]


def make_batch(kinds: tuple[str, ...] = KINDS, seed: int = 0) -> Groups:
    """Two images of each kind; weak and noisy labels have unlabeled voxels."""
    generator = torch.Generator().manual_seed(seed)
    batch: Groups = {}
    for kind in KINDS:
        image = torch.randn(2, 1, *SIZE, generator=generator)
        highest = CLASSES - (kind == "full")
        label = torch.randint(0, highest + 1, (2, 1, *SIZE), generator=generator)
        batch[kind] = {"image": image} | ({} if kind == "none" else {"label": label})
    return {kind: batch[kind] for kind in kinds}


def make_logits(branches: int, kinds: tuple[str, ...] = KINDS, seed: int = 1) -> Logits:
    generator = torch.Generator().manual_seed(seed)
    out: Logits = {}
    for kind in KINDS:
        parts = tuple(
            2 * torch.randn(2, CLASSES, *SIZE, generator=generator, dtype=torch.float64)
            for _ in range(branches)
        )
        out[kind] = parts if branches == 2 else parts[0]
    return {kind: out[kind] for kind in kinds}


def parts_of(output: Any) -> list[np.ndarray]:
    return [z.numpy() for z in ((output,) if isinstance(output, Tensor) else output)]


def supervised(z: np.ndarray, label: np.ndarray) -> float:
    """Cross-entropy of labeled voxels, and Dice of the batch's labeled foreground classes."""
    labeled = label[:, 0] < CLASSES
    log_p, y = np.moveaxis(log_softmax(z, axis=1), 1, -1)[labeled], label[:, 0][labeled]
    cross_entropy = -log_p[np.arange(len(y)), y].mean() if len(y) else 0.0
    dice = [
        1 - (2 * np.exp(log_p[y == c, c]).sum() + 1e-5)
        / (np.exp(log_p[:, c]).sum() + (y == c).sum() + 1e-5)
        for c in range(1, CLASSES)
        if (y == c).any()
    ]  # fmt: skip
    return float(cross_entropy + (np.mean(dice) if dice else 0.0))


def transcribed(logits: Logits, batch: Groups, beta: float) -> dict[str, float]:
    branches = len(parts_of(next(iter(logits.values()))))
    terms: dict[str, float] = {}
    for kind in ("full", "partial", "noisy"):
        if kind in logits:
            label = batch[kind]["label"].numpy()
            terms[kind] = float(np.mean([supervised(z, label) for z in parts_of(logits[kind])]))
    rest = [kind for kind in ("partial", "noisy", "none") if kind in logits]
    if branches == 2 and rest:
        losses: list[list[np.ndarray]] = [[], []]
        for kind in rest:
            teacher, student = parts_of(logits[kind])
            target = beta * softmax(teacher, axis=1) + (1 - beta) * softmax(student, axis=1)
            label = batch[kind].get("label", torch.full((2, 1, *SIZE), CLASSES)).numpy()[:, 0]
            for b, z in enumerate((teacher, student)):
                value = -(target * log_softmax(z, axis=1)).sum(axis=1)
                losses[b].append(value[label == CLASSES])
        terms["pseudo"] = float(np.mean([np.concatenate(part).mean() for part in losses]))
    return terms


def objective(branches: int) -> MixedSupervision:
    return MixedSupervision(lambda_pseudo=0.3 if branches == 2 else 0.0, branches=branches)


def weighted(z: np.ndarray, label: np.ndarray, full: np.ndarray) -> float:
    """Like ``supervised``, each voxel by the share of its class on masks over that on labels."""
    y = label[:, 0][label[:, 0] < CLASSES]
    log_p = np.moveaxis(log_softmax(z, axis=1), 1, -1)[label[:, 0] < CLASSES]
    on_masks, on_labels = (np.bincount(x.ravel(), minlength=CLASSES)[:CLASSES] for x in (full, y))
    w = np.maximum(on_masks / on_masks.sum() / (on_labels / on_labels.sum()), 0.1)[y]
    cross_entropy = -(w * log_p[np.arange(len(y)), y]).sum() / len(y)
    dice = [
        1 - (2 * (w * np.exp(log_p[:, c]))[y == c].sum() + 1e-5)
        / ((w * np.exp(log_p[:, c])).sum() + w[y == c].sum() + 1e-5)
        for c in range(1, CLASSES)
    ]  # fmt: skip
    return float(cross_entropy + np.mean(dice))


def test_scribbles_count_classes_as_masks_do() -> None:
    batch, logits = make_batch(), make_logits(1)
    # A class that the masks lack counts a tenth.
    for absent in (None, 1):
        full, partial = batch["full"]["label"].clone(), batch["partial"]["label"]
        if absent is not None:
            full[full == absent] = 0
        batch["full"]["label"] = full
        terms = MixedSupervision(match_classes=True)(logits, batch, {})
        expected = weighted(logits["partial"].numpy(), partial.numpy(), full.numpy())
        assert terms["partial"].item() == pytest.approx(expected, rel=1e-6)
        plain = MixedSupervision()(logits, batch, {})
        for kind in ("full", "noisy"):
            assert torch.equal(terms[kind], plain[kind])


def test_scribbles_without_masks_beside_them_count_voxel_by_voxel() -> None:
    kinds = ("partial", "none")
    batch, logits = make_batch(kinds), make_logits(1, kinds)
    matched = MixedSupervision(match_classes=True)(logits, batch, {})["partial"]
    assert torch.equal(matched, MixedSupervision()(logits, batch, {})["partial"])


def test_scribbles_are_matched_to_what_was_marked_class_by_class() -> None:
    """A third of the background, all of class 1, half of class 2: the loss of the whole masks."""
    generator = torch.Generator().manual_seed(3)
    label = torch.arange(3).repeat_interleave(torch.tensor([30, 6, 12])).view(1, 1, 48)
    p = torch.rand(3, CLASSES, generator=generator, dtype=torch.float64).log()
    logits = p[label[0, 0]].T.unsqueeze(0)  # voxels of one class are predicted alike
    seen = torch.cat([torch.arange(0, 10), torch.arange(30, 36), torch.arange(36, 42)])
    scribble = torch.full_like(label, CLASSES)
    scribble[..., seen] = label[..., seen]
    batch = {"full": {"label": label}, "partial": {"label": scribble}}
    outputs = {"full": logits, "partial": logits}
    terms = MixedSupervision(match_classes=True)(outputs, batch, {})
    torch.testing.assert_close(terms["partial"], terms["full"], rtol=1e-5, atol=0)


def drawn_beta(seed: int) -> float:
    torch.manual_seed(seed)
    return float(torch.rand(()))


@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize(
    "kinds", [s for n in range(1, 5) for s in itertools.combinations(KINDS, n)], ids="+".join
)
def test_every_subset_of_kinds(branches: int, kinds: tuple[str, ...]) -> None:
    batch, logits = make_batch(kinds), make_logits(branches, kinds)
    expected = transcribed(logits, batch, drawn_beta(4))
    torch.manual_seed(4)
    terms = objective(branches)(logits, batch, {})
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(expected, rel=1e-6)


def gradients(logits: Logits, batch: Groups, term: str, branches: int = 2) -> Logits:
    leaves = {
        kind: [z.clone().requires_grad_() for z in ((o,) if isinstance(o, Tensor) else o)]
        for kind, o in logits.items()
    }
    outputs = {k: tuple(z) if branches == 2 else z[0] for k, z in leaves.items()}
    torch.manual_seed(4)
    objective(branches)(outputs, batch, {})[term].backward()
    return {kind: [z.grad for z in parts] for kind, parts in leaves.items()}


def test_gradients_of_matched_scribbles() -> None:
    batch, logits = make_batch(("full", "partial")), make_logits(1)
    method = MixedSupervision(match_classes=True)

    def value(partial: Tensor) -> Tensor:
        return method({"full": logits["full"], "partial": partial}, batch, {})["partial"]

    assert torch.autograd.gradcheck(value, (logits["partial"].clone().requires_grad_(),))


@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize("kind", ["full", "partial", "noisy"])
def test_gradients_of_labels(kind: str, branches: int) -> None:
    batch = make_batch((kind,))
    parts = parts_of(make_logits(branches)[kind])

    def value(*logits: Tensor) -> Tensor:
        outputs = {kind: logits if branches == 2 else logits[0]}
        return objective(branches)(outputs, batch, {})[kind]

    inputs = [torch.from_numpy(z).clone().requires_grad_() for z in parts]
    assert torch.autograd.gradcheck(value, inputs)


def test_pseudo_labels_are_targets_without_gradient() -> None:
    """Of −Σ q log p with a fixed q the gradient is p − q; here by voxel and branch."""
    batch, logits = make_batch(), make_logits(2)
    found = gradients(logits, batch, "pseudo")
    beta = drawn_beta(4)
    unlabeled = {
        kind: (batch[kind]["label"] == CLASSES)
        if "label" in batch[kind]
        else torch.ones(2, 1, *SIZE, dtype=torch.bool)
        for kind in KINDS[1:]
    }
    count = sum(int(mask.sum()) for mask in unlabeled.values())
    assert all(gradient is None for gradient in found["full"])
    for kind, mask in unlabeled.items():
        p = [z.softmax(1) for z in logits[kind]]
        target = beta * p[0] + (1 - beta) * p[1]
        for branch in (0, 1):
            expected = torch.where(mask, (p[branch] - target) / count / 2, 0.0)
            torch.testing.assert_close(found[kind][branch], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("term", ["full", "partial", "noisy", "pseudo"])
def test_voxels_that_a_term_leaves_out_change_nothing(term: str) -> None:
    """Unlabeled ones do not touch the terms of labels, labeled ones not that of pseudo-labels."""
    batch, logits = make_batch(), make_logits(2)
    changed: Logits = {}
    for kind, output in logits.items():
        label = batch[kind].get("label", torch.full((2, 1, *SIZE), CLASSES))
        used = (label == CLASSES) if term == "pseudo" else (label < CLASSES)
        changed[kind] = tuple(torch.where(used, z, 5 * z.flip(1) - 3) for z in output)
    values = []
    for outputs in (logits, changed):
        torch.manual_seed(4)
        values.append(objective(2)(outputs, batch, {})[term])
    torch.testing.assert_close(*values)
    before, after = gradients(logits, batch, term), gradients(changed, batch, term)
    for kind in KINDS:
        for one, other in zip(before[kind], after[kind], strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-12)


def test_nothing_labeled_gives_zero() -> None:
    batch = {"partial": {"label": torch.full((2, 1, *SIZE), CLASSES)}}
    logits = make_logits(1, ("partial",))
    assert objective(1)(logits, batch, {})["partial"].item() == 0
    (gradient,) = gradients(logits, batch, "partial", 1)["partial"]
    assert not gradient.any()


def test_the_mixture_is_drawn_anew_for_each_step() -> None:
    batch, logits = make_batch(("none",)), make_logits(2, ("none",))
    torch.manual_seed(0)
    values = [objective(2)(logits, batch, {})["pseudo"].item() for _ in range(200)]
    ends = [transcribed(logits, batch, beta)["pseudo"] for beta in (0.0, 1.0)]
    low, high = sorted(ends)
    assert low <= min(values) < low + 0.1 * (high - low)
    assert high - 0.1 * (high - low) < max(values) <= high
    assert np.mean(values) == pytest.approx(np.mean(ends), abs=0.1 * (high - low))


@pytest.mark.parametrize(
    ("options", "kinds", "weights"),
    [
        ({}, {"full", "partial", "noisy"}, {**LABELS, "noisy": 0.5}),
        ({"lambda_noisy": 0}, {"full", "partial"}, LABELS),
        ({"lambda_partial": 0}, {"full", "noisy"}, {"full": 1.0, "noisy": 0.5}),
        (
            {"lambda_noisy": 0, "lambda_pseudo": 0.1, "branches": 2},
            set(KINDS),
            {**LABELS, "pseudo": 0.1},
        ),
        ({"branches": 2}, {"full", "partial", "noisy"}, {**LABELS, "noisy": 0.5}),
    ],
)
def test_what_is_forwarded(
    options: dict[str, Any], kinds: set[str], weights: dict[str, float]
) -> None:
    method = MixedSupervision(**options)
    assert method.branches == dict.fromkeys(kinds, "both" if "branches" in options else "main")
    assert method.weights == weights


def test_pseudo_labels_that_begin_later_cost_nothing_before() -> None:
    method = MixedSupervision(lambda_pseudo=0.3, branches=2)
    ramp = WeightRamps(method, {"lambda_pseudo": {"length": 10, "begin": 40}})
    seen = []
    for iteration in (1, 40, 45, 50, 60):
        ramp(SimpleNamespace(state=SimpleNamespace(iteration=iteration)))
        seen.append((method.weights.get("pseudo", 0.0), "none" in method.branches))
    assert seen == [(0, False), (0, False), (0.15, True), (0.3, True), (0.3, True)]


@pytest.mark.parametrize("branches", [1, 2])
def test_a_step_trains_every_part_of_the_network(branches: int) -> None:
    method = objective(branches)
    network = DualBranchDynUNet(
        spatial_dims=2, in_channels=1, out_channels=CLASSES, features=(4, 8, 8), branches=branches
    )
    assert method.trained_branches == network.branch_names
    assert method.inference_branch == network.branch_names[-1]
    batch = {
        kind: {key: value.repeat(1, 1, 2, 2)[..., :8, :8] for key, value in group.items()}
        for kind, group in make_batch().items()
    }
    terms = ForwardStep(NetworkSet(network, method), method)(batch)
    assert set(terms) == set(method.weights)
    torch.stack([method.weights[k] * v for k, v in terms.items()]).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambda_partial": -1}, "lambda_partial must not be negative"),
        ({"lambda_noisy": -1}, "lambda_noisy must not be negative"),
        ({"lambda_pseudo": -1, "branches": 2}, "lambda_pseudo must not be negative"),
        ({"branches": 3}, "branches must be 1 or 2, got 3"),
        ({"lambda_pseudo": 0.1}, "pseudo-labels are a mixture of two branches"),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixedSupervision(**options)
