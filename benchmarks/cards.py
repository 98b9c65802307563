"""Generated parts of model cards and README: settings, and scores of the shipped weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from measured import table

__all__ = ["card_settings_block", "flagship_block", "shipped_weights_block"]

#: Settings whose lines in the YAML have no comment.
_PLAIN = {
    "device": "training device",
    "encoder_layers": "layers whose gradients are compared",
    "ramps": "iterations until values of the method reach their full size",
    "seed": "seed of weights, batches and dropout",
    "max_epochs": "number of epochs, including those before a resume",
    "weight_decay": "weight decay of the optimizer",
    "momentum": "momentum of the optimizer",
}

#: Groups of disease in the official numbering of ACDC's training patients, twenty each.
_ACDC_GROUPS = (
    "dilated cardiomyopathy",
    "hypertrophic cardiomyopathy",
    "infarction",
    "healthy",
    "abnormal right ventricle",
)
_WORST = 3
#: A setting of train.yaml: its line, and those below it that are indented.
_SETTING = re.compile(r"^(?P<name>\w+):(?P<rest>.*)\n(?P<more>(?: +.*\n)*)", re.MULTILINE)


def card_settings_block(page: Path) -> str:
    """Settings of the train.yaml beside the card: name, default and comment.

    Raises:
        ValueError: a setting has no comment.
    """
    text = (page.parents[1] / "configs" / "train.yaml").read_text(encoding="utf-8")
    end = re.search(r"^(?:num_classes|datalist_content):", text, re.MULTILINE)
    assert end is not None, page
    top = text[text.index("bundle_root:") : end.start()]
    rows = []
    for match in _SETTING.finditer(top):
        first, _, comment = match["rest"].partition(" #")
        value = first.strip() or match["more"].strip()
        content = yaml.safe_load(match["more"])
        if isinstance(content, dict):  # in one line
            value = yaml.safe_dump(content, default_flow_style=True, sort_keys=False, width=10_000)
            value = value.strip()
        comment = comment.strip() or _PLAIN.get(match["name"], "")
        if not comment:
            raise ValueError(f"{page}: '{match['name']}' has no comment in train.yaml")
        shown = value.strip('"').replace("|", "\\|")
        rows.append([f"`{match['name']}`", f"`{shown}`", comment])
    return table(["Setting", "Default", "Meaning"], rows, texts=3)


def shipped_weights_block(root: Path, page: Path) -> str:
    """Test scores of the weights that ship with the bundle whose card the page is."""
    origin, result, cases = _shipped(root, page.parents[1].name)
    rows = []
    for name, part in _parts(cases, result["data"]):
        cells = [str(part["case_id"].nunique())]
        for column, digits in (("dice", 1), ("hd95_vox", 1), ("assd_vox", 2), ("volume", 0)):
            sign = "+" if column == "volume" else ""
            mean, sd = part[column].mean(), part[column].std()
            cells.append(f"{mean:{sign}.{digits}f} ± {sd:.{digits}f}")
        rows.append([name, *cells])
    worst = cases.groupby("case_id")["dice"].mean().nsmallest(_WORST)
    used, minutes = result["test"]["configuration"], result["seconds"]["training"] / 60
    unit = {"acdc": "patients", "la": "scans"}.get(result["data"].split("_")[0], "pictures")
    heads = ["", "Cases", "Dice [%]", "HD95 [voxels]", "ASSD [voxels]", "Volume error [%]"]
    return table(
        heads,
        rows,
        f"Test split, scored once, mean ± sd over cases. Worst cases: "
        f"{', '.join(f'{case} ({dice:.1f})' for case, dice in worst.items())}. "
        f"Trained on full masks of {used['num_full']} {unit} and scribbles on "
        f"{used['num_partial']} more, "
        f"{used['max_epochs'] * used['epoch_length']:,} steps, seed {result['seed']}, "
        f"{minutes:.0f} minutes on one core ({result['test']['hardware']['cpu']}). The volume "
        "error is predicted minus reference, in percent of the reference.",
        *_padded(root, page.parents[1].name, origin["sha256"]),
        f"`models/model.pt`: {origin['megabytes']:.1f} MB, sha256 `{origin['sha256'][:16]}…`, "
        f"from `benchmarks/results/{origin['result']}`.",
    )


def _padded(root: Path, bundle: str, sha256: str) -> list[str]:
    """Scores of the same weights on padded scans, where they were taken."""
    path = root / "benchmarks" / "results" / "padded" / f"{bundle}.json"
    if not path.is_file():
        return []
    result = json.loads(path.read_text(encoding="utf-8"))
    if result["weights_sha256"] != sha256:
        raise ValueError(f"{path} is of other weights: run benchmarks/padded_la.py again")
    dice, distance = 100 * result["mean"]["dice"], result["mean"]["hd95_vox"]
    return [
        f"The same scans padded with zeros to {result['field_mm']:.0f} mm in-plane: Dice "
        f"{dice:.1f} %, HD95 {distance:.1f} voxels."
    ]


def flagship_block(root: Path) -> str:
    """Test scores of all weights that ship: a line for each bundle and class."""
    rows = []
    for path in sorted((root / "benchmarks" / "results" / "weights").glob("*_mixed.json")):
        _, _, cases = _shipped(root, path.stem)
        for name, part in cases.groupby("class", sort=False):
            scores = (
                f"{part[column].mean():.1f} ± {part[column].std():.1f}"
                for column in ("dice", "hd95_vox")
            )
            rows.append([f"`{path.stem}`", name, part["case_id"].nunique(), *scores])
    heads = ["Bundle", "Class", "Cases", "Dice [%]", "HD95 [voxels]"]
    return table(heads, rows, "Test split, scored once: mean ± sd over the cases.", texts=2)


def _shipped(root: Path, bundle: str) -> tuple[dict[str, Any], dict[str, Any], pd.DataFrame]:
    """Where a bundle's weights come from, the result of their training, and its cases.

    Of the cases ``dice`` is in percent, and ``volume`` the error of the volume in percent.
    """
    results = root / "benchmarks" / "results"
    origin = json.loads((results / "weights" / f"{bundle}.json").read_text(encoding="utf-8"))
    result = json.loads((results / origin["result"]).read_text(encoding="utf-8"))
    cases = pd.DataFrame(result["cases"])
    numbers = ["dice", "hd95_vox", "assd_vox", "reference_voxels", "prediction_voxels"]
    cases[numbers] = cases[numbers].astype(float)
    cases["dice"] *= 100
    cases["volume"] = 100 * (cases["prediction_voxels"] / cases["reference_voxels"] - 1)
    return origin, result, cases


def _parts(cases: pd.DataFrame, data: str) -> Iterable[tuple[str, pd.DataFrame]]:
    """Name and rows of each line: classes, and for ACDC phases and groups of disease."""
    for name, part in cases.groupby("class", sort=False):
        yield str(name), part
    if not data.startswith("acdc"):
        return
    patient = cases["case_id"].str.extract(r"patient(\d+)")[0].astype(int)
    frame = cases["case_id"].str.extract(r"frame(\d+)")[0].astype(int)
    # The first of a patient's two frames is the end of the diastole.
    first = frame == frame.groupby(patient).transform("min")
    what = "mean of the classes, " if cases["class"].nunique() > 1 else ""
    yield f"{what}end-diastole", cases[first]
    yield f"{what}end-systole", cases[~first]
    group: Callable[[Any], Any] = patient.sub(1).floordiv(20).eq
    for number, name in enumerate(_ACDC_GROUPS):
        if group(number).any():
            yield f"{what}{name}", cases[group(number)]
