"""The files of scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mixseg.metrics.scores import CaseScore
from mixseg.report.scores import read_metrics_csv, write_metrics_csv

HEADER = (
    "case_id,branch,class,dice,hd95_vox,assd_vox,hd95_mm,assd_mm,empty,"
    "reference_voxels,prediction_voxels,iou,precision,recall"
)


OLD_HEADER = HEADER.removesuffix(",iou,precision,recall")


ROW = CaseScore(
    "patient, 7", "teacher", "LV", 1 / 3, 2**0.5, 0.1, None, None, "", 10, 12, 0.5, 0.75, 1.0
)


def test_csv_round_trip(tmp_path: Path) -> None:
    rows = [ROW, replace(ROW, branch="student", hd95_mm=1e-17, assd_mm=0.0, empty="both")]
    path = tmp_path / "new" / "metrics.csv"
    write_metrics_csv(rows, path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == HEADER
    assert (
        lines[1]
        == '"patient, 7",teacher,LV,0.3333333333333333,1.4142135623730951,0.1,,,,10,12,0.5,0.75,1.0'
    )
    assert read_metrics_csv(path) == rows


def test_csv_of_before_there_was_an_iou(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(f"{OLD_HEADER}\na,student,LV,0.5,1.0,2.0,,,,10,12\n", encoding="utf-8")
    row = CaseScore("a", "student", "LV", 0.5, 1.0, 2.0, None, None, "", 10, 12)
    assert (row.iou, row.precision, row.recall) == (None, None, None)
    assert read_metrics_csv(path) == [row]
    # Written again the values are empty cells, and stay unknown.
    write_metrics_csv([row], path)
    assert path.read_text(encoding="utf-8").endswith(",10,12,,,\n")
    assert read_metrics_csv(path) == [row]


def test_csv_without_rows(tmp_path: Path) -> None:
    write_metrics_csv([], tmp_path / "metrics.csv")
    assert read_metrics_csv(tmp_path / "metrics.csv") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"metrics.csv: expected the columns \['case_id', .*, found \[\]"),
        ("case_id,dice\n", r"found \['case_id', 'dice'\]"),
        (
            f"{HEADER}\na,student,LV,x,1,1,,,,1,1,1,1,1\n",
            "metrics.csv, line 2: could not convert .* 'x'",
        ),
        (f"{HEADER}\na,student,LV,1.0,1,1,,,,1,1\n", "line 2: expected 14 cells, found 11"),
        (f"{OLD_HEADER}\na,student,LV,1.0,1,1,,,,1\n", "line 2: expected 11 cells, found 10"),
    ],
)
def test_unreadable_csv(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_metrics_csv(path)
