"""Networks that train in turn: gradients, optimizers, schedules, processes, checkpoints."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import PolynomialLR

from mixseg.engines import MixedSupervisionTrainer, NetworkSet, NonFiniteLossError
from mixseg.objectives import NetworkSpec, Objective, SingleBranchObjective, TurnSpec

SIZE, CLASSES = 8, 2


class Judge(SingleBranchObjective):
    """The network should please a judge, who learns to tell its outputs from the masks."""

    branches = {"full": "main"}  # noqa: RUF012
    weights = {"ce": 1.0, "please": 0.5}  # noqa: RUF012

    def __init__(self, spec: TurnSpec, **further: NetworkSpec) -> None:
        super().__init__()
        self._further: dict[str, NetworkSpec | TurnSpec] = {"judge": spec, **further}

    @property
    def networks(self) -> dict[str, NetworkSpec | TurnSpec]:
        return self._further

    def forward(self, outputs: Any, batch: Any, networks: Any) -> dict[str, Tensor]:
        if "full" not in outputs:
            return {}
        logits = outputs["full"]
        return {
            "ce": F.cross_entropy(logits, batch["full"]["label"][:, 0].long()),
            "please": F.softplus(-networks["judge"](logits.softmax(dim=1))).mean(),
        }

    def turn(self, name: str, outputs: Any, batch: Any, networks: Any) -> dict[str, Tensor]:
        masks = F.one_hot(batch["full"]["label"][:, 0].long(), CLASSES).movedim(-1, 1).float()
        return {
            "fake": F.softplus(networks[name](outputs["full"].softmax(dim=1))).mean(),
            "real": F.softplus(-networks[name](masks)).mean(),
        }


class Peeping(Judge):
    """Whose judge runs the network itself in its turn, with a gradient."""

    def turn(self, name: str, outputs: Any, batch: Any, networks: Any) -> dict[str, Tensor]:
        again = networks["network"](batch["full"]["image"], branch="main")
        return {"again": networks[name](again.softmax(dim=1)).mean()}


class Branch(nn.Module):
    """One convolution as the branch ``main``."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, CLASSES, 3, padding=1)

    def forward(self, image: Tensor, branch: str = "main") -> Tensor:
        return self.layer(image)


def judge() -> nn.Module:
    return nn.Sequential(nn.Conv2d(CLASSES, 4, 3), nn.LeakyReLU(0.2), nn.Conv2d(4, 1, 3))


def spec(**options: Any) -> TurnSpec:
    torch.manual_seed(1)
    return TurnSpec(judge(), partial(Adam, lr=0.02, betas=(0.9, 0.99)), **options)


POLYNOMIAL = partial(PolynomialLR, total_iters=8, power=0.9)


def batches(count: int, size: int = 2) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(7)
    made = []
    for _ in range(count):
        image = torch.rand(size, 1, SIZE, SIZE, generator=generator)
        made.append(
            {
                "image": image,
                "label": (image > 0.6).to(torch.uint8),
                "supervision": size * ["full"],
                "case_id": [f"c{i}" for i in range(size)],
            }
        )
    return made


def trainer(
    objective: Objective | None = None,
    *,
    loader: list[dict[str, Any]] | None = None,
    epochs: int = 2,
    **options: Any,
) -> MixedSupervisionTrainer:
    """A trainer of a network and its judge; equal arguments make equal trainers."""
    torch.manual_seed(0)
    objective = objective or Judge(spec(lr_scheduler=POLYNOMIAL))
    networks = NetworkSet(Branch(), objective)
    optimizer = SGD(networks.trained_parameters(), lr=0.1, momentum=0.9)
    return MixedSupervisionTrainer(
        "cpu", epochs, loader or batches(4), networks, optimizer, objective, **options
    )


def weights(networks: NetworkSet) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in networks.named_parameters()}


@pytest.mark.parametrize("clip", [0.0, 0.01])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_equals_a_plain_loop_of_two_optimizers(clip: float, accumulate: int) -> None:
    made = trainer(clip_grad_norm=clip, accumulation_steps=accumulate)
    network, other = (copy.deepcopy(made.networks[name]) for name in ("network", "judge"))
    other.requires_grad_(True)
    one, two = SGD(network.parameters(), 0.1, 0.9), Adam(other.parameters(), 0.02, (0.9, 0.99))
    schedule = POLYNOMIAL(two)
    made.run()

    for count, batch in enumerate(batches(4) + batches(4), start=1):
        image, label = batch["image"], batch["label"][:, 0].long()
        p = network(image).softmax(dim=1)
        loss = F.nll_loss(p.log(), label) - 0.5 * other(p).sigmoid().log().mean()
        gradients = torch.autograd.grad(loss / accumulate, list(network.parameters()))
        y = torch.stack([label == 0, label == 1], dim=1).float()
        against = -(1 - other(p.detach()).sigmoid()).log().mean() - other(y).sigmoid().log().mean()
        own = torch.autograd.grad(against / accumulate, list(other.parameters()))
        for parameters, found in ((network.parameters(), gradients), (other.parameters(), own)):
            for parameter, gradient in zip(parameters, found, strict=True):
                before = 0 if parameter.grad is None else parameter.grad
                parameter.grad = before + gradient
        if count % accumulate == 0:
            for model, optimizer in ((network, one), (other, two)):
                if clip:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
        schedule.step()
    for name, wanted in (("network", network), ("judge", other)):
        for key, value in wanted.state_dict().items():
            torch.testing.assert_close(made.networks[name].state_dict()[key], value)
    (turn,) = made.turns
    assert turn.optimizer.param_groups[0]["lr"] == pytest.approx(0.0)


