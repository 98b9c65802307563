"""What a bundle does before it trains, scores or segments."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from monai.utils import set_determinism

from mixseg.configuration.start import begin_training
from mixseg.data import check_cases
from mixseg.files.atomic import ensure_writable

__all__ = ["start_run"]


def start_run(
    folders: Iterable[str | os.PathLike[str]], *, seed: int | None = None, **cases: Any
) -> None:
    """Refuse folders that cannot be written and faulty cases; record a training; set the seed.

    Bundles call :func:`mixseg.handlers.start_command` before it: what this function is given is
    made first, and a folder of data that is not there may be a mistyped setting's fault.

    Args:
        folders: to write to, created where missing.
        seed: of all random generators; None leaves them alone.
        cases: arguments of :func:`mixseg.data.check_cases`; none checks no case. With
            ``training`` the run is recorded, see
            :func:`mixseg.configuration.begin_training`.

    Raises:
        ValueError: a seed that is none of NumPy's.
        OSError: a folder that cannot be written.
        DatalistError: there is no case to score, or lists every fault of the cases.
        RunRefusedError: the first folder holds a run that would be spoiled.
    """
    if seed is not None and not 0 <= seed < 2**32:
        raise ValueError(f"seed must be a whole number from 0 to {2**32 - 1}, got {seed}")
    ensure_writable(folders)
    if cases:
        check_cases(**cases)
    if "training" in cases:
        begin_training()
    if seed is not None:
        set_determinism(seed)
