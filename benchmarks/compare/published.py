"""The numbers of the papers, as data: cli/published/*.yaml."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from .list import SetN

__all__ = ["Complexity", "PublishedRow", "PublishedTable", "branch_pairs", "load_published"]

FOLDER = Path(__file__).with_name("published")
BRANCHES = ("main", "teacher", "student", "ensemble")
#: The paper's names of settings that are called otherwise here.
_SYMBOLS = {"lambda_con": "λ_c", "lambda_co": "λ_1", "lambda_sc": "λ_2"}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PublishedRow(_Model):
    """A row of a table of scores.

    Attributes:
        method: the papers' name, as rows of experiment lists give it.
        label: what the table calls the row; default: the method or the variant.
        branch: that of scores that are a list alone; default: the only one.
        variant: settings that set the row apart from others of the method.
        scores: Set-N → branch → [Dice in %, HD95] or [Dice in %].
        marks: Set-N → name of a note.
    """

    method: str
    label: str = ""
    branch: str = "main"
    variant: dict[str, Any] = Field(default_factory=dict)
    scores: dict[SetN, dict[str, list[float]]]
    marks: dict[SetN, str] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _spread(cls, values: dict[str, Any]) -> dict[str, Any]:
        branch = values.get("branch", "main")
        scores = {
            name: {branch: score} if isinstance(score, list) else score
            for name, score in values["scores"].items()
        }
        label = values.get("label") or ", ".join(
            f"{_symbol(name)} = {value}" for name, value in values.get("variant", {}).items()
        )
        return {**values, "scores": scores, "label": label or values["method"]}


class PublishedTable(_Model):
    """A table of scores of one data set."""

    title: str
    data: str
    rows: list[PublishedRow]
    notes: dict[str, str] = Field(default_factory=dict)

    @property
    def sets(self) -> list[SetN]:
        """Set-N in the order in which they appear."""
        return list(dict.fromkeys(name for row in self.rows for name in row.scores))


class ComplexityRow(_Model):
    """Parameters kept while training, and milliseconds a sample."""

    method: str
    bundle: str
    parameters: int
    milliseconds: float


class Complexity(_Model):
    """The table of parameters and times."""

    title: str
    rows: list[ComplexityRow]


class Published(_Model):
    """All tables of the papers, by their number, in the papers' order."""

    settings: dict[str, str]
    tables: dict[str, PublishedTable]
    complexity: dict[str, Complexity]

    @property
    def names(self) -> list[str]:
        """Numbers of all tables: 1 to 8, A.1 to A.3, B.4 to B.6."""
        return sorted({**self.tables, **self.complexity})


@cache
def load_published() -> Published:
    """The published tables."""
    merged: dict[str, dict[str, Any]] = {"settings": {}, "tables": {}, "complexity": {}}
    for path in sorted(FOLDER.glob("*.yaml")):
        for key, value in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            merged[key].update(value)
    return Published.model_validate(merged)


def branch_pairs(data: str) -> dict[str, dict[SetN, tuple[str, str]]]:
    """Method → Set-N → "Dice / HD95" of teacher and student, of the rows without a variant.

    Of a method of one branch, those of the network alone, as if of a teacher.

    Args:
        data: data set, e.g. ``acdc``.
    """
    pairs: dict[str, dict[SetN, tuple[str, str]]] = {}
    for table in load_published().tables.values():
        for row in table.rows:
            if table.data != data or row.variant or row.label != row.method:
                continue
            for name, branches in row.scores.items():
                teacher = cell(branches.get("teacher", branches.get("main")))
                student = cell(branches.get("student"))
                # A table that repeats a row may give fewer of its branches.
                old = pairs.setdefault(row.method, {}).get(name, ("", ""))
                pairs[row.method][name] = (old[0] or teacher, old[1] or student)
    return pairs


def cell(score: list[float] | None) -> str:
    """A published score as the tables show it.

    Examples:
        >>> cell([86.94, 8.84]), cell([76.27]), cell(None)
        ('86.94 / 8.84', '76.27', '')
    """
    return "" if score is None else " / ".join(f"{value:.2f}" for value in score)


def _symbol(name: str) -> str:
    return _SYMBOLS.get(name, name.replace("lambda_", "λ_"))
