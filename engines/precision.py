"""Which floating-point type the forward pass of a network uses on a device."""

from __future__ import annotations

import torch

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast_dtype(
    amp: bool | str, device: str | torch.device, amp_dtype: str = "bfloat16"
) -> torch.dtype | None:
    """The type that autocast uses, or None where the forward pass stays in float32.

    Args:
        amp: True uses mixed precision on CUDA alone; ``"auto"`` also on processors that compute
            in bfloat16 natively (AVX512_BF16 or AMX), where it is nearly twice as fast. On other
            processors bfloat16 is emulated and slower than float32.
        device: where the network runs.
        amp_dtype: ``"bfloat16"`` or ``"float16"``, on CUDA.

    Raises:
        ValueError: another ``amp`` or ``amp_dtype``.
    """
    if amp_dtype not in _DTYPES:
        raise ValueError(f"amp_dtype must be one of {list(_DTYPES)}, got {amp_dtype!r}")
    if not isinstance(amp, bool) and amp != "auto":
        raise ValueError(f"amp must be True, False or 'auto', got {amp!r}")
    kind = torch.device(device).type
    if kind == "cuda" and amp:
        return _DTYPES[amp_dtype]
    if kind == "cpu" and amp == "auto" and _has_native_bfloat16():
        return torch.bfloat16
    return None


def _has_native_bfloat16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
