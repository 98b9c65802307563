"""Steps of learned instance weights: agreement of gradients, resume, and a real training."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ignite.engine import Events
from monai.transforms import RandFlipd
from torch import Tensor, nn

from mixseg.data import SliceDataset
from mixseg.losses import partial_cross_entropy
from mixseg.networks import DualBranchUNet, DualBranchVNet
from mixseg.objectives import DynamicCoRegularization
from mixseg.objectives.dcr import InstanceIndicators
from mixseg.objectives.dcr import report as indicator_report

from .indicator_toys import CLASSES, make_dataset, make_pictures, make_trainer, read


def by_autograd(
    network: nn.Module, dataset: SliceDataset, items: Sequence[int], balanced: bool = False
) -> list[Tensor]:
    """Gradient of the head a item, each by a forward and a backward pass of its own."""
    found = []
    for i in items:
        item = dataset[int(i)]
        logits = network(item["image"][None], branch="main")
        label = item["label"][None]
        loss = partial_cross_entropy(logits, label)
        if balanced and (shown := [c for c in range(CLASSES) if (label == c).any()]):
            alone = [torch.where(label == c, label, CLASSES) for c in shown]
            loss = torch.stack([partial_cross_entropy(logits, one) for one in alone]).mean()
        found.append(
            torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(loss, list(network.main.head.parameters()))
                ]
            )
        )
    return found


@pytest.mark.parametrize(
    ("batch_size", "balanced"), [(1, False), (4, False), (16, False), (4, True)]
)
def test_agreement_equals_autograd(tmp_path: Path, batch_size: int, balanced: bool) -> None:
    """Partly unlabeled masks and one that is all unlabeled; two of three full masks guide."""
    cases = make_pictures(3, 5)
    cases[0]["label"][:, :4] = CLASSES
    cases[4]["label"][:, 5:] = CLASSES
    cases[6]["label"][:] = CLASSES
    dataset = make_dataset(cases)
    options = {"batch_size": batch_size, "class_balanced": balanced, "seed": 5}
    handler = make_trainer(tmp_path, dataset, handler=options).handler
    torch.manual_seed(1)
    network = DualBranchUNet(out_channels=CLASSES, features=(4, 8), branches=1, dropout=0.3)
    network(torch.randn(4, 1, 16, 16))  # batch statistics that differ from the start
    found = handler.agreement(network, 12)
    network.eval()
    guides = np.random.default_rng((5, 12)).choice([0, 1, 2], 2, replace=False)
    guide = torch.stack(by_autograd(network, dataset, guides, balanced)).mean(dim=0)
    learned = by_autograd(network, dataset, range(3, 8), balanced)
    expected = torch.stack([g @ guide for g in learned])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert found[3] == 0
    assert expected.abs().max() > 1e-3


def test_network_and_random_states_are_left_as_they_were(tmp_path: Path) -> None:
    flip = RandFlipd(["image", "label", "reference"], prob=1.0, spatial_axis=0)
    plain = make_dataset(make_pictures(3, 5))
    dataset = make_dataset(make_pictures(3, 5), slice_transform=flip)
    handler = make_trainer(tmp_path, dataset).handler
    other = make_trainer(tmp_path, plain).handler
    network = DualBranchUNet(out_channels=CLASSES, features=(4, 8), branches=1).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(3)
    found = handler.agreement(network, 1)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), drawn)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    # Pictures are not flipped here, and the training set is left with its transform.
    assert torch.equal(found, other.agreement(network, 1))
    assert dataset.slice_transform is flip
    # Another iteration is guided by other masks, the same one by the same.
    assert torch.equal(found, handler.agreement(network, 1))
    assert any(not torch.equal(found, handler.agreement(network, i)) for i in range(2, 6))


def test_mode_is_restored_after_an_error(tmp_path: Path) -> None:
    handler = make_trainer(tmp_path, make_dataset(make_pictures(2, 2))).handler
    network = DualBranchUNet(in_channels=2, features=(4, 8), branches=1).train()
    with pytest.raises(ValueError, match="expected an image of shape"):
        handler.agreement(network, 1)
    assert network.training


def test_steps_are_made_at_the_interval(tmp_path: Path) -> None:
    setup = make_trainer(tmp_path, make_dataset(make_pictures(2, 4)), max_epochs=2, epoch_length=4)
    seen: dict[int, Tensor] = {}
    setup.trainer.add_event_handler(
        Events.ITERATION_STARTED,
        lambda engine: seen.update({engine.state.iteration: setup.objective.gamma.clone()}),
    )
    setup.trainer.run()
    changed = [i for i in range(2, 9) if not torch.equal(seen[i], seen[i - 1])]
    assert changed == [4, 7]  # after iterations 3 and 6
    moved = (seen[4] - seen[3])[2:]
    torch.testing.assert_close(moved.abs(), torch.full((4,), 0.1), rtol=1e-3, atol=0)
    assert seen[8][:2].tolist() == [1.0, 1.0]


def test_resume_equals_uninterrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps at 3, 6, 9 and 12 of 12 iterations; the state is of 8, between two."""
    monkeypatch.setattr(indicator_report, "plot_indicators", lambda *_, **__: None)

    def build(name: str, seed: int = 0) -> SimpleNamespace:
        dataset = make_dataset(make_pictures(3, 6, missing=(1,)))
        return make_trainer(tmp_path / name, dataset, max_epochs=3, seed=seed)

    def state_after(setup: SimpleNamespace, epoch: int | None) -> dict[str, Any]:
        kept: dict[str, Any] = {}

        def keep(engine: Any) -> None:
            buffer = io.BytesIO()
            torch.save(engine.full_state(), buffer)
            buffer.seek(0)
            kept.update(torch.load(buffer, weights_only=True))
            if epoch:
                engine.terminate()

        setup.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=epoch or 3), keep)
        setup.trainer.run()
        return kept

    torch.manual_seed(21)
    whole = state_after(build("whole"), None)
    torch.manual_seed(21)
    half = state_after(build("cut"), 2)
    second = build("cut", seed=9)
    second.trainer.load_full_state(half)
    last = state_after(second, None)
    for part in ("networks", "objective"):
        assert whole[part].keys() == last[part].keys()
        for name, value in whole[part].items():
            if isinstance(value, Tensor):
                assert torch.equal(value, last[part][name]), name
    moments = "instances._extra_state"
    for name, value in whole["objective"][moments]["moments"][0].items():
        assert torch.equal(value, last["objective"][moments]["moments"][0][name])
    assert whole["handlers"] == last["handlers"]
    names = ("indicators.csv", "indicators_history.csv")
    assert [(tmp_path / "whole" / n).read_bytes() for n in names] == [
        (tmp_path / "cut" / n).read_bytes() for n in names
    ]
    assert len(read(tmp_path / "cut" / "indicators_history.csv")) == 4


