"""Rename the branch of networks of one branch in benchmarks/results/, from teacher to main.

    python benchmarks/convert_single_branch.py

Files that were written before such a branch was called ``main``. Those of networks of two branches
stay as they are, also where the teacher alone was trained. A second run changes nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from mixseg.files.atomic import write_bytes_atomic

ROOT = Path(__file__).resolve().parents[1]


def is_single(bundle: str) -> bool:
    """Whether the bundle's network has one branch; those that are rows of ConfKD now included."""
    if bundle in ("acdc_lv_single", "la_single", "acdc_lv_decoupled", "la_decoupled"):
        return bundle.endswith("single")
    path = ROOT / "bundles" / bundle / "configs" / "train.yaml"
    network = yaml.safe_load(path.read_text(encoding="utf-8"))["network_def"]
    return network.get("backbone", network).get("branches") == 1


def convert(result: dict[str, Any]) -> None:
    """Rename the branch in the content of a result file."""
    for split in ("validation", "test"):
        scores, settings = result[split]["scores"], result[split]["configuration"]
        if "teacher" in scores:
            scores["main"] = scores.pop("teacher")
        if "layers" in settings:  # of GLMI
            settings["layers"] = [_module(name) for name in settings["layers"]]
        if "feature_layer" in settings:  # of DCR
            settings["feature_layer"] = _module(settings["feature_layer"])
    for case in result["cases"]:
        if case["branch"] == "teacher":
            case["branch"] = "main"
    header = result["history"][0].split(",")
    names = ["val_dice_main" if name == "val_dice_teacher" else name for name in header]
    result["history"][0] = ",".join(names)


def _module(name: str) -> str:
    return f"main.{name.removeprefix('teacher.')}" if name.startswith("teacher.") else name


def main() -> None:
    """Command line."""
    for path in sorted((ROOT / "benchmarks" / "results").glob("*/*.json")):
        text = path.read_text(encoding="utf-8")
        result = json.loads(text)
        # The lists of ConfKD alone do not name their bundle, whose networks have two branches.
        if "test" not in result or "bundle" not in result or not is_single(result["bundle"]):
            continue
        convert(result)
        converted = json.dumps(result, indent=1) + "\n"
        if converted != text:
            write_bytes_atomic(path, converted.encode())
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
