"""A process of a training that is stopped does not hold the others for good."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from typing import Any

import pytest
import torch

from mixseg.engines import join_ranks


def rank(number: int, port: int, said: Any) -> None:
    """Meets the other one, and is stopped (1) or waits for it once more (0)."""
    os.environ |= {
        "RANK": str(number),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    join_ranks("gloo", minutes=3 / 60)
    torch.distributed.all_reduce(torch.zeros(1))
    if number == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    try:
        torch.distributed.all_reduce(torch.zeros(1))
    except RuntimeError as error:
        said.put(str(error))
        os._exit(1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are forked")
def test_a_stopped_rank_ends_the_others_after_the_time() -> None:
    fork = multiprocessing.get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = fork.SimpleQueue()
    ranks = [fork.Process(target=rank, args=(number, port, said)) for number in range(2)]
    started = time.monotonic()
    try:
        for process in ranks:
            process.start()
        ranks[0].join(60)
        assert ranks[0].exitcode == 1
        message = said.get()
        assert ranks[1].is_alive()
        assert "imed out" in message or "imeout" in message, message
        assert time.monotonic() - started >= 3
    finally:
        for process in ranks:
            process.kill()
            process.join()


def test_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="rank_timeout must be positive, got 0"):
        join_ranks("gloo", minutes=0)