def test_fewer_iterations_than_the_interval_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    setup = make_trainer(tmp_path, make_dataset(make_pictures(2, 2)), handler={"interval": 400})
    setup.trainer.run()
    assert "the run has fewer than 400 iterations" in caplog.text
    assert not list(tmp_path.glob("indicators*"))


def test_nothing_happens_without_learned_weights(tmp_path: Path) -> None:
    dataset = make_dataset(make_pictures(2, 2))
    setup = make_trainer(tmp_path, dataset, indicators=False)
    setup.trainer.run()
    assert setup.objective.gamma.tolist() == [1.0] * 4
    assert not list(tmp_path.glob("indicators*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": 0}, "interval must be at least 1, got 0"),
        ({"batch_strong": 0}, "batch_strong must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"picture_seconds": -1}, "picture_seconds must not be negative, got -1"),
        (
            {"feature_layer": "main.blocks.0"},
            "feature_layer 'main.blocks.0' is no 1×1 convolution with a bias in DualBranchUNet; "
            "its heads are main.head",
        ),
        (
            {"feature_layer": "head"},
            "feature_layer 'head' is no 1×1 convolution with a bias in DualBranchUNet; its heads "
            "are main.head",
        ),
    ],
)
def test_refusals(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        make_trainer(tmp_path, make_dataset(make_pictures(1, 1)), handler=options)
    assert str(caught.value) == message


def test_weights_of_another_data_set_are_refused(tmp_path: Path) -> None:
    objective = DynamicCoRegularization(["full", "noisy", "noisy"])
    with pytest.raises(ValueError, match=r"^the objective weighs 3 items, the dataset has 2$"):
        InstanceIndicators(objective, make_dataset(make_pictures(1, 1)), tmp_path)


def test_a_network_that_does_more_than_resize_is_refused(tmp_path: Path) -> None:
    class Scaled(DualBranchVNet):
        def _decode(self, *arguments: Any) -> Tensor:
            return 2 * super()._decode(*arguments)

    handler = make_trainer(tmp_path, make_dataset(make_pictures(1, 1))).handler
    network = Scaled(spatial_dims=2, out_channels=CLASSES, features=(4, 8), branches=1)
    with pytest.raises(ValueError, match=r"the logits of Scaled are not the output of main\.head"):
        handler.agreement(network, 1)


def test_corrupted_masks_come_to_weigh_less(tmp_path: Path) -> None:
    """A real training of both networks; 16 of 40 masks lack their foreground."""
    missing = range(0, 40, 5), range(1, 40, 5)
    dataset = make_dataset(make_pictures(6, 40, missing=[*missing[0], *missing[1]]))
    setup = make_trainer(
        tmp_path,
        dataset,
        max_epochs=4,
        epoch_length=20,
        batch_size=6,
        lr=0.02,
        handler={"interval": 20, "batch_strong": 6, "batch_size": 40},
    )
    setup.trainer.run()
    history = read(tmp_path / "indicators_history.csv")
    assert [int(row["iteration"]) for row in history] == [20, 40, 60, 80]
    rows = [row for row in read(tmp_path / "indicators.csv") if row["supervision"] == "noisy"]
    wrong = [float(row["gamma"]) for row in rows if row["corrupted"] == "true"]
    right = [float(row["gamma"]) for row in rows if row["corrupted"] == "false"]
    assert (len(wrong), len(right)) == (16, 24)
    assert float(history[-1]["auc"]) > 0.95
    assert np.mean(right) - np.mean(wrong) > 0.4


def one_of_two(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    handler = make_trainer(Path(folder), make_dataset(make_pictures(2, 5))).handler
    torch.manual_seed(1)
    network = DualBranchUNet(out_channels=CLASSES, features=(4, 8), branches=1)
    torch.manual_seed(rank)
    network(torch.randn(4, 1, 16, 16))  # batch statistics of its own
    torch.save(handler.agreement(network, 3), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.usefixtures("spawnable")
def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    mp.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.equal(*found)
    handler = make_trainer(tmp_path, make_dataset(make_pictures(2, 5))).handler
    torch.manual_seed(1)
    network = DualBranchUNet(out_channels=CLASSES, features=(4, 8), branches=1)
    torch.manual_seed(0)
    network(torch.randn(4, 1, 16, 16))
    torch.testing.assert_close(found[0], handler.agreement(network, 3), rtol=1e-4, atol=1e-6)
