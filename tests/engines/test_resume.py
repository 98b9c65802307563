"""A resumed run ends with the weights of an uninterrupted one, to the bit."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.transforms import Compose, RandFlipd, RandGaussianNoised
from torch import Tensor

from mixseg.handlers import FullCheckpoint, WeightRamps
from mixseg.objectives import ConfKD

Factory = Callable[..., Any]


def everything() -> dict[str, Any]:
    """Options with every kind of state: dropout, average, schedule, clipping, random transforms."""
    return {
        "max_epochs": 4,
        "epoch_length": 3,
        "scheduler": True,
        "ema_decay": 0.9,
        "clip_grad_norm": 1.0,
        "accumulation_steps": 2,
        "slice_transform": Compose(
            [
                RandFlipd(["image", "label", "weak_label"], prob=0.5, spatial_axis=0),
                RandGaussianNoised("image", prob=1.0, std=0.1),
            ]
        ),
    }


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def final(setup: Any) -> dict[str, Tensor]:
    weights = {**setup.trainer.networks.state_dict(), **setup.objective.state_dict()}
    return {name: v.clone() for name, v in weights.items() if isinstance(v, Tensor)}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def stop_after(setup: Any, epoch: int) -> dict[str, Any]:
    """Train and return the state as it stands when an epoch is done."""
    kept: dict[str, Any] = {}
    setup.trainer.add_event_handler(
        Events.EPOCH_COMPLETED(once=epoch),
        lambda engine: (kept.update(through_a_file(engine.full_state())), engine.terminate()),
    )
    setup.trainer.run()
    return kept


@pytest.mark.parametrize("epoch", [1, 3])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_equals_uninterrupted(make_setup: Factory, epoch: int, num_workers: int) -> None:
    options = everything() | {"num_workers": num_workers}
    whole = make_setup(**options)
    torch.manual_seed(21)
    whole.trainer.run()

    first = make_setup(**options)
    torch.manual_seed(21)
    state = stop_after(first, epoch)
    assert state["epoch"] == epoch
    assert state["iteration"] == 3 * epoch

    second = make_setup(seed=1, **options)  # starts elsewhere; all must come from the state
    second.loader.seed = second.loader.batch_sampler.seed = second.loader.dataset.seed = 0
    torch.manual_seed(99)
    second.trainer.load_full_state(state)
    iterations: list[int] = []
    second.trainer.add_event_handler(
        Events.ITERATION_STARTED, lambda engine: iterations.append(engine.state.iteration)
    )
    second.trainer.run()
    assert iterations == list(range(3 * epoch + 1, 13))
    assert_equal(final(second), final(whole))
    assert second.optimizer.param_groups[0]["lr"] == whole.optimizer.param_groups[0]["lr"]


def test_resume_with_ramps_from_checkpoint_files(make_setup: Factory, tmp_path: Path) -> None:
    """The files of a run that was cut off in the middle of an epoch, with a ramped weight."""

    def build(folder: Path, resume: bool) -> Any:
        objective = ConfKD(0.1, 50.0, 1.0)
        return make_setup(
            objective=objective,
            handlers=[
                WeightRamps(objective, {"lambda_ent": 10}),
                FullCheckpoint(folder, folder / "models", resume=resume),
            ],
            **everything(),
        )

    whole = build(tmp_path / "whole", False)
    torch.manual_seed(21)
    whole.trainer.run()

    cut = build(tmp_path / "cut", False)

    def fail(engine: Any) -> None:
        if engine.state.iteration == 8:  # in epoch 3 of 3 iterations each
            raise KeyboardInterrupt

    cut.trainer.add_event_handler(Events.ITERATION_COMPLETED, fail)
    torch.manual_seed(21)
    with pytest.raises(KeyboardInterrupt):
        cut.trainer.run()
    resumed = build(tmp_path / "cut", True)
    torch.manual_seed(5)
    resumed.trainer.run()
    assert_equal(final(resumed), final(whole))
    last = [torch.load(tmp_path / f / "model_last.pt", weights_only=True) for f in ("whole", "cut")]
    assert_equal(*last)


def test_state_holds_the_global_generators(make_setup: Factory) -> None:
    trainer = make_setup().trainer
    torch.manual_seed(1)
    random.seed(2)
    np.random.seed(3)  # noqa: NPY002
    np.random.normal()  # noqa: NPY002 (leaves a cached second normal value behind)
    random.gauss(0, 1)
    state = through_a_file(trainer.full_state())

    def draw() -> list[float]:
        return [
            torch.rand(1).item(),
            random.random(),
            random.gauss(0, 1),
            np.random.normal(),  # noqa: NPY002
            np.random.rand(),  # noqa: NPY002
        ]

    expected = draw()
    draw()
    trainer.load_full_state(state)
    assert draw() == expected


def test_registered_owners_take_part(make_setup: Factory) -> None:
    class Owner:
        def __init__(self) -> None:
            self.value = 0

        def state_dict(self) -> dict[str, Any]:
            return {"value": self.value}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.value = state["value"]

    one, other = make_setup().trainer, make_setup().trainer
    owners = Owner(), Owner()
    one.register_state("mine", owners[0])
    other.register_state("mine", owners[1])
    owners[0].value = 7
    other.load_full_state(through_a_file(one.full_state()))
    assert owners[1].value == 7


@pytest.mark.parametrize(
    ("written", "loaded", "message"),
    [
        (
            {},
            {"epoch_length": 4},
            "the checkpoint's epochs have 3 iterations, this run's 4: "
            "resume with the same data, batch and epoch_length",
        ),
        (
            {"ema_decay": 0.9},
            {},
            "the checkpoint holds the networks average, network, this run has network: resume "
            "with the same method, ema_decay and version of mixseg",
        ),
        (
            {},
            {"ema_decay": 0.9},
            "the checkpoint holds the networks network, this run has average, network: resume "
            "with the same method, ema_decay and version of mixseg",
        ),
        (
            {"scheduler": True},
            {},
            "the checkpoint was written with lr_scheduler, this run is set up without it",
        ),
    ],
)
def test_state_of_other_settings_is_refused(
    make_setup: Factory, written: dict[str, Any], loaded: dict[str, Any], message: str
) -> None:
    state = make_setup(**written).trainer.full_state()
    target = make_setup(**loaded)
    before = final(target)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        target.trainer.load_full_state(state)
    assert str(caught.value) == message
    assert_equal(final(target), before)


def test_state_of_a_done_run_returns_at_once(make_setup: Factory) -> None:
    done = make_setup()
    done.trainer.run()
    again = make_setup(seed=4)
    again.trainer.load_full_state(through_a_file(done.trainer.full_state()))
    fired: list[str] = []
    for event in (Events.STARTED, Events.ITERATION_STARTED, Events.COMPLETED):
        again.trainer.add_event_handler(event, lambda: fired.append("event"))
    again.trainer.run()
    assert fired == []
    assert again.trainer.state.iteration == 6
    assert_equal(final(again), final(done))


def test_a_longer_run_continues_a_done_one(make_setup: Factory) -> None:
    whole = make_setup(max_epochs=4)
    torch.manual_seed(0)
    whole.trainer.run()
    short = make_setup(max_epochs=2)
    torch.manual_seed(0)
    short.trainer.run()
    state = through_a_file(short.trainer.full_state())
    longer = make_setup(max_epochs=4)
    longer.trainer.load_full_state(state)
    longer.trainer.run()
    assert_equal(final(longer), final(whole))


def test_epochs_at_the_rate_0_are_told(
    make_setup: Factory, caplog: pytest.LogCaptureFixture
) -> None:
    setup = make_setup(max_epochs=1)
    for group in setup.trainer.optimizer.param_groups:
        group["lr"] = 0.0
    with caplog.at_level("WARNING"):
        setup.trainer.run()
    assert "the learning rate is 0 and its schedule has ended" in caplog.text
