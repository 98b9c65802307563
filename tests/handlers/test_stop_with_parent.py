"""The end of a training whose parent is gone."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine

from mixseg.handlers.stop_with_parent import StopWithParent


def test_a_training_ends_when_its_server_is_gone() -> None:
    trainer = Engine(lambda engine, _: {"loss": torch.tensor(1.0)})
    parents = iter([7, 7, 1])
    StopWithParent(7, current=lambda: next(parents)).attach(trainer)
    with pytest.raises(SystemExit, match=r"the server \(process 7\) is gone: .* at iteration 3"):
        trainer.run([0, 1, 2, 3, 4], max_epochs=1)
    assert trainer.state.iteration == 3
