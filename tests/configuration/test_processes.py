"""Work shared by the processes of torchrun."""

from __future__ import annotations

from mixseg.configuration.processes import Processes


def test_each_item_is_taken_by_one_process() -> None:
    started = [
        Processes.started({"RANK": str(rank), "WORLD_SIZE": "3", "LOCAL_RANK": "0"})
        for rank in range(3)
    ]
    assert [[n for n in range(8) if one.takes(n)] for one in started] == [
        [0, 3, 6],
        [1, 4, 7],
        [2, 5],
    ]
    assert [one.first for one in started] == [True, False, False]


def test_without_torchrun_there_is_one_process() -> None:
    alone = Processes.started({"RANK": "1"})
    assert (alone.rank, alone.count) == (0, 1)
    assert (alone.device_for(None), alone.device_for("mps")) == (None, "mps")
    assert all(alone.takes(number) for number in range(5))
    alone.meet()
