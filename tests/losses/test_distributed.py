"""Two processes with half a batch each have, on average, the gradient of one with all of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from mixseg.losses import partial_cross_entropy


def batch() -> tuple[Tensor, Tensor]:
    """Logits and labels of four images, of which the first two are nearly unlabeled."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(4, 3, 5, 6, generator=generator, dtype=torch.float64)
    label = torch.randint(0, 4, (4, 1, 5, 6), generator=generator)
    label[:2] = 3
    label[0, 0, 2, 3] = 1
    return logits, label


def gradient(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.clone().requires_grad_()
    loss = partial_cross_entropy(leaf, label)
    loss.backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad


def half(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    logits, label = batch()
    mine = slice(2 * rank, 2 * rank + 2)
    found = gradient(logits[mine], label[mine])
    # Neither is asked for a gradient here, so that one process may look at its loss alone.
    alone = partial_cross_entropy(logits[mine], label[mine]) if rank == 1 else torch.zeros(())
    nothing = gradient(logits[mine], torch.full_like(label[mine], 3))
    torch.save((*found, alone, *nothing), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.usefixtures("spawnable")
def test_the_mean_over_two_processes_is_that_of_one(tmp_path: Path) -> None:
    mp.spawn(half, (str(tmp_path),), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    loss, whole = gradient(*batch())
    # DDP averages over processes, so an image's gradient is half of what its process has.
    averaged = torch.cat([part[1] for part in parts]) / 2
    torch.testing.assert_close(averaged, whole)
    torch.testing.assert_close((parts[0][0] + parts[1][0]) / 2, loss)
    logits, label = batch()
    torch.testing.assert_close(parts[1][2], partial_cross_entropy(logits[2:], label[2:]))
    for part in parts:
        assert part[3] == 0
        assert not part[4].any()
