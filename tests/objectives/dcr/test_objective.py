"""DCR against a float64 NumPy transcription of eqs. 4 to 7."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mixseg.engines import ForwardStep, NetworkSet
from mixseg.networks import DualBranchUNet
from mixseg.objectives import DynamicCoRegularization

from ..pointwise import Pointwise, transcribed

CLASSES = 3
SIZE = (6, 5)
KINDS = ["full", "full", "noisy", "noisy", "noisy"]
GAMMA = [1.0, 1.0, 0.25, 0.75, 0.0]


def log_softmax(z: np.ndarray) -> np.ndarray:
    return z - z.max(0) - np.log(np.exp(z - z.max(0)).sum(axis=0))


def cross_entropy(z: np.ndarray, label: np.ndarray) -> float:
    """Mean over the labeled pixels of one image, 0 without any."""
    known = label < CLASSES
    values = -np.take_along_axis(log_softmax(z), np.minimum(label, CLASSES - 1)[None], 0)[0]
    return float(values[known].mean()) if known.any() else 0.0


def divergence(log_p: np.ndarray, z: np.ndarray) -> float:
    return float((np.exp(log_p) * (log_p - log_softmax(z))).sum(axis=0).mean())


def make_batch(seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """Four pairs. Labels have unlabeled pixels; the third primary one has background alone."""
    rng = np.random.default_rng(seed)
    groups = {
        name: {
            "image": torch.from_numpy(rng.normal(0, 1, (4, 1, *SIZE))),
            "label": torch.from_numpy(rng.integers(0, CLASSES + 1, (4, 1, *SIZE))),
            "index": torch.tensor(index),
        }
        for name, index in (("primary", [0, 2, 3, 4]), ("auxiliary", [3, 4, 1, 2]))
    }
    groups["primary"]["label"][2] = torch.from_numpy(rng.integers(0, 2, (1, *SIZE)) * CLASSES)
    return groups


def make_networks() -> dict[str, Pointwise]:
    return {"network": Pointwise(1, SIZE), "auxiliary": Pointwise(2, SIZE)}


def make(**options: Any) -> DynamicCoRegularization:
    objective = DynamicCoRegularization(KINDS, **options)
    if options.get("indicators", True):
        objective.gamma.copy_(torch.tensor(GAMMA))
    return objective


def run(
    objective: DynamicCoRegularization, networks: dict[str, Pointwise], seed: int = 7
) -> dict[str, Tensor]:
    batch = make_batch()
    outputs = {"primary": networks["network"](batch["primary"]["image"], branch="main")}
    torch.manual_seed(seed)
    return objective(outputs, batch, networks)


def expected_terms(
    networks: dict[str, Pointwise], pasted: np.ndarray, gamma: list[float], regularization: str
) -> dict[str, float]:
    """Eqs. 4 to 7, pair by pair; ``pasted`` (B, H, W) is B_i^c."""
    batch = make_batch()
    terms: dict[str, list[float]] = {"ce_primary": [], "ce_auxiliary": [], "regularization": []}
    for k in range(4):
        (x_i, y_i), (x_j, y_j) = (
            (batch[name]["image"][k, 0].numpy(), batch[name]["label"][k, 0].numpy())
            for name in ("primary", "auxiliary")
        )
        gamma_i, gamma_j = (gamma[int(batch[n]["index"][k])] for n in ("primary", "auxiliary"))
        theta_1, theta_2 = networks["network"], networks["auxiliary"]
        terms["ce_primary"].append(gamma_i * cross_entropy(transcribed(theta_1, x_i)[0], y_i))
        terms["ce_auxiliary"].append(gamma_j * cross_entropy(transcribed(theta_2, x_j)[0], y_j))
        x_m = pasted[k] * x_i + (1 - pasted[k]) * x_j
        r = 0.0
        for learner, other in ((theta_1, theta_2), (theta_2, theta_1)):
            z_i, z_j, z = (transcribed(other, x_i)[0], transcribed(other, x_j)[0],
                           transcribed(learner, x_m)[0])  # fmt: skip
            if regularization == "ce":
                mask = pasted[k] * z_i.argmax(0) + (1 - pasted[k]) * z_j.argmax(0)
                r += cross_entropy(z, mask)
            else:
                soft = pasted[k] * log_softmax(z_i) + (1 - pasted[k]) * log_softmax(z_j)
                r += divergence(soft, z)
        terms["regularization"].append(0.5 * (gamma_i + gamma_j) * r)
    return {name: float(np.mean(values)) for name, values in terms.items()}


def regions(seed: int) -> np.ndarray:
    """One of the foreground classes of each label, by the largest of its draws."""
    torch.manual_seed(seed)
    draws = torch.rand(4, CLASSES - 1).numpy()
    masks = []
    for k, label in enumerate(make_batch()["primary"]["label"][:, 0].numpy()):
        there = [c for c in range(1, CLASSES) if (label == c).any()]
        masks.append(label == max(there, key=lambda c: draws[k, c - 1]) if there else label < 0)
    return np.array(masks).astype(int)


def boxes(seed: int) -> np.ndarray:
    """Boxes as CutMix's code draws them, with the share and the center from these draws."""
    torch.manual_seed(seed)
    shares, centers = torch.rand(4).numpy(), torch.rand(4, 2).numpy()
    masks = np.zeros((4, *SIZE), int)
    for k in range(4):
        slices = []
        for side, center in zip(SIZE, centers[k], strict=True):
            cut, middle = int(side * np.sqrt(shares[k])), int(center * side)
            slices.append(slice(max(middle - cut // 2, 0), min(middle + cut // 2, side)))
        masks[k][tuple(slices)] = 1
    return masks


@pytest.mark.parametrize("regularization", ["ce", "kl"])
@pytest.mark.parametrize("mixing", ["foreground", "cutmix"])
@pytest.mark.parametrize("indicators", [True, False])
def test_terms_equal_transcription(mixing: str, regularization: str, indicators: bool) -> None:
    objective = make(mixing=mixing, regularization=regularization, indicators=indicators)
    networks = make_networks()
    terms = run(objective, networks)
    pasted = regions(7) if mixing == "foreground" else boxes(7)
    assert 0 < pasted.mean() < 1
    gamma = GAMMA if indicators else [1.0] * 5
    expected = expected_terms(networks, pasted, gamma, regularization)
    assert set(terms) == set(expected) == set(objective.weights)
    for name, value in expected.items():
        # γ is float32, exact for these values.
        assert terms[name].item() == pytest.approx(value, rel=1e-9), name
        assert value > 0.01
    # Two supervised passes, two without a graph, two of the mixed images.
    assert [network.calls for network in networks.values()] == [3, 3]


def test_weights_networks_and_branches() -> None:
    objective = make()
    assert objective.branches == {"primary": "main"}
    assert objective.trained_branches == ("main",)
    assert objective.inference_branch == "main"
    assert objective.weights == {"ce_primary": 1.0, "ce_auxiliary": 1.0, "regularization": 4.0}
    assert {name: spec.average_of for name, spec in objective.networks.items()} == {
        "auxiliary": None
    }
    assert make(lambda_reg=0.0).weights == {"ce_primary": 1.0, "ce_auxiliary": 1.0}
    assert objective.learned.tolist() == [False, False, True, True, True]
    assert torch.equal(objective.sampling_weights(), torch.tensor(GAMMA))
    assert DynamicCoRegularization(KINDS, indicator_init=0.25).gamma.tolist() == [
        1.0, 1.0, 0.25, 0.25, 0.25,
    ]  # fmt: skip
    fixed = make(indicators=False)
    assert fixed.gamma.tolist() == [1.0] * 5
    assert not fixed.learned.any()


def test_steps_reach_the_weights() -> None:
    objective = DynamicCoRegularization(KINDS, indicator_lr=0.25)
    objective.step_indicators(torch.tensor([1.0, -1.0, 3.0]))
    np.testing.assert_allclose(objective.gamma, [1, 1, 0.75, 0.25, 0.75], rtol=1e-5)
    assert set(objective.state_dict()) == {"instances.gamma", "instances._extra_state"}


def test_one_network_alone_and_without_regularization() -> None:
    networks = make_networks()
    terms = run(make(peer=False), networks)
    expected = expected_terms(networks, regions(7), GAMMA, "ce")
    assert list(terms) == ["ce_primary"] == list(make(peer=False).weights)
    assert terms["ce_primary"].item() == pytest.approx(expected["ce_primary"], rel=1e-9)
    assert networks["auxiliary"].calls == 0
    assert make(peer=False).networks == {}
    terms = run(make(lambda_reg=0), make_networks())
    assert set(terms) == {"ce_primary", "ce_auxiliary"}
    assert terms["ce_auxiliary"].item() == pytest.approx(expected["ce_auxiliary"], rel=1e-9)


@pytest.mark.parametrize("mixing", ["foreground", "cutmix"])
def test_an_image_of_weight_zero_does_not_matter(mixing: str) -> None:
    """Pair 1 of index 4 and pair 3 of indices 4 and 2: with both weights at 0 the pair is gone."""
    networks = make_networks()
    objective = make(mixing=mixing)
    objective.gamma[2] = 0
    values = []
    for shift in (0.0, 1.0):
        batch = make_batch()
        for name, rows in (("primary", [1, 3]), ("auxiliary", [1, 3])):
            batch[name]["image"][rows] += shift
        outputs = {"primary": networks["network"](batch["primary"]["image"], branch="main")}
        torch.manual_seed(7)
        terms = objective(outputs, batch, networks)
        values.append([term.item() for term in terms.values()])
        sum(terms.values()).backward()
        values[-1] += [float(network.map.grad.sum()) for network in networks.values()]
        networks = make_networks()
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def test_unlabeled_pixels_do_not_matter() -> None:
    objective, batch, networks = make(lambda_reg=0), make_batch(), make_networks()
    unknown = batch["primary"]["label"] == CLASSES
    z = networks["network"](batch["primary"]["image"], branch="main")
    found = []
    for shift in (0.0, 5.0):
        leaf = (
            z.detach() + shift * unknown * torch.arange(CLASSES).view(-1, 1, 1)
        ).requires_grad_()
        value = objective({"primary": leaf}, batch, networks)["ce_primary"]
        (gradient,) = torch.autograd.grad(value, leaf)
        assert not gradient[unknown.expand_as(gradient)].any()
        found.append(value.item())
    assert found[0] == pytest.approx(found[1], rel=1e-12)


@pytest.mark.parametrize("regularization", ["ce", "kl"])
def test_gradients_of_the_regularization(regularization: str) -> None:
    """By differences: the targets are fixed, so only the pass of the mixed images counts."""
    objective, networks = make(regularization=regularization), make_networks()
    term = run(objective, networks)["regularization"]
    network = networks["network"]
    (gradient,) = torch.autograd.grad(term, network.map)
    pasted = regions(7)
    x_i, x_j = (make_batch()[name]["image"][:, 0].numpy() for name in ("primary", "auxiliary"))
    gamma = [0.5 * (GAMMA[i] + GAMMA[j]) for i, j in zip([0, 2, 3, 4], [3, 4, 1, 2], strict=True)]
    expected = np.zeros((CLASSES, *SIZE))
    for k in range(4):
        other = networks["auxiliary"]
        z_i, z_j = transcribed(other, x_i[k])[0], transcribed(other, x_j[k])[0]
        if regularization == "ce":
            mixed = np.where(pasted[k], z_i.argmax(0), z_j.argmax(0))
            target = np.eye(CLASSES)[mixed].transpose(2, 0, 1)
        else:
            target = np.exp(np.where(pasted[k], log_softmax(z_i), log_softmax(z_j)))
        p = np.exp(log_softmax(transcribed(network, np.where(pasted[k], x_i[k], x_j[k]))[0]))
        expected += gamma[k] * (p - target) / np.prod(SIZE) / 4
    np.testing.assert_allclose(gradient[0].numpy(), expected, rtol=1e-9, atol=1e-15)


def test_draws_come_from_the_global_generator() -> None:
    for mixing in ("foreground", "cutmix"):
        one, other = (
            run(make(mixing=mixing), make_networks(), 3),
            run(make(mixing=mixing), make_networks(), 3),
        )
        assert one["regularization"] == other["regularization"]
        different = run(make(mixing=mixing), make_networks(), 4)
        assert one["regularization"] != different["regularization"]


def unet_step(**options: Any) -> tuple[ForwardStep, dict[str, dict[str, Tensor]]]:
    torch.manual_seed(0)
    objective = make(**options)
    networks = NetworkSet(
        DualBranchUNet(features=(4, 8), out_channels=CLASSES, branches=1), objective
    )
    groups = {
        kind: {k: v[..., :4, :4] if v.ndim > 1 else v for k, v in group.items()}
        for kind, group in make_batch().items()
    }
    for group in groups.values():
        group["image"] = group["image"].float()
    return ForwardStep(networks, objective).train(), groups


@pytest.mark.parametrize(
    ("term", "trained"),
    [
        ("ce_primary", {"network"}),
        ("ce_auxiliary", {"auxiliary"}),
        ("regularization", {"network", "auxiliary"}),
    ],
)
@pytest.mark.parametrize("regularization", ["ce", "kl"])
def test_gradients_reach_their_networks(term: str, trained: set[str], regularization: str) -> None:
    step, groups = unet_step(regularization=regularization)
    step(groups)[term].backward()
    for name, network in step.networks.items():
        given = [p.grad is not None for p in network.parameters()]
        assert set(given) == {name in trained}
        if name in trained:
            assert any(bool(p.grad.any()) for p in network.parameters())
    assert step.objective.gamma.grad is None


def test_pseudo_passes_have_no_graph_and_are_in_training_mode() -> None:
    step, groups = unet_step()
    assert not torch.equal(
        step.networks["network"].encoder.center[0].weight,
        step.networks["auxiliary"].encoder.center[0].weight,
    )
    seen: dict[str, list[bool]] = {"network": [], "auxiliary": []}
    for name, network in step.networks.items():
        network.register_forward_hook(
            lambda *call, name=name: seen[name].append(call[2].requires_grad)
        )
    step(groups)
    assert {name: sorted(graphs) for name, graphs in seen.items()} == {
        "network": [False, True, True], "auxiliary": [False, True, True],
    }  # fmt: skip
    assert all(network.training for network in step.networks.values())
    counts = {
        buffer.item()
        for name, buffer in step.networks.named_buffers()
        if name.endswith("num_batches_tracked")
    }
    assert counts == {3}


@pytest.mark.parametrize("regularization", ["ce", "kl"])
def test_half_precision(regularization: str) -> None:
    step, groups = unet_step(regularization=regularization)
    with torch.autocast("cpu", torch.bfloat16):
        terms = step(groups)
    assert {term.dtype for term in terms.values()} == {torch.float32}
    sum(terms.values()).backward()
    gradients = [p.grad for p in step.networks.parameters()]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)
    assert any(bool(g.any()) for g in gradients)


@pytest.mark.parametrize(
    ("supervision", "options", "message"),
    [
        (KINDS, {"lambda_reg": -1}, "lambda_reg must not be negative, got -1"),
        (
            ["full", "none"], {},
            "items must be full, partial or noisy, got none",
        ),
        (
            ["noisy", "noisy"], {},
            "indicators are guided by full masks, and there is none: raise num_full, or set "
            "indicators to false",
        ),
        (KINDS, {"mixing": "paste"}, "mixing must be one of foreground, cutmix, got 'paste'"),
        (KINDS, {"regularization": "mse"}, "regularization must be one of ce, kl, got 'mse'"),
        (KINDS, {"indicator_lr": 0}, "indicator_lr must be positive, got 0"),
    ],
)  # fmt: skip
def test_options_out_of_range(
    supervision: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        DynamicCoRegularization(supervision, **options)


def test_noisy_masks_alone_need_no_indicators() -> None:
    assert DynamicCoRegularization(["noisy"], indicators=False).gamma.tolist() == [1.0]


def test_a_missing_stream_is_named() -> None:
    networks, batch = make_networks(), make_batch()
    outputs = {"primary": networks["network"](batch["primary"]["image"], branch="main")}
    del batch["auxiliary"]
    with pytest.raises(ValueError, match="set auxiliary of the TutorialDataLoader to true, or"):
        make()(outputs, batch, networks)
