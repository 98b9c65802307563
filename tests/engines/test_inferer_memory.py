"""VolumeInferer's choice between one pass, windows and their number at once, by memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mixseg.engines import VolumeInferer

windows_of = partial(VolumeInferer, size_divisor=1, stretch=1)
auto_of = partial(VolumeInferer, whole_volume="auto", size_divisor=8, stretch=1, overlap=0.25)


def pointwise(image: Tensor) -> Tensor:
    """Two channels that depend on the voxel alone."""
    return torch.cat((image**2, 1 - 3 * image), dim=1)


def recorded(network: Callable[..., Any], sizes: list[tuple[int, ...]]) -> Callable[..., Any]:
    def call(image: Tensor) -> Any:
        sizes.append(tuple(image.shape))
        return network(image)

    return call


def test_auto_goes_by_the_memory_that_it_may_take(caplog: pytest.LogCaptureFixture) -> None:
    image = torch.randn(1, 1, 16, 8, 8)
    # 1,024 voxels of 1,000 bytes are 1.024e-3 GB.
    for memory_gb, expected in ((1.03e-3, [(1, 1, 16, 8, 8)]), (1.02e-3, [(1, 1, 8, 8, 8)] * 3)):
        sizes: list[tuple[int, ...]] = []
        inferer = auto_of((8, 8, 8), memory_gb=memory_gb, bytes_per_voxel=1000, sw_batch_size=1)
        with caplog.at_level(logging.INFO):
            inferer(image, recorded(pointwise, sizes))
        assert sizes == expected
    assert "in one pass needs more than 0.0 GB: this one of 16×8×8 voxels" in caplog.text


def test_auto_counts_the_padding() -> None:
    # 9 → 16: 1,024 voxels, though the scan has only 576.
    sizes: list[tuple[int, ...]] = []
    inferer = auto_of((8, 8, 8), memory_gb=1.02e-3, bytes_per_voxel=1000, sw_batch_size=1)
    inferer(torch.randn(1, 1, 9, 8, 8), recorded(pointwise, sizes))
    assert sizes == [(1, 1, 8, 8, 8)] * 2


def test_auto_takes_half_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 2 * 1024 * 1000
    monkeypatch.setattr("mixseg.engines.inferers.available_memory", lambda device: free)
    inferer = auto_of((8, 8, 8), bytes_per_voxel=1000)
    sizes: list[tuple[int, ...]] = []
    inferer(torch.randn(1, 1, 16, 8, 8), recorded(pointwise, sizes))
    assert sizes == [(1, 1, 16, 8, 8)]
    free -= 2  # a window of 512 voxels still fits, two of them do not
    sizes.clear()
    inferer(torch.randn(1, 1, 16, 8, 8), recorded(pointwise, sizes))
    assert sizes == [(1, 1, 8, 8, 8)] * 3


@pytest.mark.parametrize(("free", "batches"), [(3072, [3]), (3071, [2, 1]), (0, [1, 1, 1])])
def test_no_more_windows_at_once_than_fit_into_memory(free: int, batches: list[int]) -> None:
    """Windows of 1,024 voxels, a byte each."""
    sizes: list[tuple[int, ...]] = []
    inferer = windows_of(
        (8, 16, 8), overlap=0.25, memory_gb=free / 1e9, bytes_per_voxel=1, sw_batch_size=4
    )
    inferer(torch.zeros(1, 1, 16, 16, 8), recorded(pointwise, sizes))
    assert [size[0] for size in sizes] == batches


@pytest.mark.parametrize(
    ("memory", "axes", "batches"),
    [(4096, (), [1]), (4096, (0,), [2]), (4095, (0,), [1, 1]), (9999, (0, 1), [2, 2])],
)
def test_mirrored_scans_share_a_pass_where_both_fit(
    memory: int, axes: tuple[int, ...], batches: list[int]
) -> None:
    """A scan of 2,048 voxels, a byte each, two at the most."""
    for whole_volume in (True, "auto"):
        sizes: list[tuple[int, ...]] = []
        inferer = VolumeInferer(
            (8, 8, 8),
            whole_volume=whole_volume,
            mirror_axes=axes,
            memory_gb=memory / 1e9,
            bytes_per_voxel=1,
            size_divisor=8,
        )
        inferer(torch.zeros(1, 1, 32, 8, 8), recorded(pointwise, sizes))
        assert sizes == [(n, 1, 32, 8, 8) for n in batches]


def test_windows_of_both_mirrored_scans_fill_the_batches() -> None:
    sizes: list[tuple[int, ...]] = []
    inferer = windows_of((8, 8), overlap=0.25, mirror_axes=(0,), sw_batch_size=2)
    inferer(torch.zeros(1, 1, 16, 8), recorded(pointwise, sizes))
    assert sizes == [(2, 1, 8, 8)] * 3


def short_of_memory(image: Tensor) -> Tensor:
    if image[0, 0].numel() > 512:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return pointwise(image)


def test_auto_falls_back_to_windows_when_memory_runs_out(caplog: pytest.LogCaptureFixture) -> None:
    image = torch.randn(1, 1, 16, 8, 8)
    inferer = auto_of((8, 8, 8), sw_batch_size=1)
    sizes: list[tuple[int, ...]] = []
    found = inferer(image, recorded(short_of_memory, sizes))
    torch.testing.assert_close(found, pointwise(image), rtol=1e-5, atol=1e-6)
    assert sizes == [(1, 1, 16, 8, 8)] + [(1, 1, 8, 8, 8)] * 3
    assert "16×8×8 voxels does not fit on cpu in one pass: windows are used" in caplog.text
    # The next scan of that size is not tried again; a smaller one is.
    sizes.clear()
    inferer(image, recorded(short_of_memory, sizes))
    assert (1, 1, 16, 8, 8) not in sizes
    sizes.clear()
    inferer(image[:, :, :8], recorded(short_of_memory, sizes))
    assert sizes == [(1, 1, 8, 8, 8)]


def test_a_forced_whole_volume_lets_the_error_through() -> None:
    inferer = VolumeInferer((8, 8, 8), whole_volume=True, size_divisor=8)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        inferer(torch.randn(1, 1, 16, 8, 8), short_of_memory)
