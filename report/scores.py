"""The files of scores: `metrics.csv`, one row per case, and `summary.json`."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from mixseg.files.atomic import strict_json, write_csv, write_text_atomic
from mixseg.files.provenance import environment
from mixseg.metrics.scores import CaseScore
from mixseg.metrics.summary import summarize

#: The last columns, which older files lack.
_LATER_COLUMNS = ("iou", "precision", "recall")


_COLUMNS = ["class" if f.name == "class_name" else f.name for f in fields(CaseScore)]


def write_metrics_csv(rows: Iterable[CaseScore], path: str | os.PathLike[str]) -> None:
    """Write the rows as `metrics.csv`, atomically; unknown values are empty cells.

    Args:
        rows: scores; floats are written so that they read back to the bit.
        path: target file.

    Raises:
        OSError: if the file cannot be written.
    """
    write_csv(path, [dict(zip(_COLUMNS, astuple(row), strict=True)) for row in rows], _COLUMNS)


def read_metrics_csv(path: str | os.PathLike[str]) -> list[CaseScore]:
    """Read the rows of a `metrics.csv`.

    Args:
        path: file written by `write_metrics_csv`, now or before it had IoU, precision and recall.

    Returns:
        The rows, equal to those that were written; values that the file lacks are None.

    Raises:
        ValueError: if the columns are not those of `write_metrics_csv`, or a cell cannot be read;
            names the file and the line.
        OSError: if the file cannot be read.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if header not in (_COLUMNS, _COLUMNS[: -len(_LATER_COLUMNS)]):
            raise ValueError(f"{path}: expected the columns {_COLUMNS}, found {header}")
        rows = []
        for cells in reader:
            try:
                rows.append(_parse_row(cells, len(header)))
            except ValueError as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    return rows


def _parse_row(cells: list[str], columns: int) -> CaseScore:
    if len(cells) != columns:
        raise ValueError(f"expected {columns} cells, found {len(cells)}")
    values: dict[str, Any] = {}
    # A file without the later columns ends before their fields.
    for field, cell in zip(fields(CaseScore), cells, strict=False):
        later = field.name in _LATER_COLUMNS
        if (later or field.name.endswith("_mm")) and not cell:
            values[field.name] = None
        elif field.name.endswith("_voxels"):
            values[field.name] = int(cell)
        elif later or field.name == "dice" or field.name.endswith(("_vox", "_mm")):
            values[field.name] = float(cell)
        else:
            values[field.name] = cell
    return CaseScore(**values)


def write_summary(
    path: str | os.PathLike[str],
    rows: Iterable[CaseScore],
    *,
    configuration: Mapping[str, Any],
    seed: int | None,
    data_hash: str | None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write `summary.json`: the scores and all that is needed to trace them, atomically.

    The file holds ``scores`` (see `summarize`), ``configuration``, ``seed``, ``data_hash``, the
    entries of `mixseg.files.provenance.environment` and those of `extra`. It is strict JSON: a
    NaN is written as null.

    Args:
        path: target file.
        rows: scores of the run.
        configuration: the settings of the run.
        seed: the run's seed, or None if it had none.
        data_hash: digest that names the data and its split, or None.
        extra: further top-level entries.

    Raises:
        ValueError: if `extra` has an entry of a name that is already in use.
        OSError: if the file cannot be written.
    """
    content: dict[str, Any] = {
        "scores": summarize(rows),
        "configuration": configuration,
        "seed": seed,
        "data_hash": data_hash,
        **environment(),
    }
    taken = sorted(set(content) & set(extra or {}))
    if taken:
        raise ValueError(f"extra entries of summary.json would replace {taken}")
    write_text_atomic(path, strict_json({**content, **(extra or {})}))
