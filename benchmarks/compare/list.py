"""Experiment lists: which method is trained by which bundle, on how much data, with which seeds."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

__all__ = ["Experiment", "ExperimentList", "Row", "method_of", "read_list", "set_of"]

Profile = Literal["cpu", "gpu"]
SetN = int | Literal["all"]
Score = Literal["dice", "iou", "precision", "recall", "hd95_vox", "assd_vox"]

#: Keys of a row that are not settings of its bundle.
ROW_KEYS = ("method", "bundle", "overlays", "set", "profile", "seeds", "variant", "same_as",
            "start_from", "rounds")  # fmt: skip
#: Full masks of "all images" in the papers.
_ALL_IMAGES = 80


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_min_length=1)


class Row(_Model):
    """One row of a list; what is not a key of its own is a setting of the bundle.

    Attributes:
        method: the papers' name, by which the tables find the row; default: from the settings.
        bundle: folder or name of the bundle; default: that of the list.
        overlays: configuration files after those of the list, such as ``rows/single.yaml``.
        set: N of Set-N, or ``all``; default: from the settings.
        profile: ``cpu`` hides GPUs, ``gpu`` needs one; default: that of the list.
        seeds: default: those of the list.
        variant: settings by which the row differs from its method's main row, e.g. the weight that
            a sweep sets; they are passed as settings, too.
        same_as: ``LIST/ROW`` whose bundle, settings and result files the row shares; the list lies
            beside this one.
        start_from: row whose weights make the proposals that the row learns from.
        rounds: of self-training from there.
        settings: of the bundle, beyond the list's own.
    """

    method: str | None = None
    bundle: str | None = None
    overlays: list[str] = Field(default_factory=list)
    set: SetN | None = None
    profile: Profile | None = None
    seeds: list[int] | None = None
    variant: dict[str, Any] = Field(default_factory=dict)
    same_as: str | None = None
    start_from: str | None = None
    rounds: int | None = Field(default=None, ge=1)
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _split(cls, values: Any) -> Any:
        if values is None:
            return {}
        if not isinstance(values, Mapping):
            return values
        own = {name: value for name, value in values.items() if name in ROW_KEYS}
        return own | {"settings": {str(k): v for k, v in values.items() if k not in ROW_KEYS}}

    @model_validator(mode="after")
    def _consistent(self) -> Row:
        if self.same_as is not None:
            if len(self.same_as.split("/")) != 2:
                raise ValueError(f"same_as must be LIST/ROW, got '{self.same_as}'")
            if self.settings or self.bundle or self.overlays or self.start_from:
                raise ValueError(
                    "same_as takes bundle and settings of the other row: leave out those given here"
                )
        if self.rounds is not None and self.start_from is None:
            raise ValueError("rounds needs start_from, the row whose weights make the proposals")
        return self


class ExperimentList(_Model):
    """A file in benchmarks/experiments/, or one like it.

    Attributes:
        bundle: of the rows that name none.
        overlays: configuration files, passed after train.yaml: names in the bundle's ``configs/``,
            or paths from the list's folder.
        data: data set, by which the tables find the rows; default: a bundle name's first word.
        published: which settings of the papers the tables show beside.
        scores: what the list's own table shows of the test split, in the place of Dice and HD95
            of the branches teacher and student (``benchmarks/tables.py``).
        reports: heading → ``NAME.COLUMN``, further columns of that table: the last line of a table
            that the training wrote, see ``reports`` of a result file.
        beside: heading → row → text, columns with what papers give for rows of other data.
        reference: row that the others' Dice is tested against in that table.
        profile: of the rows that name none.
        seeds: of the rows that name none.
        common: settings of all rows.
        bundles: settings of all rows of a bundle.
        rows: name → row.
    """

    bundle: str | None = None
    overlays: list[str] = Field(default_factory=list)
    data: str | None = None
    published: str | None = None
    scores: list[Score] = Field(default_factory=list)
    reports: dict[str, str] = Field(default_factory=dict)
    beside: dict[str, dict[str, str]] = Field(default_factory=dict)
    reference: str | None = None
    profile: Profile | None = None
    seeds: list[int] = Field(default=[0], min_length=1)
    common: dict[str, Any] = Field(default_factory=dict)
    bundles: dict[str, dict[str, Any]] = Field(default_factory=dict)
    rows: dict[str, Row] = Field(min_length=1)

    @model_validator(mode="after")
    def _references(self) -> ExperimentList:
        for name, row in self.rows.items():
            if row.start_from is None:
                continue
            if row.start_from not in self.rows:
                raise ValueError(
                    f"row '{name}' starts from '{row.start_from}', which is not a row of the list"
                )
            if self.rows[row.start_from].start_from is not None:
                raise ValueError(
                    f"row '{name}' starts from '{row.start_from}', which starts from another row "
                    "itself: give rounds instead"
                )
        return self

    @model_validator(mode="after")
    def _table(self) -> ExperimentList:
        given = (self.reports, self.beside, self.reference)
        if any(given) and not self.scores:
            raise ValueError("reports, beside and reference need scores, the table's columns")
        for heading, place in self.reports.items():
            if len(place.split(".")) != 2:
                raise ValueError(f"reports: '{heading}' must be NAME.COLUMN, got '{place}'")
        named = [name for values in self.beside.values() for name in values]
        named += [self.reference] if self.reference else []
        if unknown := sorted({name for name in named if name not in self.rows}):
            raise ValueError(f"beside and reference name no row of the list: {', '.join(unknown)}")
        return self


@dataclass(frozen=True)
class Experiment:
    """A row with all that it takes from its list, ready to be run or looked up.

    Attributes:
        list_name: stem of the list's file.
        row: its name there.
        method: the papers' name.
        data: data set, e.g. ``acdc``; empty where nothing says it.
        set: N of Set-N, or ``all``.
        bundle: name or folder; None in a list that is only read.
        overlays: configuration files after train.yaml.
        settings: all of them, but for the seed.
        seeds: which to run, and which count in tables.
        profile: ``cpu``, ``gpu``, or None for whatever the machine has.
        variant: see :class:`Row`.
        same_as: list and row that share the result files, or None.
        start_from: row whose weights make the proposals, or None.
        rounds: of self-training.
    """

    list_name: str
    row: str
    method: str
    data: str
    set: SetN
    bundle: str | None
    overlays: tuple[str, ...]
    settings: dict[str, Any]
    seeds: tuple[int, ...]
    profile: Profile | None
    variant: dict[str, Any] = field(default_factory=dict)
    same_as: tuple[str, str] | None = None
    start_from: str | None = None
    rounds: int = 1

    @property
    def label(self) -> str:
        """Method and variant for a table; a component goes by its name."""
        changes = [f"{name} = {_named(value)}" for name, value in self.variant.items()]
        return ", ".join([self.method, *changes])


def _named(value: Any) -> Any:
    return value.get("_target_", value) if isinstance(value, Mapping) else value


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that is given twice is an error, not the last of them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if key != "<<" and key in keys[:number]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"'{key}' is given twice", node.value[number][0].start_mark
                )
        return super().construct_mapping(node, deep)


def read_list(path: str | os.PathLike[str]) -> ExperimentList:
    """The list in a file.

    Raises:
        ValueError: no such file, no YAML, or what does not make a list; names every fault.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no experiment list '{path}'")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"'{path}' is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' is not an experiment list: it needs at least 'rows'")
    try:
        return ExperimentList.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"'{path}': " + "; ".join(_faults(error))) from error


