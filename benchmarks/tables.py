"""Write the tables of README.md, docs/ and the model cards from the files in benchmarks/results/.

    python benchmarks/tables.py           # rewrite what is out of date
    python benchmarks/tables.py --check   # exit status 1 if anything is

A table stands between ``<!-- begin:NAME -->`` and ``<!-- end:NAME -->``. NAME is ``quickstart``,
``measured``, ``inference_la``, ``batch_statistics``, ``weights`` (on a model card), or that of a
list in benchmarks/experiments/, whose rows it shows in their order; with ``_frames`` behind it, by
frame of the heart's cycle.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import yaml
from measured import NOT_RUN, batch_statistics_block, inference_block, measured_block, weights_block

from mixseg.cli.quickstart_report import markdown_report

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/*.md", "bundles/*/docs/README.md")
PUBLISHED = ROOT / "benchmarks" / "published.yaml"
_BLOCK = re.compile(
    r"(?P<begin><!-- begin:(?P<name>\w+) -->\n).*?(?P<end><!-- end:(?P=name) -->)", re.DOTALL
)


class Outdated(ValueError):
    """A result file that does not belong to the row that names it."""


def partial_of(knobs: dict[str, Any]) -> int:
    """Patients with scribbles; like the bundle, five for each one with full masks."""
    return int(knobs.get("num_partial", 5 * knobs["num_full"]))


def labels_of(knobs: dict[str, Any]) -> str:
    """Which labels the row learns from."""
    full = f"{knobs['num_full']} full"
    if method_of(knobs) in ("Lower bound", "Upper bound"):
        return full
    kind = "drawn" if knobs.get("weak_label") == "drawn" else "eroded"
    return f"{full}, {partial_of(knobs)} {kind}"


def method_of(knobs: dict[str, Any]) -> str:
    """The papers' name of a row, from its weights."""
    if not partial_of(knobs):
        return "Upper bound"
    names = ("lambda_w", "lambda_kd", "lambda_ent")
    weak, distilled, entropy = (bool(knobs.get(name, True)) for name in names)
    if not (weak or distilled or entropy):
        return "Lower bound"
    single = knobs.get("weak_branch") == "teacher"
    base = "Single" if single else "KL" if distilled else "Decoupled"
    return f"{base}+Ent" if entropy else base


def published_of(methods: dict[str, Any], method: str, knobs: dict[str, Any]) -> tuple[str, str]:
    """Published teacher and student of the same method and Set-N; empty where there are none."""
    if knobs.get("weak_label") == "drawn":
        return ("", "")
    # The upper bound has full masks of the N + 5·N patients that the other methods see.
    full = knobs["num_full"] // 6 if method == "Upper bound" else knobs["num_full"]
    teacher, student = methods.get(method, {}).get(full, ("", ""))
    return teacher, student


def check_configuration(path: Path, result: dict[str, Any], knobs: dict[str, Any]) -> None:
    """Refuse a result that was made with other settings than the list now has.

    Raises:
        Outdated: naming the file and the knob.
    """
    used = result["test"]["configuration"]
    for name, value in knobs.items():
        if name in used and used[name] != value:
            raise Outdated(
                f"{path.relative_to(ROOT)} was made with {name} = {used[name]}, "
                f"the list says {value}: run it again"
            )


def mean_sd(values: list[float], digits: int) -> str:
    """Mean ± standard deviation (n − 1) over seeds; the mean alone of a single one."""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def branch_cell(results: list[dict[str, Any]], branch: str, split: str = "test") -> str:
    """Dice in % / HD95 in voxels of a branch, over the seeds."""
    scores = [result[split]["scores"].get(branch) for result in results]
    if not scores or None in scores:
        return ""
    cells = []
    for key, factor, digits in (("dice", 100.0, 1), ("hd95_vox", 1.0, 1)):
        per_seed = [
            factor * statistics.fmean(item[key]["mean"] for item in classes.values())
            for classes in scores
            if classes is not None
        ]
        cells.append(mean_sd(per_seed, digits))
    return " / ".join(cells)


