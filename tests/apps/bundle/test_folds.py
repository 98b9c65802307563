"""Cross-validation over full masks: which fold sees what, pooled scores, resuming."""

from __future__ import annotations

import json
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
    """In place of trainings and tests: notes their arguments, scores case i with Dice i/10."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, dict[str, Any]]] = []
        self.failing = -1

    def train(self, bundle: Path, **arguments: Any) -> None:
        self._note("training", arguments)

    def evaluate(self, run: Path, **arguments: Any) -> None:
        self._note("evaluating", {"run": run, **arguments})
        folder = arguments["output"]
        folder.mkdir()
        tested = Datalist.load(run / "datalist.json").test
        rows = [score(entry.case_id, int(entry.case_id[1:]) / 10) for entry in tested]
        write_metrics_csv(rows, folder / "metrics.csv")
        (folder / "summary.json").write_text("{}")

    def _note(self, what: str, arguments: dict[str, Any]) -> None:
        self.runs.append((what, arguments))
        if len(self.runs) - 1 == self.failing:
            raise ChildProcessError("out of memory")


def score(case_id: str, dice: float) -> CaseScore:
    values: dict[str, Any] = dict.fromkeys(CaseScore.__dataclass_fields__)
    values |= {"case_id": case_id, "branch": "main", "class_name": "LV", "dice": dice}
    values |= {n: 1.0 for n in values if n.endswith("_vox")}
    values |= {n: 5 for n in values if n.endswith("_voxels")}
    return CaseScore(**values)


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Launcher:
    fake = Launcher()
    monkeypatch.setattr(folds, "train_bundle", fake.train)
    monkeypatch.setattr(folds, "evaluate_run", fake.evaluate)
    return fake


def cross_validate(
    data: Path, number: int, settings: dict[str, Any], **more: Any
) -> tuple[Path, list[CaseScore]]:
    return folds.cross_validate(
        BUNDLE, number, data=data, output=data / "out", settings=settings, **more
    )


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


def test_each_mask_is_tested_once_and_scores_are_pooled(data: Path, launcher: Launcher) -> None:
    settings = {"num_full": 4, "num_partial": 3, "lr": 0.01}
    output, rows = cross_validate(data, 2, settings)
    assert output == data / "out"
    assert [what for what, _ in launcher.runs] == ["training", "evaluating"] * 2
    for fold, tested in enumerate((["c0", "c2"], ["c1", "c3"])):
        training, evaluating = launcher.runs[2 * fold][1], launcher.runs[2 * fold + 1][1]
        used = training["settings"]
        part = Datalist.load(used["datalist"])
        assert [entry.case_id for entry in part.test] == tested
        assert part.validation == []
        # Two of the four masks are left; the fifth full mask and two scribbles are partial.
        assert (used["num_full"], used["num_partial"], used["lr"]) == (2, 3, 0.01)
        assert {entry.case_id for entry in part.training} >= {"c4", "c5", "c6", "c7"}
        assert training["output"] == output / f"fold_{fold + 1}"
        assert not training["resume"]
        assert evaluating["run"] == training["output"]
        assert Path(used["datalist"]) == training["output"] / "datalist.json"
    assert [(row.case_id, row.dice) for row in rows] == [
        ("c0", 0), ("c2", 0.2), ("c1", 0.1), ("c3", 0.3)
    ]  # fmt: skip
    assert read_metrics_csv(output / "metrics.csv") == rows
    summary = json.loads((output / "summary.json").read_text())
    assert summary["folds"] == 2
    assert summary["scores"]["main"]["LV"]["dice"]["mean"] == pytest.approx(0.15)


def test_numbers_that_follow_each_other_are_settled_before_the_masks_are_parted(
    data: Path, launcher: Launcher
) -> None:
    """In the bundle ``num_partial`` is five times ``num_full``, which a fold has less of."""
    cross_validate(data, 3, {"num_full": 3, "num_partial": "$@num_full - 1"})
    used = [arguments["settings"] for _, arguments in launcher.runs[::2]]
    assert [(one["num_full"], one["num_partial"]) for one in used] == [(2, 2)] * 3


def test_all_masks_stay_all(data: Path, launcher: Launcher) -> None:
    cross_validate(data, 5, {"num_full": None, "num_partial": None})
    used = [arguments["settings"] for _, arguments in launcher.runs[::2]]
    assert [(one["num_full"], one["num_partial"]) for one in used] == [(None, None)] * 5


def test_an_interrupted_cross_validation_resumes(data: Path, launcher: Launcher) -> None:
    settings = {"num_full": 4, "num_partial": 3}
    launcher.failing = 3
    with pytest.raises(ChildProcessError, match="out of memory"):
        cross_validate(data, 2, settings)
    told: list[str] = []
    cross_validate(data, 2, settings, show=lambda text, kind: told.append(text))
    assert told[0] == "fold 1 of 2: done already"
    assert [(what, arguments.get("resume")) for what, arguments in launcher.runs[4:]] == [
        ("training", True),
        ("evaluating", None),
    ]
    with pytest.raises(ValueError, match="holds a cross-validation of other settings"):
        cross_validate(data, 2, settings | {"lr": 1})
    entries = json.loads((data / "datalist.json").read_text())
    entries["training"].pop()
    (data / "datalist.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match="holds a cross-validation of other data"):
        cross_validate(data, 2, settings)


def test_what_is_refused_before_anything_is_made(data: Path, launcher: Launcher) -> None:
    with pytest.raises(ValueError, match="annotate at least three patients"):
        cross_validate(data, 2, {"num_full": 2})
    with pytest.raises(ValueError, match="'num_ful' is not a setting of the bundle acdc_lv_mixed"):
        cross_validate(data, 2, {"num_ful": 2})
    with pytest.raises(ValueError, match="gone"):
        folds.cross_validate(BUNDLE, 2, data=data / "gone", output=data / "out")
    with pytest.raises(ValueError, match=r"give --output: .* is installed"):
        folds.cross_validate("acdc_lv_mixed", 3, data=data)
    assert launcher.runs == []
    assert not (data / "out").exists()
