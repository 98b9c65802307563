"""What the result files of an experiment list say: scores over seeds, and paired tests."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import wilcoxon

from mixseg.apps.self_train.plan import round_settings

from .list import Experiment

__all__ = [
    "OutdatedError", "case_dice", "check_configuration", "holm", "mean_sd",
    "paired_comparison", "paired_test",
    "read_results", "report_value", "result_path", "score_of", "scores_of", "shared_path",
]  # fmt: skip

#: Fewest test cases of a paired test: with five, no outcome reaches 0.05.
FEWEST_CASES = 6

Result = dict[str, Any]


class OutdatedError(ValueError):
    """A result file that does not belong to the row that names it."""


def result_path(results: Path, experiment: Experiment, seed: int) -> Path:
    """Where a row's result lies below the folder that has one folder a list."""
    return results / experiment.list_name / f"{experiment.row}_seed{seed}.json"


def shared_path(results: Path, experiment: Experiment, seed: int) -> Path | None:
    """Where it lies if the row that it shares results with has been run; None without one."""
    if experiment.same_as is None:
        return None
    name, row = experiment.same_as
    return results / name / f"{row}_seed{seed}.json"


def read_results(results: Path, experiment: Experiment) -> dict[int, Result]:
    """Seed → content of the result file, for the seeds of the row that were run.

    Raises:
        OutdatedError: a file was made with other settings than the list now has.
        ValueError: a file cannot be read.
    """
    found = {}
    for seed in experiment.seeds:
        places = (result_path(results, experiment, seed), shared_path(results, experiment, seed))
        path = next((place for place in places if place is not None and place.is_file()), None)
        if path is None:
            continue
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"'{path}' is not a result file: {error}") from error
        settings = experiment.settings
        if experiment.start_from is not None:
            settings = settings | round_settings(settings)
        check_configuration(path, result, settings)
        found[seed] = result
    return found


def check_configuration(path: Path, result: Result, settings: Mapping[str, Any]) -> None:
    """Refuse a result that was made with other settings than the list now has.

    Raises:
        OutdatedError: naming the file and the setting.
    """
    used = result["test"]["configuration"]
    for name, value in settings.items():
        if name in used and used[name] != value:
            raise OutdatedError(
                f"{path} was made with {name} = {used[name]}, the list says {value}: run it again"
            )


def scores_of(result: Result, branch: str, split: str = "test") -> tuple[float, float] | None:
    """Dice in % and HD95 in voxels, means over the cases and then over the classes.

    None where the branch was not trained.
    """
    dice, distance = (score_of(result, branch, key, split) for key in ("dice", "hd95_vox"))
    return None if dice is None or distance is None else (100 * dice, distance)


def score_of(result: Result, branch: str, key: str, split: str = "test") -> float | None:
    """A score as summary.json has it, mean over the cases and then over the classes.

    None where the branch was not trained, or the file is older than the score.
    """
    classes = result[split]["scores"].get(branch, {})
    means = [item.get(key, {}).get("mean") for item in classes.values()]
    return None if not means or None in means else statistics.fmean(means)


def report_value(result: Result, place: str) -> float | None:
    """The last line's value of a column of a table that the training wrote.

    Args:
        result: content of a result file.
        place: ``NAME.COLUMN``.

    Returns:
        None where the training wrote no such table or column, or left the cell empty.
    """
    name, column = place.split(".")
    rows = list(csv.DictReader(result.get("reports", {}).get(name, [])))
    return float(rows[-1][column]) if rows and rows[-1].get(column) else None


def mean_sd(values: Sequence[float], digits: int = 1) -> str:
    """Mean ± standard deviation (n − 1); the mean alone of a single value.

    Examples:
        >>> mean_sd([80.0, 90.0]), mean_sd([3.0])
        ('85.0 ± 7.1', '3.0')
    """
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def case_dice(results: Sequence[Result], branch: str) -> dict[str, float] | None:
    """Test case → Dice in %, mean over classes and seeds; None where the seeds' cases differ."""
    seeds: list[dict[str, float]] = []
    for result in results:
        cases: dict[str, list[float]] = {}
        for row in result["cases"]:
            if row["branch"] == branch:
                cases.setdefault(row["case_id"], []).append(100 * float(row["dice"]))
        seeds.append({name: statistics.fmean(values) for name, values in cases.items()})
    if not seeds or not seeds[0] or any(set(seed) != set(seeds[0]) for seed in seeds):
        return None
    return {name: statistics.fmean(seed[name] for seed in seeds) for name in sorted(seeds[0])}


def paired_test(
    values: Mapping[str, float] | None, reference: Mapping[str, float] | None
) -> tuple[float, float] | None:
    """Mean difference from the reference, and p of the two-sided Wilcoxon signed-rank test.

    None where the cases differ or are fewer than :data:`FEWEST_CASES`.

    Args:
        values: test case → score, see :func:`case_dice`.
        reference: of the method to compare with.
    """
    if values is None or reference is None or set(values) != set(reference):
        return None
    if len(values) < FEWEST_CASES:
        return None
    differences = [values[name] - reference[name] for name in sorted(values)]
    # SciPy has no p where no case differs.
    p = float(wilcoxon(differences).pvalue) if any(differences) else 1.0
    return statistics.fmean(differences), p


def paired_comparison(
    results: Sequence[Result], branch: str, reference: Sequence[Result], reference_branch: str
) -> tuple[float, float] | None:
    """:func:`paired_test` of two rows over the seeds that both have.

    A seed that only one of them has would count as a difference of the methods.
    """
    seeds = {one["seed"] for one in results} & {one["seed"] for one in reference}
    own, other = ([one for one in row if one["seed"] in seeds] for row in (results, reference))
    return paired_test(case_dice(own, branch), case_dice(other, reference_branch))


def holm(values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of the p values of a family, in their order.

    Examples:
        >>> holm([0.25, 0.125])  # the smaller one twice; the other one is not to be below it
        [0.25, 0.25]
    """
    corrected = [0.0] * len(values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, (len(values) - rank) * values[place])
        corrected[place] = min(1.0, largest)
    return corrected