def experiments(path: str | os.PathLike[str], rows: Iterable[str] = ()) -> list[Experiment]:
    """The rows of a list, in its order.

    Args:
        path: file of the list.
        rows: names of the rows; all without any.

    Raises:
        ValueError: a fault of the list, or a row that it has not.
    """
    path = Path(path)
    listed = read_list(path)
    rows = list(rows)
    if unknown := [name for name in rows if name not in listed.rows]:
        raise ValueError(
            f"no such row in '{path}': {', '.join(_with_hint(unknown, listed.rows))}; "
            f"known: {', '.join(listed.rows)}"
        )
    return [_experiment(path, listed, name) for name in listed.rows if not rows or name in rows]


def _experiment(path: Path, listed: ExperimentList, name: str) -> Experiment:
    row = listed.rows[name]
    if row.same_as is not None:
        return _shared(path, listed, name)
    bundle = row.bundle or listed.bundle
    short = Path(bundle).name if bundle else ""
    settings = {
        **listed.common,
        **listed.bundles.get(bundle or "", {}),
        **row.settings,
        **row.variant,
    }
    variant = dict(row.variant)
    if settings.get("weak_label") == "drawn":
        variant.setdefault("weak_label", "drawn")
    method = row.method or (
        method_of(settings) if (not short or short.endswith("confkd")) else short
    )
    return Experiment(
        list_name=path.stem,
        row=name,
        method=method,
        data=listed.data or short.partition("_")[0],
        set=row.set or set_of(settings, method),
        bundle=bundle,
        overlays=tuple(_overlay(path, name) for name in (*listed.overlays, *row.overlays)),
        settings=settings,
        seeds=tuple(row.seeds or listed.seeds),
        profile=row.profile or listed.profile,
        variant=variant,
        start_from=row.start_from,
        rounds=row.rounds or 1,
    )


