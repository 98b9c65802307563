"""The processes that ``torchrun`` started for one command or one training."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch

#: Seconds between the end of a group and that of the process. A thread of Gloo releases a tensor
#: after the operation is known to be complete. If the interpreter has ended by then, PyTorch aborts
#: the process: "terminate called without an active exception"
#: (https://github.com/pytorch/pytorch/pull/179291).
_REST = 1.0


def join_ranks(backend: str, minutes: float = 10.0) -> None:
    """Make the process group of the processes that ``torchrun`` started.

    Args:
        backend: ``"nccl"`` on CUDA, ``"gloo"`` on the CPU.
        minutes: that a process waits for another one in a collective operation. After that it
            fails, and torchrun ends the others: a process that was stopped, or hangs, ends the job
            and does not hold its devices for good. A validation, whose shares differ from process
            to process, must be shorter.

    Raises:
        ValueError: the time is not positive.
    """
    if minutes <= 0:
        raise ValueError(f"rank_timeout must be positive, got {minutes}")
    torch.distributed.init_process_group(backend, timeout=timedelta(minutes=minutes))


@dataclass(frozen=True)
class Processes:
    """How many processes share the work, and which of them this one is.

    Attributes:
        rank: number of this process, 0 to ``count - 1``.
        count: of all processes on all machines.
        local_rank: number of this process on its machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def started(cls, variables: Mapping[str, str] = os.environ) -> Processes:
        """As torchrun's variables say; one process where there are none."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        if not all(name in variables for name in names):
            return cls()
        return cls(*(int(variables[name]) for name in names))

    @property
    def first(self) -> bool:
        """Whether this is the process that reports for all."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """The GPU of this process, or the CPU where there is none."""
        if torch.cuda.is_available():
            return torch.device("cuda", self.local_rank % torch.cuda.device_count())
        return torch.device("cpu")

    def takes(self, number: int) -> bool:
        """Whether an item of a list that all processes see alike is this one's."""
        return number % self.count == self.rank

    def device_for(self, wanted: str | None) -> str | None:
        """The GPU of this process where several run and no device was asked for."""
        if wanted is None and self.count > 1 and self.device.type == "cuda":
            return str(self.device)
        return wanted

    def join(self, minutes: float = 10.0) -> None:
        """Train together: make the group, take the process' GPU, leave the log to the first one.

        Raises:
            ValueError: the time is not positive.
        """
        logging.disable(logging.NOTSET if self.first else logging.INFO)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        join_ranks("nccl" if self.device.type == "cuda" else "gloo", minutes)

    def leave(self) -> None:
        """End the group, and give its threads time to release what they sent."""
        torch.distributed.destroy_process_group()
        time.sleep(_REST)

    def meet(self, hours: float = 24.0) -> None:
        """Wait until every process has come here.

        Raises:
            RuntimeError: one of them did not come.
        """
        if self.count == 1:
            return
        join_ranks("gloo", 60 * hours)
        try:
            torch.distributed.barrier()
        finally:
            self.leave()
