"""What an evaluation leaves behind."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ignite.engine import Engine

from mixseg.handlers import CasePanel, EvaluationReport
from mixseg.metrics import CaseScore


def score(case_id: str, branch: str, dice: float) -> CaseScore:
    return CaseScore(
        case_id=case_id,
        branch=branch,
        class_name="LV",
        dice=dice,
        hd95_vox=2.0,
        assd_vox=1.0,
        hd95_mm=None,
        assd_mm=None,
        empty="",
        reference_voxels=10,
        prediction_voxels=12,
    )


def test_files_and_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dice = {
        ("a", "teacher"): 0.5,
        ("a", "student"): 0.75,
        ("b", "teacher"): 0.25,
        ("b", "student"): 0.125,
    }
    mask = np.eye(6, dtype=np.uint8)
    scorer = SimpleNamespace(
        rows=[score(*key, value) for key, value in dice.items()],
        panels=[
            CasePanel("a", mask.astype(float), mask, mask, mask, mask * 0.5, {"student": 0.75})
        ],
        class_names=["background", "LV"],
    )
    report = EvaluationReport(
        tmp_path / "out", scorer, configuration={"lambda_kd": 50}, seed=3, data_hash="abc"
    )
    engine = Engine(lambda engine, batch: None)
    report.attach(engine)
    engine.run([0])

    with (tmp_path / "out" / "metrics.csv").open(newline="") as file:
        found = {(r["case_id"], r["branch"]): r for r in csv.DictReader(file)}
    assert {key: float(row["dice"]) for key, row in found.items()} == dice
    assert {row["hd95_mm"] for row in found.values()} == {""}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["seed"], summary["data_hash"]) == (3, "abc")
    assert summary["configuration"] == {"lambda_kd": 50}
    student = summary["scores"]["student"]["LV"]
    assert student["dice"]["mean"] == 0.4375  # of 0.75 and 0.125
    assert student["worst"] == {"case_id": "b", "dice": 0.125}
    assert (tmp_path / "out" / "cases.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    printed = capsys.readouterr().out
    for cell in ("teacher", "student", "37.5", "43.8"):
        assert cell in printed.lower()
    assert str(tmp_path / "out") in printed.replace("\n", "")