def _overlay(path: Path, name: str) -> str:
    """An overlay beside the list as an absolute path, one of the bundle by its name."""
    beside = path.parent / name
    return str(beside.resolve()) if beside.is_file() else name


def _shared(path: Path, listed: ExperimentList, name: str) -> Experiment:
    row = listed.rows[name]
    other_list, other_row = str(row.same_as).split("/")
    place = f"'{path}': row '{name}' is the same as '{row.same_as}'"
    other_path = path.with_name(f"{other_list}{path.suffix}")
    if not other_path.is_file():
        raise ValueError(f"{place}, but there is no '{other_path}'")
    other = read_list(other_path)
    if other_row not in other.rows:
        raise ValueError(f"{place}, but that list has no such row; known: {', '.join(other.rows)}")
    if other.rows[other_row].same_as is not None:
        raise ValueError(f"{place}, which is the same as another itself: name that one")
    source = _experiment(other_path, other, other_row)
    return Experiment(
        list_name=path.stem,
        row=name,
        method=row.method or source.method,
        data=listed.data or source.data,
        set=row.set or source.set,
        bundle=source.bundle,
        overlays=source.overlays,
        settings={**source.settings, **row.variant},
        seeds=tuple(row.seeds or listed.seeds),
        profile=row.profile or listed.profile or source.profile,
        variant=row.variant or source.variant,
        same_as=(other_list, other_row),
    )


def method_of(settings: Mapping[str, Any]) -> str:
    """The papers' name of a row of a ConfKD bundle, from its weights.

    Examples:
        >>> method_of({"num_full": 3, "lambda_ent": 0})
        'KL'
    """
    full = settings.get("num_full", 3)
    if not settings.get("num_partial", 5 * full):
        return "Upper bound"
    names = ("lambda_w", "lambda_kd", "lambda_ent")
    weak, distilled, entropy = (bool(settings.get(name, True)) for name in names)
    if not (weak or distilled or entropy):
        return "Lower bound"
    single = settings.get("weak_branch") in ("teacher", "main")
    base = "Single" if single else "KL" if distilled else "Decoupled"
    return f"{base}+Ent" if entropy else base


def set_of(settings: Mapping[str, Any], method: str) -> SetN:
    """N of Set-N; the upper bound has full masks of the N + 5·N patients that the others see."""
    full = int(settings.get("num_full", 3))
    if method != "Upper bound":
        return full
    return "all" if full == _ALL_IMAGES else full // 6


def check_settings(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Refuse settings that the row's bundle has not.

    Args:
        experiment: the row.
        folder: of its bundle.

    Returns:
        The settings that only evaluate.yaml knows, which training would refuse.

    Raises:
        ValueError: naming list, row, settings, and what they resemble.
    """
    configs = folder / "configs"
    place = f"list '{experiment.list_name}', row '{experiment.row}'"
    training: set[str] = set()
    for name in ("train.yaml", *experiment.overlays):
        if not (configs / name).is_file():
            raise ValueError(f"{place}: '{folder}' has no configs/{name}")
        training |= _keys(configs / name)
    evaluation = _keys(configs / "evaluate.yaml")
    wrong = [
        name
        for name in experiment.settings
        if name.replace("::", "#").partition("#")[0] not in training | evaluation
    ]
    if wrong:
        raise ValueError(
            f"{place}: no setting of the bundle {folder.name}: "
            + ", ".join(_with_hint(wrong, training | evaluation))
        )
    return {
        name: value
        for name, value in experiment.settings.items()
        if name.replace("::", "#").partition("#")[0] not in training
    }


def _keys(path: Path) -> set[str]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {str(key).lstrip("+").replace("::", "#").partition("#")[0] for key in content or {}}


def _with_hint(names: Iterable[str], known: Collection[str]) -> list[str]:
    hints = []
    for name in names:
        near = difflib.get_close_matches(name, known, n=1)
        hints.append(f"'{name}'" + (f" (did you mean '{near[0]}'?)" if near else ""))
    return hints


def _faults(error: ValidationError) -> list[str]:
    lines = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            known = ", ".join(ExperimentList.model_fields)
            lines.append(f"'{place}' is not a key of a list; known: {known}")
        else:
            text = item["msg"].removeprefix("Value error, ")
            lines.append(f"{place}: {text}" if place else text)
    return lines
