"""What README and the model cards say of the weights that ship."""

from __future__ import annotations

import json
from pathlib import Path

from cards import flagship_block


def case(name: str, label: str, dice: float, hd95: float) -> dict[str, object]:
    return {
        "case_id": name,
        "class": label,
        "dice": dice,
        "hd95_vox": hd95,
        "assd_vox": 1.0,
        "reference_voxels": "10",
        "prediction_voxels": "12",
    }


def test_the_table_has_a_line_for_each_bundle_and_class(tmp_path: Path) -> None:
    results = tmp_path / "benchmarks" / "results"
    (results / "weights").mkdir(parents=True)
    (results / "list").mkdir()
    cases = [case("a", "RV", 0.8, 2.0), case("b", "RV", 0.9, 4.0), case("a", "LV", 0.5, 1.0)]
    cases.append(case("b", "LV", 0.5, 1.0))
    (results / "list" / "row.json").write_text(json.dumps({"cases": cases}))
    for name in ("heart_mixed", "heart_confkd"):  # the latter is not of the flagship
        (results / "weights" / f"{name}.json").write_text(json.dumps({"result": "list/row.json"}))
    # 80 and 90: mean 85, standard deviation √50 = 7.07; 2 and 4 voxels: mean 3, √2 = 1.41.
    assert flagship_block(tmp_path).splitlines()[2:] == [
        "| `heart_mixed` | RV | 2 | 85.0 ± 7.1 | 3.0 ± 1.4 |",
        "| `heart_mixed` | LV | 2 | 50.0 ± 0.0 | 1.0 ± 0.0 |",
        "",
        "Test split, scored once: mean ± sd over the cases.",
    ]
