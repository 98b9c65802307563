"""The published numbers against a second transcription, and against each other."""

from __future__ import annotations

import pytest

from compare.published import load_published

# Transcribed a second time, from notes on the paper: Set-3, Set-5 and Set-10, teacher or the single
# branch (T), student (S), ensemble (E).
TABLE_1 = {
    ("Lower bound", "T"): "54.66/80.05 69.71/51.75 78.28/44.16",
    ("Single", "T"): "57.42/78.80 70.73/51.34 78.17/42.99",
    ("Single+Ent", "T"): "43.01/83.98 74.92/55.24 80.63/37.75",
    ("Upper bound", "T"): "87.17/5.34 87.69/4.93 91.18/3.71",
    ("Decoupled", "T"): "56.61/74.95 70.96/54.42 77.53/32.23",
    ("Decoupled", "S"): "5.01/120.06 4.29/127.68 4.58/125.36",
    ("KL", "T"): "68.25/63.15 80.64/23.25 88.29/12.47",
    ("KL", "S"): "71.49/63.51 79.06/34.83 88.68/11.93",
    ("KL+Ent", "T"): "78.38/46.73 85.57/20.68 86.53/5.64",
    ("KL+Ent", "S"): "86.94/8.84 88.77/5.40 90.92/1.39",
    ("KL+Ent", "E"): "86.35/11.97 88.54/5.49 90.75/1.55",
}
TABLES_2_AND_3 = {
    ("Proposals (Lower bound)", "T"): "63.11/49.99 73.91/45.54 81.31/29.95",
    ("Proposals (KL)", "T"): "74.27/45.44 81.35/20.28 89.26/7.98",
    ("UA-MT", "T"): "70.62/39.06 74.71/30.36 82.67/28.04",
    ("GLMI", "T"): "76.27/11.21 80.58/8.14 88.43/8.04",
    ("SSCO", "T"): "77.16/10.10 81.17/8.15 89.25/2.58",
    ("Lower bound", "T"): "54.66/80.05 69.71/51.75 78.28/44.16",
    ("KL+Ent", "S"): "86.94/8.84 88.77/5.40 90.92/1.39",
}
TABLE_7 = {
    ("Lower bound", "T"): "37.76/42.30 64.86/35.97 77.65/22.45",
    ("Single", "T"): "38.11/34.28 72.06/28.97 79.14/18.22",
    ("Single+Ent", "T"): "41.82/36.54 71.79/28.62 81.72/22.99",
    ("Upper bound", "T"): "85.91/15.10 86.21/14.01 87.15/11.08",
    ("Decoupled", "T"): "57.85/42.04 75.33/29.06 79.18/20.16",
    ("Decoupled", "S"): "18.11/61.53 17.58/61.18 18.11/61.53",
    ("KL", "T"): "61.41/33.63 76.21/26.62 81.50/21.99",
    ("KL", "S"): "66.75/33.71 77.19/28.64 81.01/23.05",
    ("KL+Ent", "T"): "69.94/33.05 78.10/23.64 81.79/21.13",
    ("KL+Ent", "S"): "72.09/32.33 78.50/24.39 83.05/18.93",
    ("KL+Ent", "E"): "71.29/32.16 78.45/23.34 82.36/20.08",
}
BRANCH = {"T": "teacher", "S": "student", "E": "ensemble"}
#: Of rows without a student, and of the table that has the student of KL+Ent alone.
ONLY = {"T": "main", "S": "student"}


def transcribed(table: dict[tuple[str, str], str]) -> dict[tuple[str, int, str], list[float]]:
    return {
        (method, name, BRANCH[branch] if (method, "S") in table else ONLY[branch]): [
            float(number) for number in cell.split("/")
        ]
        for (method, branch), line in table.items()
        for name, cell in zip((3, 5, 10), line.split(), strict=True)
    }


