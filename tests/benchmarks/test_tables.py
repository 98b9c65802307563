"""The tables: cells of made-up results against hand-computed values and SciPy."""

from __future__ import annotations

import itertools
import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import wilcoxon
from typer.testing import CliRunner, Result

from compare.__main__ import compare_app
from compare.list import experiments
from compare.published import load_published
from compare.results import (
    OutdatedError,
    case_dice,
    holm,
    mean_sd,
    paired_comparison,
    paired_test,
    read_results,
    score_of,
    scores_of,
)
from compare.tables import Measurements, markdown, table_lines

from .compare_toys import CASES, case_rows, write_list, write_result


def test_mean_and_spread_over_seeds() -> None:
    # Mean 4; squared deviations 4 + 0 + 4 over n − 1 = 2: sd 2.
    assert mean_sd([2.0, 4.0, 6.0]) == "4.0 ± 2.0"
    assert mean_sd([3.14159], 2) == "3.14"


def test_cases_are_averaged_over_classes_and_seeds() -> None:
    one, other = ({"cases": case_rows({"student": dice})} for dice in ([0.2, 0.4], [0.4, 0.8]))
    one["cases"].append({**one["cases"][0], "class": "RV", "dice": "0.6"})
    # First case: (0.2 + 0.6)/2 = 0.4 and 0.4; second: 0.4 and 0.8.
    assert case_dice([one, other], "student") == pytest.approx({CASES[0]: 40.0, CASES[1]: 60.0})
    assert case_dice([one, other], "teacher") is None
    assert case_dice([one, {"cases": other["cases"][:1]}], "student") is None


def test_the_paired_test_is_scipys_on_the_differences() -> None:
    first = dict(zip(CASES, [81.0, 72.5, 90.25, 64.0, 55.5, 70.0, 88.0, 91.5], strict=True))
    second = dict(zip(CASES, [80.0, 74.5, 87.25, 60.0, 50.5, 64.0, 81.0, 83.5], strict=True))
    # Differences 1, -2, 3, 4, 5, 6, 7, 8: ranks equal them, the negative rank sum is 2. Of the 256
    # sign patterns 3 (sums 0, 1, 2) are so extreme on one side: p = 6/256.
    difference, p = paired_test(first, second) or (0.0, 0.0)
    assert difference == pytest.approx((1 - 2 + 3 + 4 + 5 + 6 + 7 + 8) / 8)
    assert p == pytest.approx(6 / 256)
    assert p == wilcoxon([1, -2, 3, 4, 5, 6, 7, 8]).pvalue
    # The order of the cases does not matter.
    assert paired_test(dict(reversed(first.items())), second) == (difference, p)


def test_there_is_no_test_of_other_or_too_few_cases() -> None:
    values = dict.fromkeys(CASES, 1.0)
    assert paired_test(values, {**values, "one more": 1.0}) is None
    assert paired_test(values, None) is None
    few = dict.fromkeys(CASES[:5], 1.0)
    assert paired_test(few, few) is None
    assert paired_test(values, values) == (0.0, 1.0)


def test_rows_are_compared_over_the_seeds_that_both_have() -> None:
    # The second seed, which one row alone has, is 50 points below the first.
    first = [81.0, 72.5, 90.25, 64.0, 55.5, 70.0, 88.0, 91.5]
    second = [80.0, 74.5, 87.25, 60.0, 50.5, 64.0, 81.0, 83.5]

    def row(seed: int, values: list[float]) -> dict[str, Any]:
        cases = [
            {"case_id": case, "branch": "student", "class": "LV", "dice": str(value / 100)}
            for case, value in zip(CASES, values, strict=True)
        ]
        return {"seed": seed, "cases": cases}

    reference = [row(1, [value - 50 for value in second]), row(0, second)]
    found = paired_comparison([row(0, first)], "student", reference, "student")
    assert found == pytest.approx((4.0, 6 / 256))  # as in the test of the paired test
    assert paired_comparison([row(2, first)], "student", reference, "student") is None


def test_holms_correction() -> None:
    # Holm 1979: sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1, never falling.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_score_is_the_mean_over_the_classes_of_what_a_file_has() -> None:
    scores = {"LV": {"dice": {"mean": 0.5}, "iou": {"mean": 0.25}}, "RV": {"dice": {"mean": 0.75}}}
    result = {"test": {"scores": {"teacher": scores}}}
    assert score_of(result, "teacher", "dice") == 0.625
    assert score_of(result, "teacher", "iou") is None  # one class is older than the score
    assert score_of(result, "student", "dice") is None
    scores["RV"]["iou"] = {"mean": None}  # unknown for every case
    assert score_of(result, "teacher", "iou") is None
    assert scores_of(result, "teacher") is None


