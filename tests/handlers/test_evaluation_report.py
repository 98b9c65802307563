"""What an evaluation leaves behind."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from mixseg.handlers import CaseScorer, EvaluationReport
from mixseg.handlers import evaluation_report as report
from mixseg.metrics import CaseScore
from mixseg.report.cases import CasePanel
from mixseg.report.surfaces import pyvista_is_installed, rendering_problem


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
        spacings={"a": [1.0, 1.0, 2.0], "b": None},
        ranked_panels=lambda: scorer.panels,
    )
    report = EvaluationReport(
        tmp_path / "out",
        scorer,
        configuration={"lambda_kd": 50},
        seed=3,
        data_hash="abc",
        surfaces=False,
        groups={"a": {"phase": "ED"}, "of another split": {"phase": "ES"}},
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
    assert summary["spacing_mm"] == {"a": [1.0, 1.0, 2.0], "b": None}
    assert summary["groups"] == {"a": {"phase": "ED"}}
    for name in ("cases.png", "best_median_worst.png"):
        assert (tmp_path / "out" / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "Best, median and worst case" in (tmp_path / "out" / "report.html").read_text()
    printed = capsys.readouterr().out
    for cell in ("teacher", "student", "37.5", "43.8"):
        assert cell in printed.lower()
    assert str(tmp_path / "out") in printed.replace("\n", "")


def evaluate(folder: Path, surfaces: bool | None) -> None:
    """One volume with a ball in it, predicted as it is."""
    axes = np.meshgrid(*[np.arange(12) - 5.5] * 3, indexing="ij")
    ball = torch.from_numpy((np.linalg.norm(np.stack(axes), axis=0) < 4).astype(np.uint8))
    label = MetaTensor(ball[None], affine=np.diag([0.625, 0.625, 0.625, 1.0]))
    batch = {"label": label, "native": label.clone(), "case_id": "a"}
    engine = Engine(lambda engine, batch: [{"student": torch.stack([1.0 - ball, 1.0 * ball])}])
    engine.data_loader = [[batch]]  # type: ignore[attr-defined]
    scorer = CaseScorer(["background", "LA"], planes="all")
    scorer.attach(engine)
    EvaluationReport(
        folder, scorer, configuration={}, seed=0, data_hash="abc", surfaces=surfaces
    ).attach(engine)
    engine.run(engine.data_loader)  # type: ignore[attr-defined]


@pytest.mark.parametrize("surfaces", [None, True, False])
def test_surfaces_are_rendered_where_they_can_be(tmp_path: Path, surfaces: bool | None) -> None:
    if not pyvista_is_installed() or rendering_problem():
        pytest.skip("nothing can be rendered here")
    evaluate(tmp_path, surfaces)
    files = ["best_median_worst.png", "cases.png", "metrics.csv", "report.html", "summary.json"]
    if surfaces is not False:
        files.append("surfaces.png")
        assert (tmp_path / "surfaces.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == files


def test_surfaces_need_pyvista(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "pyvista_is_installed", lambda: False)
    with pytest.raises(
        ImportError, match=r"^surfaces.png needs PyVista: pip install 'mixseg\[surfaces\]'$"
    ):
        evaluate(tmp_path, True)


def test_more_processes_than_cases_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    scorer = CaseScorer(["background", "LA"])
    engine = SimpleNamespace(data_loader=[])
    made = EvaluationReport(tmp_path, scorer, configuration={}, seed=0, data_hash="abc")
    with pytest.raises(
        ValueError, match=r"^there are fewer cases to score than the 4 processes: start at most one"
    ):
        made.attach(engine)
