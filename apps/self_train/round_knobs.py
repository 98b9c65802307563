"""The knobs that every round of a self-training sets, whatever its student was given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["round_knobs"]

_COUNTS_AS = ("full", "partial")


def round_knobs(given: Mapping[str, Any]) -> dict[str, Any]:
    """Knobs of a round's training: its cases have full masks or proposals, all of them.

    Args:
        given: the student's knobs, of which ``noisy_as`` decides: ``"full"``, the default, puts all
            cases in one stream, ``"partial"`` leaves the proposals to that of partial labels.

    Raises:
        ValueError: ``noisy_as`` is something else.
    """
    noisy_as = given.get("noisy_as", "full")
    if noisy_as not in _COUNTS_AS:
        raise ValueError(f"--noisy_as is {noisy_as!r}: give {' or '.join(_COUNTS_AS)}")
    knobs = {"noisy_as": noisy_as, "num_partial": 0, "num_unlabeled": 0, "batch_unlabeled": 0}
    return knobs | ({"batch_partial": 0} if noisy_as == "full" else {})
