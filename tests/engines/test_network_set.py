"""The networks of a method: drawn, averaged, stored; and resumed runs of methods that have them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import PolynomialLR

from mixseg.engines import MixedSupervisionTrainer, NetworkSet
from mixseg.engines.network_set import fresh_copy
from mixseg.handlers import WeightRamps
from mixseg.networks import DualBranchUNet, ImageDiscriminator, VoxelDiscriminator
from mixseg.objectives import (
    GLMI,
    S4GAN,
    SSCO,
    UAMT,
    AdversarialSemiSupervised,
    ConfKD,
    NetworkSpec,
    Objective,
)

Factory = Callable[..., Any]


class Asking(ConfKD):
    """An objective that asks for given networks."""

    def __init__(self, **networks: NetworkSpec) -> None:
        super().__init__()
        self._asked = networks

    @property
    def networks(self) -> dict[str, NetworkSpec]:
        return self._asked


def unet(**options: Any) -> DualBranchUNet:
    return DualBranchUNet(features=(2, 4), branches=1, **options)


def parameters(network: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in network.parameters()]


def equal(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_peers_are_drawn_anew_and_by_the_seed() -> None:
    def build() -> NetworkSet:
        torch.manual_seed(3)
        return NetworkSet(unet(), Asking(peer_2=NetworkSpec(), peer_3=NetworkSpec()))

    networks, again = build(), build()
    for name in networks:
        assert equal(parameters(networks[name]), parameters(again[name]))
    weights = [networks[name].encoder.center[0].weight for name in networks]
    for i, one in enumerate(weights):
        for other in weights[:i]:
            assert not (one == other).any()
    # Batch normalization starts at 1 and 0 in every network; He's initialization has no bias.
    for network in networks.values():
        assert network.encoder.center[1].weight.eq(1).all()
        assert network.encoder.center[0].bias.eq(0).all()


def test_peers_have_the_network_s_own_initialization() -> None:
    torch.manual_seed(0)
    network = DualBranchUNet(features=(4, 64), branches=1)
    weight = fresh_copy(network).encoder.center[3].weight  # 3·3·64 inputs
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)


def test_peers_of_trained_networks_start_without_what_those_have_seen() -> None:
    network = unet().train()
    network(torch.randn(2, 1, 8, 8), branch="main")
    fresh = fresh_copy(network)
    assert network.encoder.center[1].num_batches_tracked.item() == 1
    assert fresh.encoder.center[1].num_batches_tracked.item() == 0
    assert fresh.encoder.center[1].running_mean.eq(0).all()


def test_networks_that_cannot_be_drawn_anew_are_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    with pytest.raises(ValueError) as caught:  # noqa: PT011
        NetworkSet(nn.Sequential(nn.ReLU(), Odd()), Asking(peer_2=NetworkSpec()))
    assert str(caught.value) == (
        "Odd (1) has weights and no reset_parameters(): peers cannot be drawn from this network"
    )


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        (
            {"ema": NetworkSpec(average_of="peer_2")},
            "network 'ema' averages 'peer_2', which is not among ['network']",
        ),
        ({"network": NetworkSpec()}, "there is a network named 'network' already"),
    ],
)
def test_refusals(networks: dict[str, NetworkSpec], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        NetworkSet(unet(), Asking(**networks))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": 1.0}, r"^decay must lie in \[0, 1\), got 1.0$"),
        ({"decay": -0.1}, r"^decay must lie in \[0, 1\), got -0.1$"),
        ({"per": "step"}, r"^per must be iteration or epoch, got 'step'$"),
    ],
)
def test_specs_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkSpec(**options)


class Scalar(nn.Module):
    """One weight, and buffers as batch normalization has them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(1, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(1, dtype=torch.long))


@pytest.mark.parametrize("per", ["iteration", "epoch"])
@pytest.mark.parametrize("buffers", [False, True])
def test_averages_follow_the_formula(per: str, buffers: bool) -> None:
    """θ' ← d θ' + (1 - d) θ, d = min(1 - 1/(t + 1), 0.7), t of steps or epochs from 0."""
    spec = NetworkSpec(average_of="network", decay=0.7, per=per, buffers=buffers)
    networks = NetworkSet(Scalar(), Asking(ema=spec))
    network, ema = networks["network"], networks["ema"]
    expected = expected_mean = 0.0
    for step in range(10):
        epoch = step // 2 + 1
        value = float((step + 2) ** 2)
        network.weight.data.fill_(value)
        network.mean.fill_(-value)
        network.count.fill_(step + 1)
        networks.update_averages(epoch)
        t = step if per == "iteration" else step // 2
        d = min(1 - 1 / (t + 1), 0.7)
        expected = d * expected + (1 - d) * value
        expected_mean = d * expected_mean + (1 - d) * -value if buffers else 0.0
        assert ema.weight.item() == pytest.approx(expected, rel=1e-12)
        assert ema.mean.item() == pytest.approx(expected_mean, rel=1e-12)
        assert ema.count.item() == (step + 1 if buffers else 0)
        if t == 0:
            assert ema.weight.item() == value  # copies
    assert not ema.weight.requires_grad


def test_averages_of_peers_follow_their_peers() -> None:
    objective = SSCO(students=3)
    networks = NetworkSet(unet(), objective)
    for student in objective.students:
        networks[student].main.head.bias.data += 1
    networks.update_averages(epoch=1)
    for student, teacher in zip(objective.students, objective.teachers, strict=True):
        assert equal(parameters(networks[student]), parameters(networks[teacher]))


