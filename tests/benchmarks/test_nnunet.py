"""The comparison beside nnU-Net: its schedule, its labels, and the table; nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def nnunet(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks" / "nnunet")
    import nnunet

    return nnunet


@pytest.mark.parametrize(
    ("seconds", "budget", "expected"),
    [
        (14.0, 900.0, (64, 1)),  # 64.3 iterations: an epoch each
        (2.0, 2001.0, (1000, 1)),
        (2.0, 2002.0, (500, 2)),  # 1,001 iterations: one is left
        (0.5, 7200.0, (960, 15)),  # 14,400, of which 15 an epoch make 960 epochs
        (0.01, 7200.0, (1000, 250)),  # nnU-Net's own schedule ends before
    ],
)
def test_epochs_fill_the_budget(
    nnunet: ModuleType, seconds: float, budget: float, expected: tuple[int, int]
) -> None:
    assert nnunet.plan_epochs(seconds, budget) == expected


def test_epochs_never_pass_the_budget_and_leave_less_than_one(nnunet: ModuleType) -> None:
    for count in range(1, 250_000, 997):
        epochs, iterations = nnunet.plan_epochs(1.0, count + 0.5)
        assert 0 <= count - epochs * iterations < iterations
        assert epochs <= 1000


def test_a_budget_without_an_iteration_is_refused(nnunet: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"takes 14\.0 s and 3\.0 s of the budget are left: give"):
        nnunet.plan_epochs(14.0, 3.0)


@pytest.fixture
def acdc(tmp_path: Path) -> Path:
    """ACDC's layout, 20 patients of one frame; no file is opened."""
    folder = tmp_path / "acdc"
    names = [f"patient{i:03d}" for i in range(1, 21)]
    for kind in ("image", "label", "scribble"):
        (folder / kind).mkdir(parents=True)
        for name in names:
            (folder / kind / f"{name}_frame01.nii.gz").touch()
    split = {"train": names[:18], "val": names[18:19], "test": names[19:]}
    (folder / "split.json").write_text(json.dumps(split))
    return folder


def test_nnunet_gets_the_masks_and_scribbles_of_the_flagship(
    nnunet: ModuleType, acdc: Path, tmp_path: Path
) -> None:
    labels = nnunet.Labels(acdc, tmp_path / "run")
    found = [Path(case["label"]).relative_to(acdc).parts[0] for case in labels.cases("training")]
    assert found == ["label"] * 3 + ["scribble"] * 15
    for split, patient in (("validation", 19), ("test", 20), ("validation", 19)):
        cases = [case["case_id"] for case in labels.cases(split)]
        assert cases == [f"patient{patient:03d}_frame01"]


def test_nnunet_has_its_ignore_label_highest(
    nnunet: ModuleType, acdc: Path, tmp_path: Path
) -> None:
    labels = nnunet.Labels(acdc, tmp_path / "run")
    # Background, RV, myocardium, LV, unlabeled become background, LV and, highest, ignore.
    found = labels.convert(np.array([[0, 1, 2, 3, 4]], dtype=np.uint8))
    assert found.tolist() == [[0, 0, 0, 1, 2]]
    assert labels.names == ["background", "LV"]
    with pytest.raises(ValueError, match="neither a class"):
        labels.convert(np.array([[5]]))


def result(folder: Path, name: str, branches: dict[str, float], **more: Any) -> None:
    def scores(dice: float) -> dict[str, Any]:
        return {"LV": {"dice": {"mean": dice}, "hd95_vox": {"mean": 2.0}}}

    found = {branch: scores(dice) for branch, dice in branches.items()}
    content = {
        "cores": 1,
        "iterations": 3000,
        "seconds": 1234.5,
        "curve": [{"seconds": 100.0, "dice": 0.79}, {"seconds": 200.0, "dice": 0.86}],
        "peak_memory_mb": 1536,
        "scores": {"validation": found, "test": found},
        "hardware": {"cpu": "a processor", "gpu": None},
        "load_before": 0.1,
        **more,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(content))


def test_the_table_has_the_first_snapshot_at_each_dice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from measured import nnunet_block

    assert nnunet_block(tmp_path) == "nnU-Net beside the flagship: not run.\n"
    folder = tmp_path / "benchmarks" / "results" / "nnunet"
    result(folder, "flagship", {"main": 0.9})
    result(
        folder,
        "nnunet_15",
        {"nnU-Net": 0.8, "nnU-Net, one component": 0.85},
        load_before=3.0,
        peak_gpu_memory_mb=2048,
    )
    lines = nnunet_block(tmp_path).splitlines()
    assert lines[2:5] == [
        "| `flagship` | 1 | 3,000 | 1,234 | 200 | 200 | not reached | 1.5 | 90.0 / 2.0 "
        "| 90.0 / 2.0 |",
        "| `nnunet_15`, as it predicts | 1 | 3,000 | 1,234 | 200 | 200 | not reached "
        "| 1.5 + 2.0 of the GPU | 80.0 / 2.0 | 80.0 / 2.0 |",
        "| `nnunet_15`, one component |  |  |  |  |  |  |  | 85.0 / 2.0 | 85.0 / 2.0 |",
    ]
    assert lines[-1].endswith("a processor. Beside other work, which slows it: `nnunet_15`.")