def test_no_step_gives_the_other_s_weights_a_gradient() -> None:
    """Also where the turn runs the network itself."""
    made = trainer(Peeping(spec()), loader=batches(1), epochs=1)
    alone = trainer(Judge(spec()), loader=batches(1), epochs=1)
    for one in (made, alone):
        one.run()
    # The network's gradient is the same whatever the judge learns from.
    for name, p in made.networks["network"].named_parameters():
        assert torch.equal(p.grad, dict(alone.networks["network"].named_parameters())[name].grad)
        assert p.requires_grad
    assert not any(p.requires_grad for p in made.networks["judge"].parameters())

    # Nor does the network's step reach the judge's.
    networks = NetworkSet(Branch(), Judge(spec()))
    batch = {"full": {k: v for k, v in batches(1)[0].items() if k in ("image", "label")}}
    outputs = {"full": networks["network"](batch["full"]["image"])}
    sum(Judge(spec())(outputs, batch, networks).values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for p in networks["network"].parameters())
    assert all(p.grad is None for p in networks["judge"].parameters())


def test_terms_of_both_are_in_the_output_and_the_loss_is_the_network_s() -> None:
    made = trainer(loader=batches(1), epochs=1)
    made.run()
    (values,) = made.state.output
    assert list(values) == ["loss", "ce", "please", "fake", "real"]
    assert values["loss"] == pytest.approx(float(values["ce"] + 0.5 * values["please"]))


def test_scaled_gradients_train_as_plain_ones() -> None:
    """Loss scaling, as float16 on CUDA has it, with one scaler for both optimizers."""
    made, plain = trainer(clip_grad_norm=0.1), trainer(clip_grad_norm=0.1)
    made.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for one in (made, plain):
        one.run()
    wanted = weights(plain.networks)
    for name, value in weights(made.networks).items():
        torch.testing.assert_close(value, wanted[name])


def test_a_turn_without_terms_is_left_out_with_scaled_gradients_too() -> None:
    class Idle(Judge):
        def turn(self, name: str, outputs: Any, batch: Any, networks: Any) -> dict[str, Tensor]:
            return {}

    made = trainer(Idle(spec()))
    made.scaler = torch.amp.GradScaler("cpu")
    before = weights(made.networks)
    made.run()
    after = weights(made.networks)
    assert {n for n in before if not torch.equal(before[n], after[n])} == {
        "network.layer.weight",
        "network.layer.bias",
    }


def test_averages_follow_after_the_turn() -> None:
    average = NetworkSpec(average_of="judge", decay=0.5)
    made = trainer(Judge(spec(), mean=average), loader=batches(1), epochs=1)
    made.run()
    found = made.networks
    for one, other in zip(found["mean"].parameters(), found["judge"].parameters(), strict=True):
        assert torch.equal(one, other)  # the first update copies


def test_optimizers_that_hold_both_are_refused() -> None:
    networks = NetworkSet(Branch(), objective := Judge(spec()))
    with pytest.raises(ValueError, match=r"^the optimizer holds parameters of judge, which has an"):
        MixedSupervisionTrainer(
            "cpu", 1, batches(1), networks, SGD(networks.parameters(), lr=0.1), objective
        )


def test_schedules_that_a_checkpoint_lacks_are_named() -> None:
    state = trainer(Judge(spec())).full_state()
    made = trainer(Judge(spec(lr_scheduler=POLYNOMIAL)))
    made.state.epoch_length = state["epoch_length"]
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        made.load_full_state(state)
    assert str(caught.value) == (
        "the checkpoint was written without a schedule of judge, this run is set up with it"
    )


def test_terms_of_a_turn_that_are_not_finite_stop_the_training() -> None:
    class Broken(Judge):
        def turn(self, name: str, outputs: Any, batch: Any, networks: Any) -> dict[str, Tensor]:
            return {"fake": networks[name](outputs["full"]).mean() * math.nan}

    with pytest.raises(NonFiniteLossError, match=r"^loss term fake is not finite at iteration 1 "):
        trainer(Broken(spec())).run()


def test_an_objective_without_turn_says_so() -> None:
    class Forgetful(Judge):
        turn = Objective.turn

    with pytest.raises(NotImplementedError, match=r"^Forgetful has no network 'judge' to train$"):
        trainer(Forgetful(spec())).run()


@contextmanager
def group(rank: int, folder: str) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        yield
    finally:
        dist.destroy_process_group()


def half(rank: int, folder: str) -> None:
    mine = slice(2 * rank, 2 * rank + 2)
    loader = [{k: v[mine] for k, v in batch.items()} for batch in batches(4, size=4)]
    with group(rank, folder):
        made = trainer(loader=loader, clip_grad_norm=0.05, ema_decay=0.9)
        made.run()
        torch.save(made.networks.state_dict(), f"{folder}/{rank}.pt")


@pytest.mark.slow
@pytest.mark.usefixtures("spawnable")
def test_two_processes_train_both_networks_as_one_does(tmp_path: Path) -> None:
    mp.spawn(half, (str(tmp_path),), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    made = trainer(loader=batches(4, size=4), clip_grad_norm=0.05, ema_decay=0.9)
    made.run()
    wanted = {k: v for k, v in made.networks.state_dict().items() if isinstance(v, Tensor)}
    assert {name.partition(".")[0] for name in wanted} == {"network", "judge", "average"}
    for name, part in itertools.product(wanted, parts):
        torch.testing.assert_close(part[name], wanted[name])
