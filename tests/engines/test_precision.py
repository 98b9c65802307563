"""What runs in which precision."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mixseg.engines import autocast_dtype
from mixseg.losses import dice_cross_entropy, soft_cross_entropy


def pretend(monkeypatch: pytest.MonkeyPatch, avx512: bool, amx: bool) -> None:
    """Give the processor abilities."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)


@pytest.mark.parametrize(
    ("amp", "device", "avx512", "amx", "expected"),
    [
        (False, "cuda", True, True, None),
        (False, "cpu", True, True, None),
        (True, "cuda:1", False, False, torch.bfloat16),
        (True, "cpu", True, True, None),
        ("auto", "cuda", False, False, torch.bfloat16),
        ("auto", "cpu", False, False, None),
        ("auto", "cpu", True, False, torch.bfloat16),
        ("auto", "cpu", False, True, torch.bfloat16),
        ("auto", "mps", True, True, None),
    ],
)
def test_the_type_by_device(
    monkeypatch: pytest.MonkeyPatch,
    amp: bool | str,
    device: str,
    avx512: bool,
    amx: bool,
    expected: torch.dtype | None,
) -> None:
    pretend(monkeypatch, avx512, amx)
    assert autocast_dtype(amp, torch.device(device)) is expected


def test_float16_is_for_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, True, True)
    assert autocast_dtype("auto", "cuda", "float16") is torch.float16
    assert autocast_dtype("auto", "cpu", "float16") is torch.bfloat16


@pytest.mark.skipif(platform.machine() != "x86_64", reason="flags of x86 processors")
def test_abilities_are_those_of_the_processor() -> None:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        pytest.skip("no /proc/cpuinfo")
    flags = info.read_text().split()
    native = "avx512_bf16" in flags or "amx_tile" in flags
    assert (autocast_dtype("auto", "cpu") is torch.bfloat16) == native


def test_refused() -> None:
    with pytest.raises(ValueError, match="amp must be True, False or 'auto', got 'on'"):
        autocast_dtype("on", "cpu")
    with pytest.raises(ValueError, match=r"amp_dtype must be one of .*, got 'float32'"):
        autocast_dtype(True, "cuda", "float32")


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_losses_stay_in_float32(scale: float) -> None:
    """Of the logits that a network gives in bfloat16, against float64 of the same numbers."""
    generator = torch.Generator().manual_seed(0)
    logits = (scale * torch.randn(3, 4, 20, 20, generator=generator)).bfloat16()
    label = torch.randint(0, 5, (3, 1, 20, 20), generator=generator)
    target = torch.rand(3, 4, 20, 20, generator=generator).softmax(1)
    exact = logits.double()
    with torch.autocast("cpu", torch.bfloat16):
        found = [
            dice_cross_entropy(logits, label),
            soft_cross_entropy(logits, target, label == 4),
        ]
    expected = [
        dice_cross_entropy(exact, label),
        soft_cross_entropy(exact, target.double(), label == 4),
    ]
    for value, wanted in zip(found, expected, strict=True):
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(wanted.item(), rel=2e-6)


NORMS = {
    "instance": (lambda d: (nn.InstanceNorm2d, nn.InstanceNorm3d)[d - 2](6, affine=True), 32.0),
    "batch": (lambda d: (nn.BatchNorm2d, nn.BatchNorm3d)[d - 2](6), 32.0),
    # In channels-last memory torch computes its variance as E[x²] − E[x]², in float32 as well.
    "group": (lambda d: nn.GroupNorm(2, 6), 2.0),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("channels_last", [False, True])
def test_statistics_of_normalization_stay_in_float32(
    name: str, dims: int, channels_last: bool
) -> None:
    """Channels far from 0, where a mean in bfloat16 would be wrong by a tenth of their sd."""
    make, offset = NORMS[name]
    torch.manual_seed(0)
    shape = (2, 6, *((48, 40) if dims == 2 else (12, 16, 10)))
    image = (2 * torch.randn(shape) + 2 * offset).bfloat16()
    formats = {2: torch.channels_last, 3: torch.channels_last_3d}
    if channels_last:
        image = image.contiguous(memory_format=formats[dims])
    with torch.autocast("cpu", torch.bfloat16):
        found = make(dims)(image).double()
    expected = normalized(image.double(), name)
    # Beside the rounding of the result, 2⁻⁹ of its size at most, nothing is left.
    assert ((found - expected).abs() <= 2**-8 * expected.abs() + 1e-3).all()
    slope = (found * expected).sum() / expected.square().sum()
    assert slope.item() == pytest.approx(1, abs=2e-3)


def normalized(image: Tensor, name: str) -> Tensor:
    """(x − mean) / sqrt(variance + 1e-5) over the axes of each norm."""
    shape = image.shape
    if name == "batch":
        image = image.transpose(0, 1)
        flat = image.reshape(shape[1], -1)
    else:
        flat = image.reshape(shape[0] * (2 if name == "group" else shape[1]), -1)
    mean = flat.mean(1, keepdim=True)
    out = (flat - mean) / (flat.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    out = out.reshape(image.shape)
    return out.transpose(0, 1) if name == "batch" else out
