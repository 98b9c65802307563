"""Cross-validation over full masks: which fold sees what, pooled scores, resuming."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mixseg.apps.bundle import folds
from mixseg.apps.bundle.find import ROOT
from mixseg.data.datalist import Datalist, Entry
from mixseg.metrics.scores import CaseScore
from mixseg.report.scores import read_metrics_csv, write_metrics_csv

BUNDLE = ROOT / "bundles" / "acdc_lv_mixed"


class Launcher:
    """In place of monai.bundle: notes the settings, and scores case i with Dice i/10."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, dict[str, str]]] = []
        self.failing = -1

    def __call__(self, command: Sequence[str], log: Path) -> int:
        run_id, options = command[4], command[7:]
        knobs = {k[2:]: v for k, v in zip(options[::2], options[1::2], strict=True)}
        self.runs.append((run_id, knobs))
        if len(self.runs) - 1 == self.failing:
            return 3
        if run_id == "evaluating":
            folder = Path(knobs["output_dir"])
            folder.mkdir()
            tested = Datalist.load(knobs["datalist"]).test
            rows = [score(entry.case_id, int(entry.case_id[1:]) / 10) for entry in tested]
            write_metrics_csv(rows, folder / "metrics.csv")
            (folder / "summary.json").write_text("{}")
        return 0


def score(case_id: str, dice: float) -> CaseScore:
    values: dict[str, Any] = dict.fromkeys(CaseScore.__dataclass_fields__)
    values |= {"case_id": case_id, "branch": "main", "class_name": "LV", "dice": dice}
    values |= {n: 1.0 for n in values if n.endswith("_vox")}
    values |= {n: 5 for n in values if n.endswith("_voxels")}
    return CaseScore(**values)


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Launcher:
    fake = Launcher()
    monkeypatch.setattr(folds, "run_logged", fake)
    return fake


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five full masks, two scribbled cases, an unlabeled one; the files are never opened."""
    kinds = ["full"] * 5 + ["partial"] * 2 + ["none"]
    training = [
        Entry(
            image=f"c{i}.nii.gz",
            label=None if kind == "none" else f"c{i}_label.nii.gz",
            supervision=kind,  # type: ignore[arg-type]
            case_id=f"c{i}",
        )
        for i, kind in enumerate(kinds)
    ]
    classes = ["background", "RV", "myocardium", "LV"]
    Datalist(classes=classes, unlabeled=4, training=training).save(tmp_path / "datalist.json")
    return tmp_path


def silent(text: str, kind: str) -> None:
    pass


def test_each_mask_is_tested_once_and_scores_are_pooled(data: Path, launcher: Launcher) -> None:
    settings = {"dataset_dir": str(data), "num_full": 4, "num_partial": 3, "lr": 0.01}
    rows = folds.cross_validate(BUNDLE, data / "out", 2, settings, silent)
    assert [run_id for run_id, _ in launcher.runs] == ["training", "evaluating"] * 2
    for fold, tested in enumerate((["c0", "c2"], ["c1", "c3"])):
        training, evaluating = launcher.runs[2 * fold][1], launcher.runs[2 * fold + 1][1]
        part = Datalist.load(training["datalist"])
        assert [entry.case_id for entry in part.test] == tested
        assert part.validation == []
        # Two of the four masks are left; the fifth full mask and two scribbles are partial.
        assert (training["num_full"], training["num_partial"], training["lr"]) == ("2", "3", "0.01")
        assert {entry.case_id for entry in part.training} >= {"c4", "c5", "c6", "c7"}
        assert training["resume"] == "True"
        assert Path(training["output_dir"]) == data / "out" / f"fold_{fold + 1}"
        assert training["ckpt_dir"] == evaluating["ckpt_dir"]
    assert [(row.case_id, row.dice) for row in rows] == [
        ("c0", 0), ("c2", 0.2), ("c1", 0.1), ("c3", 0.3)
    ]  # fmt: skip
    assert read_metrics_csv(data / "out" / "metrics.csv") == rows
    summary = json.loads((data / "out" / "summary.json").read_text())
    assert summary["folds"] == 2
    assert summary["scores"]["main"]["LV"]["dice"]["mean"] == pytest.approx(0.15)


def test_numbers_that_follow_each_other_are_settled_before_the_masks_are_parted(
    data: Path, launcher: Launcher
) -> None:
    """In the bundle ``num_partial`` is five times ``num_full``, which a fold has less of."""
    knobs = {"dataset_dir": str(data), "num_full": 3, "num_partial": "$@num_full - 1"}
    folds.cross_validate(BUNDLE, data / "out", 3, knobs, silent)
    assert [(k["num_full"], k["num_partial"]) for _, k in launcher.runs] == [("2", "2")] * 6


def test_all_masks_stay_all(data: Path, launcher: Launcher) -> None:
    knobs = {"dataset_dir": str(data), "num_full": None, "num_partial": None}
    folds.cross_validate(BUNDLE, data / "out", 5, knobs, silent)
    assert {(k["num_full"], k["num_partial"]) for _, k in launcher.runs} == {("None", "None")}


def test_an_interrupted_cross_validation_resumes(data: Path, launcher: Launcher) -> None:
    settings = {"dataset_dir": str(data), "num_full": 4, "num_partial": 3}
    launcher.failing = 3
    with pytest.raises(ChildProcessError, match="fold 2 of 2, evaluating: exit status 3"):
        folds.cross_validate(BUNDLE, data / "out", 2, settings, silent)
    told: list[str] = []
    folds.cross_validate(BUNDLE, data / "out", 2, settings, lambda text, kind: told.append(text))
    assert told[0] == "fold 1 of 2: done already"
    assert [run_id for run_id, _ in launcher.runs[4:]] == ["training", "evaluating"]
    with pytest.raises(ValueError, match="holds a cross-validation of other settings"):
        folds.cross_validate(BUNDLE, data / "out", 2, settings | {"lr": 1}, silent)
    entries = json.loads((data / "datalist.json").read_text())
    entries["training"].pop()
    (data / "datalist.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match="holds a cross-validation of other data"):
        folds.cross_validate(BUNDLE, data / "out", 2, settings, silent)


@pytest.mark.parametrize(
    ("settings", "number", "problem"),
    [
        ({"num_full": 2}, 2, "annotate at least three patients"),
        ({"num_full": 3, "output_dir": "x"}, 3, "--output_dir is each fold's own"),
        ({"dataset_dir": "/gone", "num_full": 3}, 3, "gone"),
    ],
)
def test_what_is_refused_before_anything_is_made(
    data: Path, launcher: Launcher, settings: dict[str, Any], number: int, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        folds.cross_validate(
            BUNDLE, data / "out", number, {"dataset_dir": str(data), **settings}, silent
        )
    assert launcher.runs == []
    assert not (data / "out").exists()
