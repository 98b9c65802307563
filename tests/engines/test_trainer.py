"""MixedSupervisionTrainer against loops written out by hand, on the CPU and to the bit."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.handlers import StatsHandler, from_engine
from monai.transforms import RandFlipd
from torch import Tensor, nn

from mixseg.engines import MixedSupervisionTrainer
from mixseg.losses import distillation, partial_cross_entropy, shannon_entropy
from mixseg.networks import DualBranchUNet

Factory = Callable[..., Any]


def by_kind(batch: dict[str, Any], kind: str) -> tuple[Tensor, Tensor]:
    chosen = [i for i, other in enumerate(batch["supervision"]) if other == kind]
    image = batch["image"][chosen].contiguous(memory_format=torch.channels_last)
    return image, batch["label"][chosen]


def hand_loss(network: nn.Module, batch: dict[str, Any], separate: bool = True) -> Tensor:
    """L_s + 0.1 L_w + 50 L_kd + L_ent, written out."""
    (full, label), (partial, weak) = by_kind(batch, "full"), by_kind(batch, "partial")
    if separate:
        teacher, student = network(full, branch="both")
        student_partial = network(partial, branch="student")
    else:
        both = network(torch.cat([full, partial]), branch="both")
        teacher, student = (z[: len(full)] for z in both)
        student_partial = both[1][len(full) :]
    terms = [
        1.0 * partial_cross_entropy(teacher, label),
        50.0 * distillation(teacher, student),
        0.1 * partial_cross_entropy(student_partial, weak),
        1.0 * shannon_entropy(student_partial),
    ]
    return torch.stack(terms).sum()


def batches(setup: Any, epochs: int) -> list[list[dict[str, Any]]]:
    """What the loader yields in each epoch."""
    drawn = []
    for epoch in range(1, epochs + 1):
        setup.loader.set_epoch(epoch)
        drawn.append(list(setup.loader))
    return drawn


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert different == []


@pytest.mark.parametrize("separate", [True, False])
def test_training_equals_a_plain_loop(make_setup: Factory, separate: bool) -> None:
    setup = make_setup(scheduler=True, separate_forward=separate)
    torch.manual_seed(11)
    setup.trainer.run()

    hand = make_setup(scheduler=True)
    network = hand.network
    optimizer, losses = hand.optimizer, []
    scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=2, power=0.9)
    epochs = batches(hand, 2)
    torch.manual_seed(11)
    network.train()
    for epoch in epochs:
        for batch in epoch:
            optimizer.zero_grad()
            loss = hand_loss(network, batch, separate)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        scheduler.step()
    assert_equal(weights(setup.network), weights(network))
    assert setup.trainer.state.iteration == 6
    assert setup.trainer.state.output[0]["loss"].item() == losses[-1]


def test_output_holds_the_loss_and_each_unweighted_term(make_setup: Factory) -> None:
    setup = make_setup(max_epochs=1, epoch_length=1)
    before = copy.deepcopy(setup.network)
    torch.manual_seed(3)
    setup.trainer.run()
    (output,) = setup.trainer.state.output

    hand = make_setup(max_epochs=1, epoch_length=1)
    batch = batches(hand, 1)[0][0]
    (full, label), (partial, weak) = by_kind(batch, "full"), by_kind(batch, "partial")
    torch.manual_seed(3)
    before.train()
    teacher, student = before(full, branch="both")
    student_partial = before(partial, branch="student")
    expected = {
        "ce_full": partial_cross_entropy(teacher, label),
        "kd": distillation(teacher, student),
        "ce_weak": partial_cross_entropy(student_partial, weak),
        "entropy": shannon_entropy(student_partial),
    }
    assert set(output) == {"loss", *expected}
    for name, value in expected.items():
        assert output[name].item() == value.item()
        assert not output[name].requires_grad


def test_accumulation_averages_the_gradients_of_its_batches(make_setup: Factory) -> None:
    """Five batches in groups of two: steps after 2, 4 and 5, the last group being one batch."""
    options = {"max_epochs": 1, "epoch_length": 5, "accumulation_steps": 2}
    setup = make_setup(**options)
    torch.manual_seed(1)
    setup.trainer.run()

    hand = make_setup(**options)
    (epoch,) = batches(hand, 1)
    network, optimizer = hand.network, hand.optimizer
    parameters = list(network.parameters())
    torch.manual_seed(1)
    network.train()
    for group in (epoch[:2], epoch[2:4], epoch[4:]):
        gradients = [torch.autograd.grad(hand_loss(network, b), parameters) for b in group]
        for i, parameter in enumerate(parameters):
            parameter.grad = torch.stack([g[i] for g in gradients]).mean(0)
        optimizer.step()
    for name, value in weights(setup.network).items():
        torch.testing.assert_close(value, network.state_dict()[name], rtol=1e-4, atol=1e-6)


def test_accumulation_over_two_equal_batches_is_one_of_them(make_setup: Factory) -> None:
    """Without dropout, the mean of two equal gradients is the gradient, to the bit."""

    def train(epoch_length: int, **options: Any) -> dict[str, Tensor]:
        torch.manual_seed(0)
        network = DualBranchUNet(features=(2, 4), dropout=0.0, norm="instance")
        setup = make_setup(network=network, max_epochs=1, epoch_length=epoch_length, **options)
        setup.loader.set_epoch(1)
        batch = next(iter(setup.loader))
        setup.trainer.data_loader = [batch] * epoch_length
        setup.trainer.run()
        return weights(network)

    assert_equal(train(2, accumulation_steps=2), train(1))


def test_clipping_bounds_the_norm_of_the_gradient(make_setup: Factory) -> None:
    def norm(clip: float) -> tuple[float, dict[str, Tensor]]:
        setup = make_setup(max_epochs=1, epoch_length=1, clip_grad_norm=clip)
        setup.trainer.run()
        gradients = {n: p.grad for n, p in setup.network.named_parameters() if p.grad is not None}
        return math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients.values())), gradients

    free, gradient = norm(0.0)
    assert free > 0.5
    clipped, scaled = norm(0.1)
    assert clipped == pytest.approx(0.1, rel=1e-4)
    for name, value in gradient.items():  # same direction
        torch.testing.assert_close(scaled[name], value * (0.1 / free), rtol=1e-4, atol=1e-7)
    assert norm(2 * free)[0] == free


def test_moving_average_of_weights_and_statistics(make_setup: Factory) -> None:
    decay = 0.7  # reached by the fourth update: 1 - 1/(t + 1) is 1/2, 2/3, 3/4
    setup = make_setup(max_epochs=3, epoch_length=2, ema_decay=decay)
    history: list[dict[str, Tensor]] = []
    setup.trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: history.append(weights(setup.network))
    )
    setup.trainer.run()
    average = setup.trainer.inference_network.state_dict()
    assert setup.trainer.inference_network is not setup.network
    for name, value in average.items():
        if not value.is_floating_point():
            continue
        expected = history[0][name]  # the average starts at the first weights
        for t, step in enumerate(history[1:], 1):
            kept = min(1 - 1 / (t + 1), decay)
            expected = kept * expected + (1 - kept) * step[name]
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)
    assert any("running_mean" in name for name in average)


def test_without_average_the_network_itself_is_for_inference(make_setup: Factory) -> None:
    setup = make_setup()
    assert setup.trainer.inference_network is setup.network


def test_rate_follows_the_schedule_by_epoch(make_setup: Factory) -> None:
    setup = make_setup(max_epochs=4, epoch_length=2, scheduler=True, lr=0.01)
    rates: list[float] = []
    setup.trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda: rates.append(setup.optimizer.param_groups[0]["lr"])
    )
    setup.trainer.run()
    # lr (1 - t/T)^0.9 with t finished epochs
    expected = [0.01 * (1 - t / 4) ** 0.9 for t in (0, 0, 1, 1, 2, 2, 3, 3)]
    assert rates == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_follow_the_sampler_in_every_epoch(make_setup: Factory, num_workers: int) -> None:
    setup = make_setup(max_epochs=3, epoch_length=4, num_workers=num_workers)
    seen: list[list[tuple[str, int]]] = []
    setup.trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: seen.append(
            list(
                zip(
                    engine.state.batch["case_id"],
                    engine.state.batch["slice_index"].tolist(),
                    strict=True,
                )
            )
        ),
    )
    setup.trainer.run()
    dataset, sampler = setup.loader.dataset, setup.loader.batch_sampler
    expected = []
    for epoch in (1, 2, 3):
        sampler.set_epoch(epoch)
        expected += [
            [(dataset.case_ids[i], dataset.slice_indices[i]) for i in batch] for batch in sampler
        ]
    assert seen == expected
    assert len({str(batch) for batch in seen}) == 12


def test_kinds_that_do_not_stand_together_are_gathered(make_setup: Factory) -> None:
    """Shuffling a batch changes nothing but the order within each kind."""

    def loss(order: list[int]) -> float:
        torch.manual_seed(0)
        network = DualBranchUNet(features=(2, 4), dropout=0.0)
        setup = make_setup(network=network, max_epochs=1, epoch_length=1)
        batch = batches(setup, 1)[0][0]
        setup.trainer.data_loader = [
            {
                key: value[order] if isinstance(value, Tensor) else [value[i] for i in order]
                for key, value in batch.items()
            }
        ]
        setup.trainer.run()
        return setup.trainer.state.output[0]["loss"].item()

    assert loss([2, 0, 3, 1, 4]) == pytest.approx(loss([0, 1, 2, 3, 4]), rel=1e-5)


def test_three_dimensional_network_trains(make_setup: Factory) -> None:
    network = DualBranchUNet(spatial_dims=3, features=(2, 3), dropout=0.0)
    setup = make_setup(network=network, max_epochs=1, epoch_length=1)
    generator = torch.Generator().manual_seed(0)
    setup.trainer.data_loader = [
        {
            "image": torch.rand(2, 1, 4, 4, 4, generator=generator),
            "label": torch.randint(0, 2, (2, 1, 4, 4, 4), generator=generator),
            "supervision": ["full", "partial"],
            "case_id": ["a", "b"],
        }
    ]
    before = weights(network)
    setup.trainer.run()
    assert not torch.equal(
        before["student.head.weight"], network.state_dict()["student.head.weight"]
    )


def test_channels_last_changes_the_layout_alone(make_setup: Factory) -> None:
    losses = []
    for channels_last, layout in (
        (True, torch.channels_last),
        (False, torch.contiguous_format),
    ):
        torch.manual_seed(0)
        # Without dropout, whose masks follow the memory's order.
        network = DualBranchUNet(features=(2, 4), dropout=0.0)
        setup = make_setup(
            network=network, channels_last=channels_last, max_epochs=1, epoch_length=1
        )
        setup.trainer.run()
        assert network.encoder.blocks[0][3].weight.is_contiguous(memory_format=layout)
        losses.append(setup.trainer.state.output[0]["loss"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_epochs": 0}, "max_epochs must be at least 1, got 0"),
        (
            {"amp_dtype": "float32"},
            "amp_dtype must be one of ['bfloat16', 'float16'], got 'float32'",
        ),
        (
            {"augmentation": RandFlipd("image")},
            "augmentation is a RandFlipd, which has no state to resume with and may not transform "
            "whole batches: give a BatchAugmentation, null for none, or transforms of one item as "
            "train#dataset#slice_transform (in 3D train#dataset#random_transform)",
        ),
        ({"clip_grad_norm": -1.0}, "clip_grad_norm must not be negative, got -1.0"),
        ({"accumulation_steps": 0}, "accumulation_steps must be at least 1, got 0"),
        ({"ema_decay": 1.0}, "ema_decay must lie in [0, 1), got 1.0"),
    ],
)
def test_errors(make_setup: Factory, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        make_setup(**options)
    assert str(caught.value) == message


def test_amp_is_ignored_on_the_cpu(make_setup: Factory) -> None:
    setup = make_setup(amp=True, amp_dtype="float16")
    assert isinstance(setup.trainer, MixedSupervisionTrainer)
    assert not setup.trainer.amp
    assert not setup.trainer.scaler.is_enabled()


def test_only_a_resumed_training_says_that_it_resumes(
    make_setup: Factory, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_setup(max_epochs=1).trainer
    with caplog.at_level(logging.INFO, logger=trainer.logger.name):
        trainer.run()
    assert "training on cpu" in caplog.text
    assert "resuming" not in caplog.text
    trainer.state.max_epochs = 2
    with caplog.at_level(logging.INFO, logger=trainer.logger.name):
        trainer.run()
    assert "resuming from iteration 3, epoch 1 until 2 epochs" in caplog.text


def test_handlers_of_monai_find_the_loss(
    make_setup: Factory, caplog: pytest.LogCaptureFixture
) -> None:
    """As ``--tracking mlflow`` and MONAI's bundles ask for it, and with StatsHandler's default."""
    found: list[float] = []
    loss = from_engine(["loss"], first=True)
    setup = make_setup(max_epochs=1, epoch_length=2)
    with caplog.at_level(logging.INFO, logger="statistics"):
        for transform in (loss, lambda output: output[0]):
            handler = StatsHandler(name="statistics", tag_name="loss", output_transform=transform)
            handler.attach(setup.trainer)
        # MONAI's loggers pass nothing on.
        handler.logger.addHandler(caplog.handler)
        setup.trainer.add_event_handler(
            Events.ITERATION_COMPLETED,
            lambda engine: found.append(loss(engine.state.output).item()),
        )
        setup.trainer.run()
        handler.logger.removeHandler(caplog.handler)
    lines = [record.getMessage() for record in caplog.records if "Iter" in record.getMessage()]
    # Once as the one scalar, once among all terms.
    assert [value for value in found for _ in range(2)] == pytest.approx(
        [float(line.partition("loss: ")[2].split()[0]) for line in lines], abs=1e-4
    )
    assert [" kd: " in line for line in lines] == [False, True, False, True]
