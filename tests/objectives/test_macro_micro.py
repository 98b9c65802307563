"""Macro-Micro against a float64 NumPy transcription."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import entropy
from torch import Tensor

from mixseg.engines import ForwardStep, NetworkSet
from mixseg.networks import DualBranchUNet
from mixseg.objectives import MacroMicro

from .pointwise import Pointwise, transcribed

CLASSES = 3
SIZE = (4, 6)


def make_batch(seed: int = 0) -> dict[str, dict[str, Tensor]]:
    rng = np.random.default_rng(seed)
    return {
        kind: {
            "image": torch.from_numpy(rng.normal(0, 1, (number, 1, *SIZE))),
            "label": torch.from_numpy(rng.integers(0, CLASSES + 1, (number, 1, *SIZE))),
        }
        for kind, number in (("full", 2), ("noisy", 3))
    }


def make_networks() -> dict[str, Pointwise]:
    return {
        name: Pointwise(i, SIZE) for i, name in enumerate(("network", "macro", "macro_mean"), 1)
    }


def run(
    objective: MacroMicro, networks: dict[str, Pointwise], batch: dict[str, dict[str, Tensor]]
) -> dict[str, Tensor]:
    outputs = {
        kind: networks["network"](batch[kind]["image"], branch="main")
        for kind in objective.branches
        if kind in batch
    }
    return objective(outputs, batch, networks)


def cross_entropy(z: np.ndarray, label: np.ndarray) -> float:
    known = label[:, 0] < CLASSES
    index = np.minimum(label, CLASSES - 1)
    return float(-np.take_along_axis(log_softmax(z, axis=1), index, 1)[:, 0][known].mean())


def guided(z: np.ndarray, learner: np.ndarray) -> float:
    """Mean over voxels of (1 - H(p) / ln C) KL(p‖q)."""
    p, q = softmax(z, axis=1), softmax(learner, axis=1)
    return float(((1 - entropy(p, axis=1) / np.log(CLASSES)) * entropy(p, q, axis=1)).mean())


def test_terms_equal_transcription() -> None:
    networks, batch = make_networks(), make_batch()
    terms = run(MacroMicro(), networks, batch)
    noisy = batch["noisy"]["image"].numpy()
    micro, macro, mean = (transcribed(network, noisy) for network in networks.values())
    expected = {
        "ce_micro": cross_entropy(
            transcribed(networks["network"], batch["full"]["image"].numpy()),
            batch["full"]["label"].numpy(),
        ),
        "ce_macro": cross_entropy(macro, batch["noisy"]["label"].numpy()),
        "guidance": guided(micro, macro),
        "feeding": guided(mean, micro),
    }
    assert list(terms) == list(MacroMicro().weights)
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(expected, rel=1e-10)
    # The network passes each kind once, the others the noisy images alone.
    assert {name: network.calls for name, network in networks.items()} == {
        "network": 2, "macro": 1, "macro_mean": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("term", "learner"),
    [
        ("ce_micro", "network"), ("ce_macro", "macro"),
        ("guidance", "macro"), ("feeding", "network"),
    ],
)  # fmt: skip
def test_each_term_trains_one_network(term: str, learner: str) -> None:
    networks = make_networks()
    run(MacroMicro(), networks, make_batch())[term].backward()
    reached = {name for name, network in networks.items() if network.map.grad is not None}
    assert reached == {learner}
    assert bool(networks[learner].scale.grad.any())


def test_no_wrong_mask_reaches_the_micro_network_by_its_own_terms() -> None:
    """Other noisy masks change what the macro network learns, and nothing else in this step."""
    networks, batch = make_networks(), make_batch()
    before = run(MacroMicro(), networks, batch)
    batch["noisy"]["label"] = (batch["noisy"]["label"] + 1) % CLASSES
    after = run(MacroMicro(), networks, batch)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"ce_macro"}


def test_missing_kinds_are_left_out() -> None:
    batch = make_batch()
    for kind, names in (
        ("full", {"ce_micro"}), ("noisy", {"ce_macro", "guidance", "feeding"}),
    ):  # fmt: skip
        assert set(run(MacroMicro(), make_networks(), {kind: batch[kind]})) == names


@pytest.mark.parametrize(
    ("options", "branches", "calls"),
    [
        ({"lambda_guide": 0}, {"full": "main", "noisy": "main"}, (2, 1, 1)),
        ({"lambda_feed": 0}, {"full": "main", "noisy": "main"}, (2, 1, 0)),
        ({"lambda_guide": 0, "lambda_feed": 0}, {"full": "main"}, (1, 1, 0)),
    ],
)
def test_terms_without_weight_cost_no_pass(
    options: dict[str, Any], branches: dict[str, str], calls: tuple[int, ...]
) -> None:
    objective, networks = MacroMicro(**options), make_networks()
    assert objective.branches == branches
    assert set(run(objective, networks, make_batch())) == set(objective.weights)
    assert tuple(network.calls for network in networks.values()) == calls


def test_the_average_follows_the_macro_network() -> None:
    """At the first step it copies, at the second it keeps a half, later 0.99 at most."""
    torch.manual_seed(0)
    network = DualBranchUNet(out_channels=CLASSES, features=(2, 4), branches=1)
    networks = NetworkSet(network, MacroMicro())
    assert sorted(networks) == ["macro", "macro_mean", "network"]
    head = {name: networks[name].main.head.weight for name in networks}
    assert not torch.isclose(head["network"], head["macro"]).any()
    step = ForwardStep(networks, MacroMicro()).train()
    groups = {
        kind: {k: v[..., :4, :4].float() if k == "image" else v[..., :4, :4] for k, v in g.items()}
        for kind, g in make_batch().items()
    }
    sum(step(groups).values()).backward()
    assert all(p.grad is None for p in networks["macro_mean"].parameters())
    for name in ("network", "macro"):
        assert any(bool(p.grad.any()) for p in networks[name].parameters())
    first = head["macro"].detach().clone()
    networks.update_averages(1)
    assert torch.equal(head["macro_mean"], first)
    head["macro"].data += 1
    networks.update_averages(1)
    torch.testing.assert_close(head["macro_mean"], first + 0.5)
    (spec,) = [s for s in MacroMicro(decay=0.9).networks.values() if s.average_of]
    assert (spec.average_of, spec.decay, spec.per, spec.buffers) == (
        "macro", 0.9, "iteration", False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambda_guide": -1}, "lambda_guide must not be negative, got -1"),
        ({"lambda_feed": -0.5}, "lambda_feed must not be negative, got -0.5"),
        ({"decay": 1.0}, r"decay must lie in \[0, 1\), got 1.0"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        MacroMicro(**options)
