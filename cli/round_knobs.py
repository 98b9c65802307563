"""The knobs that every round of a self-training sets, whatever its student was given."""

from __future__ import annotations

from typing import Any

__all__ = ["COUNTS_AS", "round_knobs"]

#: What proposals may count as, the first by default.
COUNTS_AS = ("full", "partial")


def round_knobs(noisy_as: Any = COUNTS_AS[0]) -> dict[str, Any]:
    """Knobs of a round's training: its cases have full masks or proposals, all of them.

    Args:
        noisy_as: ``"full"`` puts all in one stream, ``"partial"`` leaves the proposals to the
            stream of partial labels.

    Raises:
        ValueError: it is something else.
    """
    if noisy_as not in COUNTS_AS:
        raise ValueError(f"--noisy_as is {noisy_as!r}: give {' or '.join(COUNTS_AS)}")
    knobs = {"noisy_as": noisy_as, "num_partial": 0, "num_unlabeled": 0, "batch_unlabeled": 0}
    return knobs | ({"batch_partial": 0} if noisy_as == "full" else {})
