"""Summaries against Python's statistics module, strict JSON, tables and provenance."""

from __future__ import annotations

import io
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mixseg.metrics import CaseScore, summarize
from mixseg.report.scores import write_summary
from mixseg.report.tables import markdown_table, print_scores, score_table

DICE = [0.91, 0.3, 0.85, 0.3]
HD95 = [1.5, 40.0, 3.25, 12.0]


def _row(index: int, branch: str = "student", **changes: Any) -> CaseScore:
    values: dict[str, Any] = {
        "case_id": f"case{index}",
        "branch": branch,
        "class_name": "LV",
        "dice": DICE[index],
        "hd95_vox": HD95[index],
        "assd_vox": HD95[index] / 2,
        "hd95_mm": None,
        "assd_mm": None,
        "empty": "",
        "reference_voxels": 100,
        "prediction_voxels": 90,
    }
    return CaseScore(**{**values, **changes})


def test_numbers_equal_the_statistics_module() -> None:
    rows = [_row(0, hd95_mm=2.0, assd_mm=1.0), _row(1), _row(2, empty="prediction"), _row(3)]
    item = summarize(rows)["student"]["LV"]
    assert item["n"] == 4
    for name, values in (("dice", DICE), ("hd95_vox", HD95), ("assd_vox", [h / 2 for h in HD95])):
        assert item[name]["mean"] == pytest.approx(statistics.mean(values), rel=1e-14)
        assert item[name]["sd"] == pytest.approx(statistics.stdev(values), rel=1e-14)
        assert item[name]["n"] == 4
    assert item["hd95_mm"]["mean"] == 2.0
    assert item["hd95_mm"]["n"] == 1
    assert np.isnan(item["hd95_mm"]["sd"])
    # Rows of a file of before: unknown, not zero.
    assert item["iou"]["n"] == item["precision"]["n"] == item["recall"]["n"] == 0
    assert item["worst"] == {"case_id": "case1", "dice": 0.3}
    assert item["empty"] == {"prediction": 1, "reference": 0, "both": 0}


def test_overlaps_take_part_where_they_are_known() -> None:
    rows = [
        _row(0, iou=0.5, precision=1.0, recall=0.5),
        _row(1, iou=0.25, precision=0.25, recall=1.0),
        _row(2),
    ]
    item = summarize(rows)["student"]["LV"]
    assert item["n"] == 3
    # sd of two values: their difference over √2.
    assert item["iou"] == {"mean": 0.375, "sd": pytest.approx(0.25 / 2**0.5), "n": 2}
    assert item["precision"] == {"mean": 0.625, "sd": pytest.approx(0.75 / 2**0.5), "n": 2}
    assert item["recall"] == {"mean": 0.75, "sd": pytest.approx(0.5 / 2**0.5), "n": 2}


def test_branches_and_classes_are_kept_apart_and_ordered() -> None:
    rows = [
        _row(0, "ema"),
        _row(0, "ensemble", class_name="RV"),
        _row(1, "ensemble"),
        _row(2, "student"),
        _row(3, "teacher"),
        _row(1, "main"),
    ]
    summary = summarize(rows)
    assert list(summary) == ["main", "teacher", "student", "ensemble", "ema"]
    assert list(summary["ensemble"]) == ["RV", "LV"]
    assert summary["ensemble"]["RV"]["dice"]["mean"] == 0.91
    assert summarize([]) == {}


def test_markdown_table() -> None:
    # Teacher: mean of 0.91 and 0.3 is 0.605, sd 0.61/√2 = 0.4313; HD95 20.75 ± 38.5/√2 = 27.22;
    # ASSD is half of it, 10.375 ± 13.61 (10.38 in the table). The student has one case: no sd.
    rows = [_row(2), _row(0, "teacher"), _row(1, "teacher", empty="both")]
    assert markdown_table(rows).splitlines() == [
        "| Branch | Class | n | Dice [%] | HD95 [voxels] | ASSD [voxels] "
        "| Empty: prediction / reference / both |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
        "| teacher | LV | 2 | 60.5 ± 43.1 | 20.75 ± 27.22 | 10.38 ± 13.61 | 0 / 0 / 1 |",
        "| student | LV | 1 | 85.0 | 3.25 | 1.62 | 0 / 0 / 0 |",
    ]
    with_mm = markdown_table([_row(0, hd95_mm=2.0, assd_mm=0.5), _row(0, "teacher")]).splitlines()
    assert "| HD95 [mm] | ASSD [mm] |" in with_mm[0]
    assert "| 1.50 | 0.75 | – | – |" in with_mm[2]
    assert "| 1.50 | 0.75 | 2.00 | 0.50 |" in with_mm[3]


def test_terminal_table_holds_the_same_cells() -> None:
    rows = [_row(0, "teacher"), _row(1, "teacher"), _row(2)]
    screen = io.StringIO()
    Console(width=200, file=screen).print(score_table(rows))
    text = screen.getvalue()
    for line in markdown_table(rows).splitlines()[2:]:
        for cell in line.strip("| ").split(" | "):
            assert cell in text


def test_a_narrow_terminal_cuts_no_cell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    rows = [_row(0, "teacher", hd95_mm=2.0, assd_mm=0.5), _row(1, "teacher")]
    print_scores(rows)
    text = capsys.readouterr().out
    for line in markdown_table(rows).splitlines()[2:]:
        for cell in line.strip("| ").split(" | "):
            assert cell in text


def _reject(constant: str) -> None:
    raise AssertionError(f"{constant} is not strict JSON")


def test_summary_file(tmp_path: Path) -> None:
    path = tmp_path / "run" / "summary.json"
    write_summary(
        path,
        [_row(0)],
        configuration={"lambda_kd": 50.0, "device": Path("cpu"), "rate": np.float32(0.5)},
        seed=3,
        data_hash="abc",
        extra={"best_epoch": np.int64(7)},
    )
    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_reject)
    assert content["scores"]["student"]["LV"]["dice"] == {"mean": 0.91, "sd": None, "n": 1}
    assert content["scores"]["student"]["LV"]["hd95_mm"] == {"mean": None, "sd": None, "n": 0}
    assert content["configuration"] == {"lambda_kd": 50.0, "device": "cpu", "rate": 0.5}
    assert (content["seed"], content["data_hash"], content["best_epoch"]) == (3, "abc", 7)
    assert {"python", "torch", "monai", "mixseg", "numpy"} <= set(content["versions"])
    assert {"git_commit", "hardware", "date"} <= set(content)
    with pytest.raises(ValueError, match=r"would replace \['seed'\]"):
        write_summary(path, [], configuration={}, seed=0, data_hash=None, extra={"seed": 1})
