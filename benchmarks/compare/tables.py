"""The papers' tables with measured values beside the published ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .list import Experiment, Profile, SetN, experiments, read_list
from .published import (
    BRANCHES,
    PublishedRow,
    PublishedTable,
    cell,
    load_published,
)
from .results import (
    Result,
    holm,
    mean_sd,
    paired_comparison,
    read_results,
    scores_of,
)

__all__ = [
    "NOT_RUN", "OTHERS", "Line", "Measured", "Measurements", "comparison_cell", "corrected",
    "markdown", "table_lines",
]  # fmt: skip

#: A row without a result file.
NOT_RUN = "–"
PROFILES: tuple[Profile, ...] = ("cpu", "gpu")
#: Name of the table of the rows that no table of the papers has.
OTHERS = "others"
REFERENCE = ("KL+Ent", "student")
_PROFILE_NAMES = {"cpu": "CPU profile", "gpu": "GPU profile"}


@dataclass(frozen=True)
class Measured:
    """Scores of a row and branch over its seeds, and the test against the reference.

    Attributes:
        dice: in %, one value per seed.
        hd95: in voxels, one value per seed.
        difference: of the mean Dice over the test cases from the reference, in points.
        p: Holm-corrected; None where there is no test.
        is_reference: it is what the others are compared with.
    """

    dice: list[float]
    hd95: list[float]
    difference: float | None = None
    p: float | None = None
    is_reference: bool = False


@dataclass
class Line:
    """A line of a table: published beside measured."""

    set: SetN
    label: str
    branch: str
    published: list[float]
    mark: str = ""
    measured: dict[str, Measured] = field(default_factory=dict)


class Measurements:
    """The rows of several lists with their results, to be found by what the papers call them.

    Args:
        lists: files of experiment lists; rows without a profile get that of their machine.
        results: folder with one folder a list.

    Raises:
        ValueError: a list or a result file cannot be used.
    """

    def __init__(self, lists: Iterable[Path], results: Path) -> None:
        self.rows: list[tuple[Experiment, dict[int, Result]]] = []
        self.folder = results
        self.lists = sorted({Path(path) for path in lists})
        for path in self.lists:
            for experiment in experiments(path):
                found = read_results(results, experiment)
                if experiment.profile is None:
                    ran_on = {one["test"]["hardware"]["gpu"] for one in found.values()}
                    profile: Profile = "gpu" if ran_on - {None} else "cpu"
                    experiment = replace(experiment, profile=profile)
                self.rows.append((experiment, found))
        self.used: set[tuple[str, str]] = set()

    def find(
        self, data: str, profile: str, name: SetN, method: str, variant: dict[str, Any]
    ) -> list[Result]:
        """Results, a seed each, of the row that a cell of the papers is about.

        A row without a variant of its own fits a variant that its configuration agrees with.

        Raises:
            ValueError: several rows fit; names them.
        """
        exact, main = [], []
        for experiment, results in self.rows:
            where = (experiment.data, experiment.profile, experiment.set, experiment.method)
            if where != (data, profile, name, method):
                continue
            if experiment.variant == variant:
                exact.append((experiment, results))
            elif variant and not experiment.variant and _agrees(experiment, results, variant):
                main.append((experiment, results))
        found = exact or main
        if len(found) > 1:
            names = " and ".join(f"{e.list_name}/{e.row}" for e, _ in found)
            raise ValueError(
                f"{names} both are {method}, Set-{name}, profile {profile}, of {data}: give one of "
                "them a 'variant'"
            )
        for experiment, _ in found:
            self.used.add((experiment.list_name, experiment.row))
        return list(found[0][1].values()) if found else []


def _agrees(experiment: Experiment, results: dict[int, Result], variant: dict[str, Any]) -> bool:
    settings = dict(experiment.settings)
    for result in results.values():
        settings = {**result["test"]["configuration"], **settings}
    return all(name in settings and settings[name] == value for name, value in variant.items())


def participating(folder: Path) -> list[Path]:
    """The lists of a folder that say their profile: those take part in the tables."""
    return [path for path in sorted(folder.glob("*.yaml")) if read_list(path).profile is not None]


def table_lines(table: PublishedTable, measurements: Measurements) -> list[Line]:
    """The lines of one table of scores, Set by Set."""
    keys = [
        (name, row, branch)
        for name in table.sets
        for row in table.rows
        for branch in BRANCHES
        if branch in row.scores.get(name, {})
    ]
    lines = [
        Line(
            name,
            row.label,
            "" if branch == "main" else branch,
            row.scores[name][branch],
            row.marks.get(name, ""),
        )
        for name, row, branch in keys
    ]
    for profile in PROFILES:
        references = {
            name: measurements.find(table.data, profile, name, REFERENCE[0], {})
            for name in table.sets
        }
        compared = []
        for name, row, branch in keys:
            found = measurements.find(table.data, profile, name, row.method, row.variant)
            compared.append(_compare(found, _branch(found, branch, row), references[name]))
        for line, one in zip(lines, corrected(compared), strict=True):
            if one is not None:
                line.measured[profile] = one
    return lines


def corrected(family: Sequence[Measured | None]) -> list[Measured | None]:
    """The same with Holm-corrected p values."""
    values = iter(holm([one.p for one in family if one and one.p is not None]))
    return [one if one is None or one.p is None else replace(one, p=next(values)) for one in family]


def _branch(results: Sequence[Result], branch: str, row: PublishedRow) -> str:
    """The branch of the results that a cell is about.

    A method of one branch may have been run in a network that calls it otherwise.
    """
    if results and sum(len(b) for b in row.scores.values()) == len(row.scores):
        have = list(results[0]["test"]["scores"])
        if branch not in have and len(have) == 1:
            return str(have[0])
    return branch


def _compare(
    results: Sequence[Result], branch: str, reference: Sequence[Result]
) -> Measured | None:
    scores = [pair for result in results if (pair := scores_of(result, branch)) is not None]
    if not scores or len(scores) < len(results):
        return None
    dice, hd95 = [pair[0] for pair in scores], [pair[1] for pair in scores]
    if branch == REFERENCE[1] and list(results) == list(reference):
        return Measured(dice, hd95, is_reference=True)
    test = paired_comparison(results, branch, reference, REFERENCE[1])
    difference, p = test if test else (None, None)
    return Measured(dice, hd95, difference, p)


def score_table(number: str, measurements: Measurements) -> str:
    """Markdown of one table of scores."""
    table = load_published().tables[number]
    lines = table_lines(table, measurements)
    tested = [p for p in PROFILES if any(p in line.measured for line in lines)]
    heads = ["Setting", "Model", "Branch", "Published"]
    for profile in PROFILES:
        heads.append(_PROFILE_NAMES[profile])
        heads += ["Δ Dice, p"] if profile in tested else []
    rows = [heads, ["---"] * 3 + ["---:"] * (len(heads) - 3)]
    for line in lines:
        mark = f"<sup>{line.mark}</sup>" if line.mark else ""
        cells = [set_name(line.set), line.label, line.branch, cell(line.published) + mark]
        for profile in PROFILES:
            one = line.measured.get(profile)
            cells.append(measured_cell(one))
            if profile in tested:
                cells.append(comparison_cell(one))
        rows.append(cells)
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in rows)
    notes = [f"\n<sup>{mark}</sup> {note}\n" for mark, note in table.notes.items()]
    return text + "\n" + _explanation(bool(tested)) + "".join(notes)


def _explanation(tested: bool) -> str:
    text = (
        "Dice in % / HD95 in voxels: means over the test cases, then mean ± sd over the seeds, "
        "whose number stands in brackets."
    )
    if tested:
        text += (
            " Δ Dice: difference from the student of KL+Ent in the same setting, in points, and p "
            "of the Wilcoxon signed-rank test over the test cases (averaged over the seeds that "
            "both have), Holm-corrected over the rows of the table; n/a where the cases differ or "
            "are fewer than six."
        )
    return text + "\n"


def measured_cell(one: Measured | None) -> str:
    """A measured score, or that nobody ran it."""
    if one is None:
        return NOT_RUN
    return f"{mean_sd(one.dice)} / {mean_sd(one.hd95)} ({len(one.dice)})"


def comparison_cell(one: Measured | None) -> str:
    """The comparison with the reference."""
    if one is None:
        return ""
    if one.is_reference:
        return "reference"
    if one.p is None or one.difference is None:
        return "n/a"
    sign = "−" if one.difference < 0 else "+"
    p = "p < 0.001" if one.p < 0.001 else f"p = {one.p:.3f}"
    return f"{sign}{abs(one.difference):.1f}, {p}"


def complexity_table(number: str, results: Path) -> str:
    """Markdown of the table of parameters and times."""
    heads = ["Model", "Parameters, published", "measured", "Time per sample [ms], published"]
    measured = {profile: read_complexity(results, profile) for profile in PROFILES}
    heads += [f"{_PROFILE_NAMES[profile]}: all networks | the one that predicts"
              for profile in PROFILES]  # fmt: skip
    rows = [heads, ["---"] + ["---:"] * 7]
    for row in load_published().complexity[number].rows:
        found = {profile: measured[profile].get(row.bundle) for profile in PROFILES}
        counts = {one["parameters"] for one in found.values() if one}
        cells = [row.method, f"{row.parameters:,}"]
        cells += [" / ".join(f"{n:,}" for n in sorted(counts)) or NOT_RUN, f"{row.milliseconds}"]
        for one in found.values():
            times = (one["milliseconds_all"], one["milliseconds"]) if one else None
            cells += [f"{ms:.1f}" for ms in times] if times else [NOT_RUN, ""]
        rows.append(cells)
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in rows)
    devices = [
        f"{_PROFILE_NAMES[profile]}: {one['device']}, {one['threads']} threads"
        for profile in PROFILES
        for one in list(measured[profile].values())[:1]
    ]
    return text + (
        "\nParameters of all networks that training keeps, averages included, heads left out. The "
        "journal's times (NVIDIA Titan RTX) grow with the number of networks; prediction needs one "
        f"of them.{' Measured on: ' + '; '.join(devices) + '.' if devices else ''}\n"
    )


def read_complexity(results: Path, profile: str) -> dict[str, Any]:
    """Bundle → what ``python -m benchmarks.compare complexity`` has measured."""
    path = results / f"complexity_{profile}.json"
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["bundles"]
    return content


def others_table(measurements: Measurements) -> str:
    """Markdown of the rows that no table of the papers has, as far as they were run."""
    published = load_published()
    for table in published.tables.values():
        table_lines(table, measurements)
    heads = ["List / row", "Model", "Setting", "Branch", "Test", "Δ Dice, p"]
    rows = [heads, ["---"] * 4 + ["---:"] * 2]
    compared: list[tuple[Experiment, str, Measured | None]] = []
    for experiment, results in measurements.rows:
        if not results or (experiment.list_name, experiment.row) in measurements.used:
            continue
        found = list(results.values())
        reference = measurements.find(
            experiment.data, str(experiment.profile), experiment.set, REFERENCE[0], {}
        )
        names = list(found[0]["test"]["scores"])
        compared += [(experiment, b, _compare(found, b, reference)) for b in names]
    tested = corrected([one for _, _, one in compared])
    for (experiment, branch, _), one in zip(compared, tested, strict=True):
        rows.append([f"`{experiment.list_name}/{experiment.row}`", experiment.label,
                     set_name(experiment.set), branch, measured_cell(one),
                     comparison_cell(one)])  # fmt: skip
    if not compared:
        return "No list has further rows.\n"
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows) + "\n" + _explanation(True)


def title(number: str) -> str:
    """Heading of a table."""
    if number == OTHERS:
        return "Rows beyond the papers' tables"
    published = load_published()
    table = published.tables.get(number) or published.complexity[number]
    return f"Table {number}. {table.title}"


def markdown(number: str, measurements: Measurements) -> str:
    """Markdown of a table by its number in the papers, or of :data:`OTHERS`."""
    if number == OTHERS:
        return others_table(measurements)
    if number in load_published().complexity:
        return complexity_table(number, measurements.folder)
    return score_table(number, measurements)


def set_name(name: SetN) -> str:
    """What the tables call Set-N."""
    return "All images" if name == "all" else f"Set-{name}"
