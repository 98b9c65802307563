"""The processes that ``torchrun`` started for one command."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch

__all__ = ["Processes"]


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
        """Whether this process speaks for all of them."""
        return self.rank == 0

    def takes(self, number: int) -> bool:
        """Whether an item of a list that all processes see alike is this one's."""
        return number % self.count == self.rank

    def device(self, wanted: str | None) -> str | None:
        """The GPU of this process where several run and no device was asked for."""
        if wanted is None and self.count > 1 and torch.cuda.is_available():
            return f"cuda:{self.local_rank % torch.cuda.device_count()}"
        return wanted

    def meet(self, hours: float = 24.0) -> None:
        """Wait until every process has come here.

        Args:
            hours: that one waits for the others.

        Raises:
            RuntimeError: one of them did not come.
        """
        if self.count == 1:
            return
        torch.distributed.init_process_group("gloo", timeout=timedelta(hours=hours))
        try:
            torch.distributed.barrier()
        finally:
            torch.distributed.destroy_process_group()
