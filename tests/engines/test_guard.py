"""The guard against losses that are not finite: it names term and case, before the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import Tensor, nn

from mixseg.engines import NonFiniteLossError
from mixseg.objectives import ConfKD

Factory = Callable[..., Any]


def batches(setup: Any) -> list[dict[str, Any]]:
    """What the loader yields in the first epoch."""
    setup.loader.set_epoch(1)
    return list(setup.loader)


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def spoil(setup: Any, iteration: int, case: int, value: float) -> list[dict[str, Any]]:
    """Batches of the first epoch with one voxel of one image changed."""
    epoch = batches(setup)
    epoch[iteration - 1]["image"][case, 0, 1, 2] = value
    setup.trainer.data_loader = epoch
    return epoch


def run_to_failure(setup: Any) -> tuple[str, dict[str, Tensor]]:
    """Message of the guard, and the parameters before the iteration that failed."""
    last: dict[str, Tensor] = {}

    def remember() -> None:
        last.update({n: p.detach().clone() for n, p in setup.network.named_parameters()})

    setup.trainer.add_event_handler(Events.ITERATION_STARTED, remember)
    with pytest.raises(NonFiniteLossError) as caught:
        setup.trainer.run()
    return str(caught.value), last


ADVICE = "Lower the learning rate, set clip_grad_norm, or check these cases' images."


@pytest.mark.parametrize(
    ("case", "terms"), [(1, "ce_full, kd"), (3, "ce_weak, entropy")], ids=["full", "partial"]
)
def test_guard_names_term_and_case_of_a_bad_image(
    make_setup: Factory, case: int, terms: str
) -> None:
    setup = make_setup(max_epochs=1, epoch_length=3)
    epoch = spoil(setup, 2, case, math.nan)
    name = epoch[1]["case_id"][case]
    message, before = run_to_failure(setup)
    assert message == (
        f"loss term {terms} is not finite at iteration 2 (epoch 1): cases {name}. {ADVICE}"
    )
    assert_equal(before, {n: p.detach() for n, p in setup.network.named_parameters()})


class Linear(nn.Module):
    """One factor a branch; logits (B, 2, H, W) = factor · (image, -image)."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.Parameter(torch.tensor(1e20))
        self.student = nn.Parameter(torch.tensor(1.0))

    def forward(self, image: Tensor, branch: str) -> Any:
        pair = [f * torch.cat([image, -image], dim=1) for f in (self.teacher, self.student)]
        return tuple(pair) if branch == "both" else pair[branch == "student"]


def test_guard_names_the_case_whose_logits_explode(make_setup: Factory) -> None:
    """1e20 · 1e30 leaves float32; the image itself is finite."""
    setup = make_setup(network=Linear(), max_epochs=1, objective=ConfKD(0, 0, 0))
    epoch = spoil(setup, 1, 1, 1e30)
    message, before = run_to_failure(setup)
    assert message == (
        "loss term ce_full is not finite at iteration 1 (epoch 1): "
        f"cases {epoch[0]['case_id'][1]}. {ADVICE}"
    )
    assert_equal(before, {n: p.detach() for n, p in setup.network.named_parameters()})


class Overflow(ConfKD):
    """A term that is infinite although logits and images are finite."""

    def forward(self, outputs: Any, batch: Any, networks: Any = None) -> dict[str, Tensor]:
        terms = super().forward(outputs, batch, networks)
        return terms | {"kd": terms["kd"] * 0 + math.inf}


def test_guard_lists_the_batch_where_no_case_stands_out(make_setup: Factory) -> None:
    setup = make_setup(objective=Overflow(0, 50, 0))
    cases = dict.fromkeys(batches(setup)[0]["case_id"])
    message, _ = run_to_failure(setup)
    assert message == (
        "loss term kd is not finite at iteration 1 (epoch 1): no image or logit that is not "
        f"finite; batch of {', '.join(cases)}. {ADVICE}"
    )


def test_guard_sees_a_sum_that_overflows(make_setup: Factory) -> None:
    """Every term is finite, their weighted sum is not: 3e38 + 3e38 in float32."""

    class Large(ConfKD):
        def forward(self, outputs: Any, batch: Any, networks: Any = None) -> dict[str, Tensor]:
            terms = super().forward(outputs, batch, networks)
            return {name: 0 * term + 3e38 for name, term in terms.items()}

    setup = make_setup(objective=Large(0, 1, 0))
    message, _ = run_to_failure(setup)
    assert message.startswith("loss term sum is not finite at iteration 1 (epoch 1): ")
