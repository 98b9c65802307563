"""The recipe's state in checkpoints: augmentation, one cycle, average, mixed precision."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import Tensor

from mixseg.engines import MixedSupervisionTrainer, NetworkSet, OneCycleLR, precision
from mixseg.handlers import WeightRamps
from mixseg.networks import DualBranchDynUNet
from mixseg.objectives import MixedSupervision
from mixseg.transforms import BatchAugmentation

Factory = Callable[..., Any]

EPOCHS, LENGTH = 4, 3


def make(
    make_setup: Factory,
    seed: int = 0,
    *,
    epochs: int = EPOCHS,
    steps: int | None = None,
    **options: Any,
) -> Any:
    """A trainer of the flagship with two branches, so that pseudo-labels are drawn, too."""
    torch.manual_seed(seed)
    objective = MixedSupervision(lambda_pseudo=0.3, branches=2)
    network = DualBranchDynUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=2,
        features=(2, 4, 4),
        dropout=0.3,
        norm="instance",
        res_block=False,
    )
    setup = make_setup(
        seed=seed,
        max_epochs=epochs,
        epoch_length=LENGTH,
        objective=objective,
        network=network,
        handlers=[WeightRamps(objective, {"lambda_pseudo": 3})],
    )
    networks = NetworkSet(network, objective)
    optimizer = torch.optim.AdamW(networks.trained_parameters(), lr=1e-2, weight_decay=1e-3)
    trainer = MixedSupervisionTrainer(
        "cpu",
        epochs,
        setup.loader,
        networks,
        optimizer,
        objective,
        lr_scheduler=OneCycleLR(optimizer, steps or epochs * LENGTH, warmup=0.25),
        lr_step="iteration",
        augmentation=BatchAugmentation(2, 2, seed=seed),
        clip_grad_norm=1.0,
        ema_decay=0.9,
        train_handlers=[WeightRamps(objective, {"lambda_pseudo": 3})],
        **{"amp": "auto", **options},
    )
    # Starts elsewhere in everything but the order of the batches, which the epoch decides.
    setup.loader.seed = setup.loader.batch_sampler.seed = setup.loader.dataset.seed = 0
    return trainer


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, weights_only=True)
    return loaded


def state_after(trainer: Any, epoch: int) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED(once=epoch),
        lambda engine: (kept.update(through_a_file(engine.full_state())), engine.terminate()),
    )
    trainer.run()
    return kept


def weights(trainer: Any) -> dict[str, Tensor]:
    state = trainer.networks.state_dict()
    return {name: value.clone() for name, value in state.items() if isinstance(value, Tensor)}


def pretend(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(precision, "_has_native_bfloat16", lambda: native)


@pytest.mark.parametrize("native", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("epoch", [1, 3])
def test_resume_equals_uninterrupted(
    make_setup: Factory, monkeypatch: pytest.MonkeyPatch, native: bool, epoch: int
) -> None:
    pretend(monkeypatch, native)
    whole = make(make_setup)
    assert whole.precision == ("bfloat16" if native else "float32")
    rates: list[float] = []
    whole.add_event_handler(
        Events.ITERATION_STARTED,
        lambda engine: rates.append(engine.optimizer.param_groups[0]["lr"]),
    )
    torch.manual_seed(21)
    whole.run()
    assert len(set(rates)) > LENGTH  # another rate at each iteration

    first = make(make_setup)
    torch.manual_seed(21)
    state = state_after(first, epoch)
    resumed = make(make_setup, seed=1)
    torch.manual_seed(99)
    resumed.load_full_state(state)
    resumed.run()
    expected, found = weights(whole), weights(resumed)
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []
    # Not because nothing is drawn: another state of the augmentation gives other weights.
    state["handlers"]["augmentation"] = BatchAugmentation(2, 2, seed=7).state_dict()
    other = make(make_setup)
    other.load_full_state(state)
    other.run()
    changed = [
        name for name, value in weights(other).items() if not torch.equal(value, found[name])
    ]
    assert changed


def test_a_longer_run_resumes_on_its_own_cycle(make_setup: Factory) -> None:
    state = state_after(make(make_setup, epochs=2), 2)
    longer = make(make_setup, epochs=4)
    longer.load_full_state(state)
    rates: list[float] = []
    longer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: rates.append(engine.optimizer.param_groups[0]["lr"]),
    )
    longer.run()
    schedule = make(make_setup, epochs=4).lr_scheduler
    factor = schedule.lr_lambdas[0]
    assert rates == pytest.approx([1e-2 * factor(step) for step in range(7, 13)])


@pytest.mark.parametrize("before", [True, False])
def test_another_machines_precision_is_warned_of_and_recorded(
    make_setup: Factory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    before: bool,
) -> None:
    names = ["bfloat16", "float32"] if before else ["float32", "bfloat16"]
    pretend(monkeypatch, before)
    state = state_after(make(make_setup), 1)
    assert state["precision"] == names[0]
    pretend(monkeypatch, not before)
    resumed = make(make_setup)
    with caplog.at_level(logging.WARNING):
        resumed.load_full_state(state)
    assert f"was trained in {names[0]} before; this machine trains in {names[1]}" in caplog.text
    assert resumed.full_state()["precision"] == ", ".join(names)
    # Where it is resumed there again, there is nothing to warn of.
    caplog.clear()
    again = make(make_setup)
    again.load_full_state(through_a_file(resumed.full_state()))
    assert not caplog.records
    assert again.precisions == names


def test_another_amp_is_refused(make_setup: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, True)
    state = make(make_setup).full_state()
    with pytest.raises(
        ValueError,
        match="was written with amp auto, this run has False: resume with --amp auto",
    ):
        make(make_setup, amp=False).load_full_state(state)


def test_the_forward_pass_is_in_bfloat16_and_what_is_kept_in_float32(
    make_setup: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, True)
    trainer = make(make_setup)
    seen: list[torch.dtype] = []
    trainer.network.register_forward_hook(lambda module, inputs, out: seen.append(out[0].dtype))
    trainer.run()
    assert set(seen) == {torch.bfloat16}
    assert {value.dtype for value in trainer.state.output[0].values()} == {torch.float32}
    assert {p.dtype for p in trainer.networks.parameters()} == {torch.float32}
    moments = [v for s in trainer.optimizer.state.values() for v in s.values() if v.ndim]
    assert {value.dtype for value in moments} == {torch.float32}


def test_a_batch_of_which_nothing_is_learned_is_refused(make_setup: Factory) -> None:
    objective = MixedSupervision(lambda_noisy=0.0)
    network = DualBranchDynUNet(
        spatial_dims=2, in_channels=1, out_channels=2, features=(2, 4, 4), branches=1
    )
    trainer = make_setup(objective=objective, network=network).trainer
    batch = {"image": torch.zeros(2, 1, 8, 8), "supervision": ["none"] * 2, "case_id": ["a", "b"]}
    trainer.state.iteration = 1
    with pytest.raises(ValueError, match="MixedSupervision learns nothing from a batch of none:"):
        trainer._iteration(trainer, batch)


def test_when_the_rate_is_stepped_is_one_of_two(make_setup: Factory) -> None:
    with pytest.raises(ValueError, match="lr_step must be 'epoch' or 'iteration', got 'step'"):
        make_setup(lr_step="step")
