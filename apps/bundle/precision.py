"""Types of the numbers of stored weights; a command names them without importing PyTorch."""

from __future__ import annotations

from enum import Enum


class Precision(str, Enum):
    """Type of the numbers of stored weights."""

    KEEP = "keep"
    FLOAT16 = "float16"
    FLOAT32 = "float32"
