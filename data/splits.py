"""What the commands that prepare a public data set share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mixseg.data.datalist import DatalistError

__all__ = ["find_nifti", "listed_faults", "read_split_file", "split_sizes"]

#: Shares for validation and test: 5 and 15 of 100 (the papers' 80/5/15).
VALIDATION_SHARE = 0.05
TEST_SHARE = 0.15

_SUFFIXES = (".nii.gz", ".nii")


def split_sizes(count: int, unit: str = "patients") -> tuple[int, int, int]:
    """Numbers of training, validation and test patients (or scans): 80/5/15 of 100, in proportion.

    Raises:
        DatalistError: fewer than 3, which cannot fill three splits.
    """
    if count < 3:
        raise DatalistError(f"{count} {unit} cannot fill three splits; at least 3 are needed")
    validation = max(1, round(VALIDATION_SHARE * count))
    test = max(1, round(TEST_SHARE * count))
    return count - validation - test, validation, test


def read_split_file(path: Path) -> dict[str, list[str]]:
    """The ordered lists ``train``, ``val`` and ``test`` of a split.json.

    Raises:
        DatalistError: the file cannot be read, or a list is missing.
    """
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatalistError(f"{path} cannot be read: {error}") from error
    if not isinstance(splits, dict) or not all(
        isinstance(splits.get(key), list) for key in ("train", "val", "test")
    ):
        raise DatalistError(f"{path} needs the lists 'train', 'val' and 'test'")
    return {key: [str(name) for name in splits[key]] for key in ("train", "val", "test")}


def find_nifti(folder: Path, stem: str) -> Path | None:
    """``folder/stem`` with either NIfTI suffix, or None."""
    return next((p for s in _SUFFIXES if (p := folder / (stem + s)).is_file()), None)


def listed_faults(place: str, faults: Sequence[str]) -> str:
    """The faults of ``place``, one a line."""
    count = f"{len(faults)} faults" if len(faults) > 1 else "1 fault"
    return f"{count} in {place}:\n" + "\n".join(f"  {fault}" for fault in faults)
