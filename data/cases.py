"""What the training sets ask of a case once its transforms have run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["case_id_of", "check_finite", "plain_tensor", "supervision_kind", "unlabeled_map"]


def case_id_of(item: Mapping[str, Any], original: Mapping[str, Any], index: int) -> str:
    """The case's name; without ``case_id`` the image's file, or the position in the list."""
    return str(item.get("case_id", original.get("image", index)))


def plain_tensor(array: Any) -> Tensor:
    """A NumPy array, tensor or MetaTensor as a plain tensor, without a copy."""
    return torch.as_tensor(array).as_subclass(Tensor)


def check_finite(image: Tensor, case_id: str) -> None:
    """Refuse an image with NaN or infinite values.

    Raises:
        ValueError: naming the case.
    """
    if not torch.isfinite(image).all():
        raise ValueError(f"{case_id}: the image holds NaN or infinite values")


def unlabeled_map(shape: tuple[int, ...], num_classes: int) -> Tensor:
    """The label of a case that has none: C everywhere, uint8."""
    return torch.full(shape, num_classes, dtype=torch.uint8)


def supervision_kind(item: Mapping[str, Any], label: Tensor | None, num_classes: int) -> str:
    """The declared ``supervision``; absent, what the values of ``label`` show."""
    declared = item.get("supervision")
    if declared:
        return str(declared)
    if "label" not in item or label is None:
        return "none"
    return "partial" if bool((label == num_classes).any()) else "full"
