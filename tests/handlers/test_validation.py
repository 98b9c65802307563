"""When the validator runs, and on which network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from monai.data import DataLoader, DistributedSampler, MetaTensor
from monai.inferers import SimpleInferer
from torch import nn

from mixseg.engines import MixedSupervisionEvaluator
from mixseg.handlers import CaseScorer, CaseShare, Validation


@pytest.mark.parametrize(
    ("interval", "max_epochs", "expected"),
    [(1, 3, [1, 2, 3]), (2, 5, [2, 4, 5]), (2, 4, [2, 4]), (10, 3, [3])],
)
def test_interval_and_last_epoch(
    make_trainer: Callable[..., Any],
    fake_evaluator: type,
    interval: int,
    max_epochs: int,
    expected: list[int],
) -> None:
    evaluator = fake_evaluator([0.5] * max_epochs)
    trainer = make_trainer([Validation(evaluator, interval)], max_epochs=max_epochs)
    trainer.run()
    assert evaluator.epochs == expected
    assert evaluator.network is trainer.network


def test_moving_average_is_validated(
    make_trainer: Callable[..., Any], fake_evaluator: type
) -> None:
    evaluator = fake_evaluator([0.5])
    trainer = make_trainer([Validation(evaluator, 3)], ema_decay=0.9)
    trainer.run()
    assert evaluator.network is trainer.networks["average"]


def test_validating_more_often_changes_no_weight(make_trainer: Callable[..., Any]) -> None:
    class Drawing:
        """An evaluator that draws random numbers, as a data loader does whenever it is read."""

        network: Any = None

        def run(self, epoch: int) -> None:
            torch.rand(epoch)

    states, weights = [], []
    for interval in (1, 3):
        torch.manual_seed(5)
        trainer = make_trainer([Validation(Drawing(), interval)], max_epochs=3)
        trainer.run()
        states.append(torch.get_rng_state())
        weights.append(trainer.network.state_dict())
    assert torch.equal(*states)
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_error() -> None:
    with pytest.raises(ValueError, match=r"^val_interval must be at least 1, got 0$"):
        Validation(object(), 0)


@pytest.mark.parametrize(
    ("cases", "world_size", "shares"),
    [(5, 2, [[0, 2, 4], [1, 3]]), (2, 4, [[0], [1], [], []]), (3, 1, [[0, 1, 2]])],
)
def test_shares_hold_each_case_once(cases: int, world_size: int, shares: list[list[int]]) -> None:
    found = [CaseShare(range(cases), rank, world_size) for rank in range(world_size)]
    assert [list(share) for share in found] == shares
    assert [len(share) for share in found] == [len(share) for share in shares]


def test_shares_are_those_of_monai() -> None:
    for rank in range(3):
        options = {"num_replicas": 3, "rank": rank, "shuffle": False, "even_divisible": False}
        expected = list(DistributedSampler(list(range(8)), **options))
        assert list(CaseShare(range(8), rank, 3)) == expected


def test_share_refusals() -> None:
    with pytest.raises(ValueError, match=r"^rank must lie in 0…1, got 2$"):
        CaseShare(range(5), 2, 2)
    with pytest.raises(ValueError, match=r"^no case to share among the processes$"):
        CaseShare([], 0, 2)


class Constant(nn.Module):
    """Both branches predict the class of the foreground for a positive bias."""

    branch_names = ("teacher", "student")

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, image: torch.Tensor, branch: str) -> Any:
        logits = torch.cat([torch.zeros_like(image), self.bias.expand_as(image)], dim=1)
        return (logits, logits) if branch == "both" else logits


def validate_in_process(rank: int, folder: str, world_size: int) -> None:
    meeting = f"file://{folder}/meeting"
    torch.distributed.init_process_group(
        "gloo", init_method=meeting, rank=rank, world_size=world_size
    )
    label = torch.zeros(1, 4, 4, 2, dtype=torch.uint8)
    label[:, :2] = 1  # all foreground: Dice 2·16 / (16 + 32) = 2/3
    item = {
        "image": torch.zeros(1, 4, 4, 2),
        "native": torch.zeros(1, 4, 4, 2),
        "label": MetaTensor(label),
        "case_id": "a",
    }
    loader = DataLoader([item], batch_size=1, sampler=CaseShare([item]))
    scorer = CaseScorer(["background", "LA"], distances=False)
    network = Constant(1.0)
    evaluator = MixedSupervisionEvaluator(
        "cpu", loader, network, inferer=SimpleInferer(), val_handlers=[scorer]
    )
    validation = Validation(evaluator)
    found = []
    for epoch in (1, 2):
        with torch.no_grad():
            network.bias.fill_(1.0 if epoch == 1 else -1.0)
        state = SimpleNamespace(epoch=epoch, max_epochs=2)
        validation(SimpleNamespace(state=state, inference_network=network))
        metrics = evaluator.state.metrics
        found.append([evaluator.state.epoch, metrics["val_dice_student"], len(scorer.panels)])
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.usefixtures("spawnable")
def test_a_process_without_a_case_gets_the_scores_of_the_others(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(validate_in_process, (str(tmp_path), 2), nprocs=2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == [[1, pytest.approx(2 / 3), 1], [2, 0.0, 1]]
    assert second == [[1, pytest.approx(2 / 3), 0], [2, 0.0, 0]]