def test_trained_parameters_are_those_of_students_and_heads() -> None:
    networks = NetworkSet(unet(), SSCO(students=3))
    one = len(list(unet().parameters()))
    trained = networks.trained_parameters()
    assert len(trained) == 3 * one
    followed = {id(p) for name in networks if "ema" in name for p in networks[name].parameters()}
    assert not followed & {id(p) for p in trained}
    layers = {"encoder.center": 4, "main.blocks.0": 2}
    objective = GLMI(layers=layers, importance=[1, 1], padding=[1])
    assert len(NetworkSet(unet(), objective).trained_parameters()) == one + 4


def test_state_counts_updates_and_passes_a_file() -> None:
    spec = NetworkSpec(average_of="network", decay=0.9)
    networks = NetworkSet(Scalar(), Asking(ema=spec))
    other = NetworkSet(Scalar(), Asking(ema=spec))
    for value in (1.0, 5.0, 3.0):
        networks["network"].weight.data.fill_(value)
        networks.update_averages(1)
    other.load_state_dict(through_a_file(networks.state_dict()))
    assert other["ema"].weight.item() == pytest.approx(3.0)  # the mean of the three
    for one in (networks, other):
        one["network"].weight.data.fill_(7.0)
        one.update_averages(1)
        assert one["ema"].weight.item() == pytest.approx((1 + 5 + 3 + 7) / 4)


def mixed_cases(size: int = 8) -> list[dict[str, Any]]:
    """One volume with a mask and two without, of four slices each."""
    generator = torch.Generator().manual_seed(5)
    cases: list[dict[str, Any]] = []
    for i, kind in enumerate(("full", "none", "none")):
        image = torch.rand(1, size, size, 4, generator=generator)
        case = {"image": image, "supervision": kind, "case_id": f"{kind}{i}"}
        if kind == "full":
            case["label"] = (image > 0.6).to(torch.uint8)
        cases.append(case)
    return cases


def adversarial() -> AdversarialSemiSupervised:
    return AdversarialSemiSupervised(
        VoxelDiscriminator(features=(2,)),
        partial(Adam, lr=0.01),
        partial(PolynomialLR, total_iters=9, power=0.9),
    )


def s4gan() -> S4GAN:
    return S4GAN(ImageDiscriminator(in_channels=3, features=(2, 4)), partial(Adam, lr=0.01))


METHODS: dict[str, tuple[Callable[[], Objective], dict[str, Any]]] = {
    "uamt": (
        lambda: UAMT(1.0, passes=2),
        {"lambda_con": 8, "certainty": {"length": 12, "shape": "gaussian"}},
    ),
    "glmi": (
        lambda: GLMI(
            layers={"encoder.center": 4, "main.blocks.0": 2},
            clusters=3,
            heads=2,
            importance=[1, 1],
            padding=[1],
        ),
        {},
    ),
    "adversarial": (adversarial, {"lambda_semi": {"begin": 5, "length": 0}}),
    "s4gan": (s4gan, {"lambda_st": {"begin": 2, "length": 0}}),
    "ssco": (
        lambda: SSCO(students=2, unconfident_weight=1),
        {"gamma": {"length": 12, "start": 0.2}, "lambda_co": {"begin": 2, "length": 5}},
    ),
}


@pytest.fixture
def method_setup(make_setup: Factory) -> Factory:
    def make(method: str, **options: Any) -> Any:
        torch.manual_seed(0)
        build, ramps = METHODS[method]
        objective = build()
        return make_setup(
            objective=objective,
            network=unet(dropout=0.3),
            cases=mixed_cases(),
            batch=(2, 0, 3),
            max_epochs=3,
            handlers=[WeightRamps(objective, ramps)],
            **options,
        )

    return make


def final(setup: Any) -> dict[str, Tensor]:
    weights = {**setup.trainer.networks.state_dict(), **setup.objective.state_dict()}
    return {name: v.clone() for name, v in weights.items() if isinstance(v, Tensor)}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_resume_to_the_bit(method_setup: Factory, method: str, ema_decay: float) -> None:
    options = {"scheduler": True, "ema_decay": ema_decay}
    whole = method_setup(method, **options)
    torch.manual_seed(21)
    whole.trainer.run()

    first = method_setup(method, **options)
    before = final(first)
    kept: dict[str, Any] = {}
    first.trainer.add_event_handler(
        Events.EPOCH_COMPLETED(once=1),
        lambda engine: (kept.update(through_a_file(engine.full_state())), engine.terminate()),
    )
    torch.manual_seed(21)
    first.trainer.run()

    second = method_setup(method, **options)
    for p in second.trainer.networks.parameters():
        p.data.normal_()  # all must come from the state
    torch.manual_seed(99)
    second.trainer.load_full_state(kept)
    second.trainer.run()
    found, wanted = final(second), final(whole)
    assert found.keys() == wanted.keys()
    assert [name for name in found if not torch.equal(found[name], wanted[name])] == []
    # Everything that learns or follows has moved.
    floats = [name for name, value in before.items() if value.is_floating_point()]
    still = [name for name in floats if torch.equal(before[name], wanted[name])]
    assert still == []


@pytest.mark.parametrize("method", ["ssco", "glmi"])
def test_optimizers_that_miss_peers_or_heads_are_refused(
    method_setup: Factory, method: str
) -> None:
    setup = method_setup(method)
    networks, objective = NetworkSet(unet(), setup.objective), setup.objective
    # A parameter's gradient would pile up and never be stepped.
    left = len(networks.trained_parameters()) - len(list(networks["network"].parameters()))
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        MixedSupervisionTrainer(
            "cpu",
            1,
            setup.loader,
            networks,
            torch.optim.Adam(networks["network"].parameters()),
            objective,
        )
    assert left > 0
    assert str(caught.value) == (
        f"the optimizer misses {left} parameters of the method's networks or heads: build it over "
        "NetworkSet.trained_parameters()"
    )