REFERENCE = [0.80, 0.82, 0.84, 0.86, 0.88, 0.90, 0.92, 0.94]
ROWS = {
    "best": {},
    "low": {"method": "Lower bound"},
    "kl": {"method": "KL"},
    "few": {"method": "Decoupled"},
    "upper": {"method": "Upper bound", "set": 3},
    "w1": {"variant": {"lambda_w": 1}},
}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Made-up results of the list that :func:`measurements` reads."""
    folder = tmp_path / "results"
    lower = [value - 0.01 * (i + 1) for i, value in enumerate(REFERENCE)]
    # KL's student: differences -1, 2, ..., 8 points.
    kl = [v + 0.01 * (-1 if i == 0 else i + 1) for i, v in enumerate(REFERENCE)]
    for seed, shift in ((0, -0.05), (1, 0.05)):
        student, below, kl_student = (
            [value + shift for value in values] for values in (REFERENCE, lower, kl)
        )
        branches = {"teacher": lower, "student": student, "ensemble": student}
        write_result(folder, "toy/best", seed, branches)
        write_result(folder, "toy/low", seed, {"teacher": below})
        write_result(folder, "toy/kl", seed, {"teacher": student, "student": kl_student})
    write_result(folder, "toy/few", 0, {"teacher": REFERENCE[:5], "student": REFERENCE[:5]})
    return folder


@pytest.fixture
def measurements(results: Path, tmp_path: Path) -> Measurements:
    path = write_list(tmp_path, data="acdc", common={}, rows=ROWS)
    return Measurements([path], results)


def line_of(text: str, *begins: str) -> list[str]:
    (cells,) = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if [cell.strip() for cell in line.strip("|").split("|")][: len(begins)] == list(begins)
    ]
    return cells


def test_a_table_has_both_values_and_the_test(measurements: Measurements) -> None:
    text = markdown("1", measurements)
    assert text.splitlines()[0] == (
        "| Setting | Model | Branch | Published | CPU profile | Δ Dice, p | GPU profile |"
    )
    # Seeds' means 82 and 92 %: 87 ± 10/√2 = 7.07; HD95 is ten times the fraction: 8.2 and 9.2.
    assert line_of(text, "Set-3", "KL+Ent", "student")[3:] == [
        "86.94 / 8.84", "87.0 ± 7.1 / 8.7 ± 0.7 (2)", "reference", "–",
    ]  # fmt: skip
    # Lower bound: all eight differences negative, mean −4.5, exact p = 2/256. KL's student, worked
    # out as in the test of the paired test: rank sum 1 of 36, p = 4/256. Its teacher equals the
    # reference.
    values = {
        key: line_of(text, "Set-3", *key)[5]
        for key in itertools.product(["KL"], ["teacher", "student"])
    }
    family = json_family(measurements)
    assert family["Lower bound", ""][0] == pytest.approx(2 / 256)
    assert family["KL", "student"][0] == pytest.approx(4 / 256)
    corrected = dict(zip(family, holm([p for p, _ in family.values()]), strict=True))
    assert values["KL", "student"] == f"+4.2, p = {corrected['KL', 'student']:.3f}"
    assert line_of(text, "Set-3", "Lower bound", "")[4:6] == [
        "82.5 ± 7.1 / 8.2 ± 0.7 (2)", f"−4.5, p = {corrected['Lower bound', '']:.3f}",
    ]  # fmt: skip


def test_a_method_of_one_branch_is_found_by_either_name(
    results: Path, tmp_path: Path, measurements: Measurements
) -> None:
    """It may have been run in a network of one branch, or in one of two whose teacher learned."""
    before = line_of(markdown("1", measurements), "Set-3", "Lower bound", "")
    for path in (results / "toy").glob("low_seed*.json"):
        path.write_text(path.read_text().replace('"teacher"', '"main"'))
    path = tmp_path / "toy.yaml"
    after = line_of(markdown("1", Measurements([path], results)), "Set-3", "Lower bound", "")
    assert after == before
    assert after[4].startswith("82.5 ± 7.1")


def json_family(measurements: Measurements) -> dict[tuple[str, str], tuple[float, float]]:
    """Uncorrected p and mean difference of each measured line of Table 1, by SciPy alone."""
    rows = {experiment.row: found for experiment, found in measurements.rows}
    keys = [("Lower bound", "", "low", "teacher"), ("KL", "teacher", "kl", "teacher"),
            ("KL", "student", "kl", "student"), ("KL+Ent", "teacher", "best", "teacher"),
            ("KL+Ent", "ensemble", "best", "ensemble")]  # fmt: skip
    seeds = [case_dice([rows["best"][seed]], "student") or {} for seed in (0, 1)]
    reference = {case: statistics.fmean(seed[case] for seed in seeds) for case in CASES}
    family = {}
    for method, branch, row, stored in keys:
        values = case_dice(list(rows[row].values()), stored) or {}
        differences = [values[case] - reference[case] for case in CASES]
        p = float(wilcoxon(differences).pvalue) if any(differences) else 1.0
        family[method, branch] = (p, statistics.fmean(differences))
    return family


def test_cells_without_a_result_say_so(measurements: Measurements) -> None:
    text = markdown("1", measurements)
    assert line_of(text, "Set-5", "KL+Ent", "student")[4:] == ["–", "", "–"]
    assert line_of(text, "Set-3", "Upper bound")[4:] == ["–", "", "–"]
    # Five cases are too few for a test.
    assert line_of(text, "Set-3", "Decoupled", "student")[4:6] == ["84.0 / 8.4 (1)", "n/a"]
    # Where nothing of a table was run, there is no column for the test.
    assert markdown("7", measurements).splitlines()[0].count("|") == 7
    assert "–" in markdown("8", measurements)


def test_notes_stand_below_their_table(measurements: Measurements) -> None:
    text = markdown("A.2", measurements)
    assert line_of(text, "Set-3", "λ_kd = 50", "student")[3] == "71.41 / 61.37<sup>a</sup>"
    assert "<sup>a</sup> Table 1 gives the same model, KL, other values" in text
    assert "voxels only" in markdown("7", measurements)


def test_a_sweep_takes_the_variant_or_the_main_row_that_agrees(
    results: Path, tmp_path: Path
) -> None:
    configuration = {"lambda_w": 0.001}
    for seed in (0, 1):
        write_result(results, "toy/best", seed, {"student": REFERENCE}, configuration)
    write_result(results, "toy/w1", 0, {"student": [0.5] * 8}, {"lambda_w": 1})
    path = write_list(tmp_path, data="acdc", common={}, rows=ROWS)
    text = markdown("5", Measurements([path], results))
    assert line_of(text, "Set-3", "λ_w = 1")[4] == "50.0 / 5.0 (1)"
    assert line_of(text, "Set-3", "λ_w = 0.001")[4:6] == [
        "87.0 ± 0.0 / 8.7 ± 0.0 (2)", "reference",
    ]  # fmt: skip
    assert line_of(text, "Set-3", "λ_w = 0.01")[4] == "–"
    # Nothing says which λ_kd the main row had.
    assert line_of(markdown("4", Measurements([path], results)), "Set-3", "λ_kd = 50")[4] == "–"


def test_rows_that_no_table_has_stand_apart(results: Path, tmp_path: Path) -> None:
    path = write_list(tmp_path, data="acdc", common={}, rows=ROWS)
    assert markdown("others", Measurements([path], results)) == "No list has further rows.\n"
    rows = {**ROWS, "mine": {"method": "Mine"}, "hand": {"weak_label": "drawn"}}
    write_result(results, "toy/mine", 0, {"teacher": [0.5] * 8})
    text = markdown(
        "others",
        Measurements([write_list(tmp_path, data="acdc", common={}, rows=rows)], results),
    )
    # All eight cases are below the reference, which is at 82 in the seed that both have: p = 2/256,
    # the only test of the family.
    assert line_of(text, "`toy/mine`")[1:] == [
        "Mine", "Set-3", "teacher", "50.0 / 5.0 (1)", "−32.0, p = 0.008",
    ]  # fmt: skip
    assert "toy/hand" not in text  # nobody ran it


def test_two_rows_for_a_cell_are_refused(results: Path, tmp_path: Path) -> None:
    path = write_list(tmp_path, data="acdc", common={}, rows={"best": {}, "again": {}})
    with pytest.raises(ValueError, match=r"toy/best and toy/again both are KL\+Ent, Set-3"):
        markdown("1", Measurements([path], results))


def test_a_result_of_other_settings_is_refused(results: Path, tmp_path: Path) -> None:
    write_result(results, "toy/low", 0, {"teacher": REFERENCE}, {"lr": 0.25})
    path = write_list(tmp_path, data="acdc", rows={"low": {"method": "Lower bound"}})
    (row,) = experiments(path)
    with pytest.raises(OutdatedError, match=r"low_seed0\.json was made with lr = 0\.25, the list"):
        read_results(results, row)


@pytest.mark.parametrize(
    ("noisy_as", "found"),
    [
        ("full", {"noisy_as": "full", "num_partial": 0, "batch_partial": 0}),
        ("partial", {"noisy_as": "partial", "num_partial": 0, "batch_partial": 4}),
    ],
)
def test_results_of_a_self_training_say_what_its_rounds_trained_on(
    results: Path, tmp_path: Path, noisy_as: str, found: dict[str, Any]
) -> None:
    common = {"num_full": 3, "num_partial": 15, "batch_partial": 4}
    rows = {"low": {}, "again": {"start_from": "low", "noisy_as": noisy_as}}
    path = write_list(tmp_path, data="acdc", common=common, rows=rows)
    row = next(one for one in experiments(path) if one.row == "again")
    write_result(results, "toy/again", 0, {"teacher": REFERENCE}, found)
    assert list(read_results(results, row)) == [0]
    # As if the proposals had been left out.
    write_result(results, "toy/again", 0, {"teacher": REFERENCE}, {**found, "num_partial": 15})
    with pytest.raises(OutdatedError, match="with num_partial = 15, the list says 0"):
        read_results(results, row)


def test_shared_results_fill_the_table(results: Path, tmp_path: Path) -> None:
    write_list(tmp_path, data="acdc", common={}, rows={"low": {}})
    path = write_list(
        tmp_path, "other", data="acdc", common={}, seeds=[0],
        rows={"x": {"same_as": "toy/low", "method": "Lower bound"}},
    )  # fmt: skip
    measured = Measurements([path], results)
    (line,) = [
        line for line in table_lines(load_published().tables["1"], measured)
        if (line.set, line.label) == (3, "Lower bound")
    ]  # fmt: skip
    assert line.measured["cpu"].dice == pytest.approx([77.5])  # the first of the row's two seeds


def compare(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "600"}).invoke(compare_app, list(map(str, arguments)))


def test_the_command_writes_tables_and_figures_once(results: Path, tmp_path: Path) -> None:
    path = write_list(tmp_path, data="acdc", common={}, rows=ROWS)
    output = tmp_path / "comparison"
    options = [path, "--results", results, "--output", output]
    assert "out of date in" in compare("tables", *options, "--check").output
    assert compare("tables", *options).exit_code == 0
    names = ["1", "2", "3", "4", "5", "6", "7", "8", "A1", "A2", "A3", "B4", "B5", "B6"]
    wanted = [f"table_{name}.{kind}" for name in names for kind in ("md", "png")]
    assert sorted(p.name for p in output.iterdir()) == sorted([*wanted, "index.md", "others.md"])
    text = (output / "table_1.md").read_text()
    assert text.startswith("# Table 1. ACDC, left ventricle")
    assert "](table_1.png)" in text
    before = {p: p.stat().st_mtime_ns for p in output.iterdir()}
    again = compare("tables", *options)
    assert (again.exit_code, again.output) == (0, "")
    assert {p: p.stat().st_mtime_ns for p in output.iterdir()} == before
    checked = compare("tables", *options, "--check")
    assert (checked.exit_code, checked.output) == (0, "up to date\n")
    write_result(results, "toy/kl", 1, {"teacher": REFERENCE, "student": REFERENCE})
    checked = compare("tables", *options, "--check")
    assert checked.exit_code == 1
    assert "table_1.md, table_1.png" in checked.output


def test_complexity_is_kept_a_bundle(tmp_path: Path) -> None:
    one = {"parameters": 41137220, "networks": 1, "milliseconds": 123.4, "milliseconds_all": 123.4,
           "sample": [1, 1, 256, 256], "device": "a processor", "threads": 2}  # fmt: skip
    content = {"bundles": {"acdc_lv_confkd": one}}
    (tmp_path / "complexity_cpu.json").write_text(json.dumps(content))
    text = markdown("8", Measurements([], tmp_path))
    assert line_of(text, "Dual branch (KL+Ent)")[1:] == [
        "41,137,220", "41,137,220", "7.1", "123.4", "123.4", "–", "",
    ]  # fmt: skip
    assert line_of(text, "SSCO")[1:] == [
        "248,339,472", "–", "37.6", "–", "", "–", "",
    ]  # fmt: skip
    assert "Measured on: CPU profile: a processor, 2 threads." in text