def experiment_block(name: str, page: Path) -> str:
    """The table of one list in benchmarks/experiments/."""
    experiment = yaml.safe_load(
        (ROOT / "benchmarks" / "experiments" / f"{name}.yaml").read_text(encoding="utf-8")
    )
    # A study compares its own rows: by validation, with the test split beside it.
    published = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8")).get(
        experiment.get("published")
    )
    splits = ("test",) if published else ("validation", "test")
    heads = ["Row", "Method", "Labels", "Seeds"]
    if published:
        heads += ["Teacher", "Student", f"*{published['title']}:* teacher", "student"]
    else:
        heads += [f"{split.capitalize()}: teacher | student" for split in splits]
    lines = [f"| {' | '.join(heads)} |", "|---|---|---|---:|---:|---:|---:|---:|"]
    hardware: set[str] = set()
    for row, own in experiment["rows"].items():
        knobs = {**experiment.get("common", {}), **own}
        results = []
        for seed in experiment["seeds"]:
            path = ROOT / "benchmarks" / "results" / name / f"{row}_seed{seed}.json"
            if path.is_file():
                result = json.loads(path.read_text(encoding="utf-8"))
                check_configuration(path, result, knobs)
                machine = result["test"]["hardware"]
                hardware.add(machine["gpu"] or machine["cpu"])
                results.append(result)
        method = method_of(knobs)
        cells = [f"`{row}`", method, labels_of(knobs), str(len(results))]
        for split in splits:
            names = ("teacher", "student")
            cells += (
                [branch_cell(results, name, split) for name in names] if results else [NOT_RUN, ""]
            )
        if published:
            cells += published_of(published["methods"], method, knobs)
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Dice in % / pooled HD95 in voxels: mean over the test cases, then mean ± sd over the "
        f"seeds. Settings: `benchmarks/experiments/{name}.yaml`"
        + (f"; machine: {', '.join(sorted(hardware))}." if hardware else "."),
    ]
    return "\n".join(lines) + "\n"


def frames_block(name: str) -> str:
    """Dice by frame, and predicted over reference volume, of the branch that each row is for."""
    lines = [
        "| Row | Branch | Seeds | Dice, end-diastole | Dice, end-systole | Predicted / reference |",
        "|---|---|---:|---:|---:|---:|",
    ]
    experiment = yaml.safe_load(
        (ROOT / "benchmarks" / "experiments" / f"{name}.yaml").read_text(encoding="utf-8")
    )
    for row in experiment["rows"]:
        results = [
            json.loads(path.read_text(encoding="utf-8"))
            for path in sorted((ROOT / "benchmarks" / "results" / name).glob(f"{row}_seed*.json"))
        ]
        if not results:
            continue
        branch = "student" if "student" in results[0]["test"]["scores"] else "teacher"
        cells = []
        for result in results:
            cases = [case for case in result["cases"] if case["branch"] == branch]
            patients: dict[str, list[dict[str, str]]] = {}
            for case in sorted(cases, key=lambda case: case["case_id"]):
                patients.setdefault(case["case_id"].partition("_")[0], []).append(case)
            # The first frame of a patient is the end of the diastole.
            cells.append(
                [
                    100 * statistics.fmean(float(p[0]["dice"]) for p in patients.values()),
                    100 * statistics.fmean(float(p[-1]["dice"]) for p in patients.values()),
                    statistics.fmean(
                        int(c["prediction_voxels"]) / int(c["reference_voxels"]) for c in cases
                    ),
                ]
            )
        shown = [mean_sd([c[i] for c in cells], 1) for i in range(3)]
        lines.append(f"| `{row}` | {branch} | {len(results)} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def quickstart_block(page: Path) -> str:
    """The quickstart's table and pictures."""
    path = ROOT / "benchmarks" / "results" / "quickstart.json"
    if not path.is_file():
        return f"Quickstart: {NOT_RUN}.\n"
    text = markdown_report(json.loads(path.read_text(encoding="utf-8")))
    captions = {
        "cases": "Test cases: image, reference, teacher, student, and the student's entropy",
        "curves": "Loss terms and validation scores of the KL+Ent run",
    }
    for name, caption in captions.items():
        figure = ROOT / "docs" / "figures" / f"quickstart_{name}.png"
        if figure.is_file():
            place = Path(os.path.relpath(figure, page.parent)).as_posix()
            text += f"\n![{caption}]({place})\n"
    return text


def render(page: Path) -> str:
    """The page with every block as the result files have it.

    Raises:
        ValueError: a block of an unknown name.
    """

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        if name == "quickstart":
            text = quickstart_block(page)
        elif name == "measured":
            text = measured_block(ROOT)
        elif name.endswith("_frames"):
            text = frames_block(name.removesuffix("_frames"))
        elif name == "inference_la":
            text = inference_block(ROOT)
        elif name == "batch_statistics":
            text = batch_statistics_block(ROOT, page)
        elif name == "weights":
            text = weights_block(ROOT, page)
        elif (ROOT / "benchmarks" / "experiments" / f"{name}.yaml").is_file():
            text = experiment_block(name, page)
        else:
            raise ValueError(f"{page.relative_to(ROOT)}: no table is called '{name}'")
        return f"{match['begin']}{text}{match['end']}"

    return _BLOCK.sub(replace, page.read_text(encoding="utf-8"))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, report what is old")
    arguments = parser.parse_args()
    outdated = []
    for page in sorted(path for pattern in PAGES for path in ROOT.glob(pattern)):
        try:
            text = render(page)
        except ValueError as error:
            sys.exit(str(error))
        if text != page.read_text(encoding="utf-8"):
            outdated.append(str(page.relative_to(ROOT)))
            if not arguments.check:
                page.write_text(text, encoding="utf-8")
    for name in outdated:
        print(f"{name}: {'out of date' if arguments.check else 'written'}")
    if arguments.check and outdated:
        sys.exit("run: python benchmarks/tables.py")


if __name__ == "__main__":
    main()