def published(*numbers: str) -> dict[tuple[str, int | str, str], list[float]]:
    return {
        (row.method, name, branch): score
        for number in numbers
        for row in load_published().tables[number].rows
        for name, branches in row.scores.items()
        for branch, score in branches.items()
    }


@pytest.mark.parametrize(
    ("numbers", "table", "all_images"),
    [
        (("1",), TABLE_1, [93.31, 3.46]),
        (("2", "3"), TABLES_2_AND_3, None),
        (("7",), TABLE_7, [91.30, 5.01]),
    ],
)
def test_published_scores_are_the_papers(
    numbers: tuple[str, ...],
    table: dict[tuple[str, str], str],
    all_images: list[float] | None,
) -> None:
    found = published(*numbers)
    assert found.pop(("Upper bound", "all", "main"), None) == all_images
    assert found == transcribed(table)


def test_published_sweeps_are_the_papers() -> None:
    tables = load_published().tables
    dice = {
        number: [next(iter(row.scores[3].values()))[0] for row in table.rows]
        for number, table in tables.items()
    }
    # λ_kd 0.1 to 1000, λ_w 1 to 1e-4, divergences, λ_ent of the single branch (rising).
    assert dice["4"] == [66.36, 71.31, 85.87, 86.94, 83.92, 76.20]
    assert dice["5"] == [80.55, 84.09, 85.40, 86.94, 81.24]
    assert dice["6"] == [86.94, 86.98, 88.04, 86.89, 85.57]
    assert dice["A.3"] == [57.42, 51.32, 43.01, 38.61]
    hd95 = [row.scores[3]["student"][1] for row in tables["6"].rows]
    assert hd95 == [8.84, 5.26, 6.43, 10.24, 11.77]
    assert [row.label for row in tables["5"].rows][::4] == ["λ_w = 1", "λ_w = 0.0001"]


def test_rows_that_the_papers_repeat_agree_but_where_a_note_says_so() -> None:
    tables = load_published().tables
    main = {("1", "KL+Ent", "student"), ("1", "KL", "student"), ("1", "Single", "main"),
            ("1", "Single+Ent", "main"), ("3", "UA-MT", "main"), ("3", "GLMI", "main"),
            ("3", "SSCO", "main")}  # fmt: skip
    repeated = {"4": {"lambda_kd": 50}, "5": {"lambda_w": 0.001}, "6": {"divergence": "kl"},
                "A.1": {"lambda_w": 0.001}, "A.2": {"lambda_kd": 50}, "A.3": {"lambda_ent": 1},
                "B.4": {"lambda_con": 0.1}, "B.5": {"lambda_global": 1, "lambda_local": 0.1},
                "B.6": {"lambda_co": 0.5, "lambda_sc": 4}}  # fmt: skip
    different = set()
    for number, variant in repeated.items():
        (row,) = [row for row in tables[number].rows if row.variant == variant]
        ((first, _, branch),) = [key for key in main if key[1] == row.method]
        for name, branches in row.scores.items():
            score = branches[branch]
            if published(first)[(row.method, name, branch)][: len(score)] != score:
                different.add((number, name))
                assert row.marks[name] in tables[number].notes
    assert different == {("A.2", 3), ("A.2", 5), ("A.2", 10), ("B.4", 3)}
    assert tables["7"].rows[4].scores[3]["student"] == tables["7"].rows[4].scores[10]["student"]
    assert tables["7"].rows[4].marks == {10: "a"}


def test_table_8_is_made_of_networks_of_two_kinds() -> None:
    rows = {row.method: row for row in load_published().complexity["8"].rows}
    single = rows["Single branch"].parameters
    assert single == rows["GLMI"].parameters == 31_042_434
    assert rows["Dual branch (KL+Ent)"].parameters == 41_137_220
    assert rows["UA-MT"].parameters == 2 * single == 62_084_868
    assert rows["SSCO"].parameters == 8 * single == 248_339_472
    assert [row.milliseconds for row in rows.values()] == [4.9, 4.9, 7.1, 9.9, 37.6]
