"""One way to run a function on many files at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    desc: str,
    progress: bool,
    workers: int | None = None,
) -> list[Result]:
    """Results of all items, with a progress bar; the first exception ends the work."""
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(function, items)
        return list(tqdm(results, desc, len(items), unit="case", disable=not progress))
