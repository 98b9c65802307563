"""The rounds of a self-training side by side: for the screen, and as rounds.md, .csv and .json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from mixseg.files.atomic import strict_json, write_csv, write_text_atomic
from mixseg.report.tables import as_markdown, as_table, mean_and_sd

HEADER = (
    "Round", "Seed", "Proposals", "Empty", "Split", "Class", "Cases", "Dice [%]", "HD95 [voxels]",
    "HD95 [mm]",
)  # fmt: skip
_COLUMNS = (("dice", 100.0), ("hd95_vox", 1.0), ("hd95_mm", 1.0))
_OWN = ("round", "seed", "proposals", "empty")
_TEXTS = ("Split", "Class")


def round_lines(rounds: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Cells below :data:`HEADER`, a line for each round, split and class, mean ± sd over cases.

    Args:
        rounds: ``round``, ``seed``, ``proposals`` and ``empty`` (numbers), and ``scores``: split →
            class → summary, as in ``summary.json``.
    """
    return [
        [*map(str, first), *(mean_and_sd(scores[key], factor) for key, factor in _COLUMNS)]
        for first, scores in _scored(rounds)
    ]


def _scored(
    rounds: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[list[Any], Mapping[str, Any]]]:
    """What stands before the scores, and the scores, of each round, split and class."""
    for entry in rounds:
        for split, classes in entry["scores"].items():
            for name, scores in classes.items():
                yield [*(entry[key] for key in _OWN), split, name, scores["n"]], scores


def round_table(rounds: Sequence[Mapping[str, Any]]) -> Table:
    """The rounds for the terminal."""
    return as_table("Rounds, mean ± sd over cases", HEADER, round_lines(rounds), _TEXTS)


def write_rounds(
    folder: Path, rounds: Sequence[Mapping[str, Any]], content: Mapping[str, Any]
) -> None:
    """Write ``rounds.json`` (with ``content``), ``rounds.csv`` (means alone) and ``rounds.md``."""
    table = as_markdown(HEADER, round_lines(rounds), _TEXTS)
    write_text_atomic(folder / "rounds.json", strict_json({**content, "rounds": rounds}))
    first = [*_OWN, "split", "class", "cases"]
    means = [
        dict(zip(first, cells, strict=True)) | {key: scores[key]["mean"] for key, _ in _COLUMNS}
        for cells, scores in _scored(rounds)
    ]
    write_csv(folder / "rounds.csv", means)
    write_text_atomic(folder / "rounds.md", table)
