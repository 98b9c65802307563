"""Write the tables of README.md, docs/ and the model cards from the files in benchmarks/results/.

    python benchmarks/tables.py           # rewrite what is out of date
    python benchmarks/tables.py --check   # exit status 1 if anything is

A table stands between ``<!-- begin:NAME -->`` and ``<!-- end:NAME -->``. NAME is one of ``BLOCKS``
or ``BLOCKS_OF_PAGE``, ``settings`` (on a model card), ``compared_settings``, ``table_1`` and so on
for the journal's tables, or that of a list in benchmarks/experiments/, whose rows it shows in their
order; with ``_frames`` behind it, by frame of the heart's cycle.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from cards import card_settings_block, flagship_block, shipped_weights_block
from measured import (
    NOT_RUN,
    augmentation_block,
    batch_statistics_block,
    erosion_block,
    free_negatives_block,
    inference_block,
    journeys_block,
    label_improvement_block,
    many_scans_block,
    measured_block,
    nnunet_block,
    noise_block,
    phantom_block,
    quality_block,
    result_of,
    step_time_block,
    table,
    training_cost_block,
    tutorial_block,
)

from compare import pages as compare_pages
from compare.list import Experiment, SetN, experiments, read_list, set_of
from compare.published import branch_pairs, load_published
from compare.results import Result, mean_sd, read_results
from compare.study_tables import labels_of, own_branch, settings_block, study_block
from compare.tables import Measurements, participating
from mixseg.apps.quickstart.report import markdown_report

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "docs/*.md",
    "bundles/*/docs/README.md",
    "benchmarks/*/README.md",
    "benchmarks/studies/*.md",
)
FIGURES = Path("benchmarks", "studies", "figures", "tables")
#: Block of a page → table of the papers: table_1, table_A1, table_others.
COMPARED = {f"table_{number.replace('.', '')}": number for number in compare_pages.names()}
_BLOCK = re.compile(
    r"(?P<begin><!-- begin:(?P<name>\w+) -->\n).*?(?P<end><!-- end:(?P=name) -->)", re.DOTALL
)


def published_of(
    methods: dict[str, Any], method: str, settings: dict[str, Any], name: SetN | None = None
) -> tuple[str, str]:
    """Published teacher and student of the same method and Set-N; empty where there are none."""
    if settings.get("weak_label") == "drawn":
        return ("", "")
    teacher, student = methods.get(method, {}).get(name or set_of(settings, method), ("", ""))
    return teacher, student


def rows_of(name: str) -> list[tuple[Experiment, list[Result]]]:
    """The rows of a list in benchmarks/experiments/, with the results of their seeds."""
    folder = ROOT / "benchmarks"
    rows = experiments(folder / "experiments" / f"{name}.yaml")
    return [(row, list(read_results(folder / "results", row).values())) for row in rows]


def class_mean(classes: dict[str, Any], key: str) -> float:
    """Mean over the classes of a score's means over the cases."""
    return statistics.fmean(item[key]["mean"] for item in classes.values())


def branch_cell(results: list[dict[str, Any]], branch: str, split: str = "test") -> str:
    """Dice in % / HD95 in voxels of a branch, over the seeds; for the teacher, of main too."""
    others = ("main",) if branch == "teacher" else ()
    scores = [
        next((found[name] for name in (branch, *others) if name in found), None)
        for found in (result[split]["scores"] for result in results)
    ]
    if not scores or None in scores:
        return ""
    cells = []
    for key, factor, digits in (("dice", 100.0, 1), ("hd95_vox", 1.0, 1)):
        per_seed = [factor * class_mean(one, key) for one in scores if one is not None]
        cells.append(mean_sd(per_seed, digits))
    return " / ".join(cells)


def experiment_block(name: str) -> str:
    """The table of one list in benchmarks/experiments/."""
    listed = read_list(ROOT / "benchmarks" / "experiments" / f"{name}.yaml")
    if listed.scores:
        return study_block(name, listed, rows_of(name))
    wanted = listed.published
    # A study compares its own rows: by validation, with the test split beside it.
    splits = ("test",) if wanted else ("validation", "test")
    rows = rows_of(name)
    heads = ["Row", "Method", "Labels", "Seeds"]
    # Networks of one branch stand in the first column.
    first = "teacher"
    if any("main" in result["test"]["scores"] for _, results in rows for result in results):
        first = "teacher or main"
    if wanted:
        settings = load_published().settings[wanted]
        heads += [first.capitalize(), "Student", f"*{settings}:* teacher", "student"]
    else:
        heads += [head for s in splits for head in (f"{s.capitalize()}: {first}", "student")]
    lines = []
    hardware: set[str] = set()
    missing = sum(not results for _, results in rows)
    if missing == len(rows):
        return (
            f"None of the {len(rows)} rows of `benchmarks/experiments/{name}.yaml` has been run.\n"
        )
    for row, results in rows:
        if not results:
            continue
        for result in results:
            machine = result["test"]["hardware"]
            hardware.add(machine["gpu"] or machine["cpu"])
        labels = labels_of(row.settings, row.method)
        cells = [f"`{row.row}`", row.method, labels, str(len(results))]
        for split in splits:
            cells += [branch_cell(results, branch, split) for branch in ("teacher", "student")]
        if wanted:
            cells += published_of(branch_pairs(wanted), row.method, row.settings, row.set)
        lines.append(cells)
    return table(
        heads,
        lines,
        "Dice in % / pooled HD95 in voxels: mean over the test cases, then mean ± sd over the "
        f"seeds. Settings: `benchmarks/experiments/{name}.yaml`"
        f"; machine: {', '.join(sorted(hardware))}."
        + (f" Rows of the list that have not been run: {missing}." if missing else ""),
        texts=3,
    )


def frames_block(name: str) -> str:
    """Dice on both splits, by frame on test, and predicted over reference volume there.

    Of the branch that each row is for.
    """
    heads = ["Row", "Branch", "Seeds", "Dice, validation", "Test", "End-diastole", "End-systole"]
    lines = []
    for row, results in rows_of(name):
        if not results:
            continue
        branch = own_branch(results[0])
        cells = []
        for result in results:
            cases = [case for case in result["cases"] if case["branch"] == branch]
            patients: dict[str, list[dict[str, str]]] = {}
            for case in sorted(cases, key=lambda case: case["case_id"]):
                patients.setdefault(case["case_id"].partition("_")[0], []).append(case)
            # The first frame of a patient is the end of the diastole.
            cells.append(
                [
                    100 * class_mean(result["validation"]["scores"][branch], "dice"),
                    100 * class_mean(result["test"]["scores"][branch], "dice"),
                    100 * statistics.fmean(float(p[0]["dice"]) for p in patients.values()),
                    100 * statistics.fmean(float(p[-1]["dice"]) for p in patients.values()),
                    statistics.fmean(
                        int(c["prediction_voxels"]) / int(c["reference_voxels"]) for c in cases
                    ),
                ]
            )
        shown = [mean_sd([c[i] for c in cells], 1) for i in range(5)]
        lines.append([f"`{row.row}`", branch, str(len(results)), *shown])
    return table([*heads, "Predicted / reference"], lines, texts=2)


def quickstart_block(root: Path, page: Path) -> str:
    """The quickstart's table and pictures."""
    result = result_of(root, "quickstart")
    if result is None:
        return f"Quickstart: {NOT_RUN}.\n"
    text = markdown_report(result)
    captions = {
        "cases": "Test cases: image, reference, prediction and its entropy",
        "curves": "Loss terms and validation scores of the run with masks and scribbles",
    }
    for name, caption in captions.items():
        figure = root / "docs" / "figures" / f"quickstart_{name}.png"
        if figure.is_file():
            place = Path(os.path.relpath(figure, page.parent)).as_posix()
            text += f"\n![{caption}]({place})\n"
    return text


#: Name of a block → what writes it, of the results alone, or of the page, too.
BLOCKS: dict[str, Callable[[Path], str]] = {
    "augmentation": augmentation_block,
    "erosion": erosion_block,
    "flagship": flagship_block,
    "free_negatives": free_negatives_block,
    "inference_la": inference_block,
    "journeys": journeys_block,
    "label_improvement": label_improvement_block,
    "many_scans": many_scans_block,
    "measured": measured_block,
    "nnunet": nnunet_block,
    "noise": noise_block,
    "phantom_statistics": phantom_block,
    "quality": quality_block,
    "step_time": step_time_block,
    "training_cost": training_cost_block,
    "tutorial_wbc": tutorial_block,
}
BLOCKS_OF_PAGE: dict[str, Callable[[Path, Path], str]] = {
    "batch_statistics": batch_statistics_block,
    "quickstart": quickstart_block,
    "shipped_weights": shipped_weights_block,
}


@cache
def measurements(root: Path) -> Measurements:
    """What was measured for the tables of the papers."""
    folder = root / "benchmarks"
    return Measurements(participating(folder / "experiments"), folder / "results")


def render(page: Path) -> str:
    """The page with every block as the result files have it.

    Raises:
        ValueError: a block of an unknown name.
    """

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        if name in BLOCKS:
            text = BLOCKS[name](ROOT)
        elif name in BLOCKS_OF_PAGE:
            text = BLOCKS_OF_PAGE[name](ROOT, page)
        elif name.endswith("_frames"):
            text = frames_block(name.removesuffix("_frames"))
        elif name == "compared_settings":
            text = settings_block(rows_of("compare_acdc_cpu"))
        elif name == "settings":
            text = card_settings_block(page)
        elif name in COMPARED:
            text = compare_pages.block(COMPARED[name], measurements(ROOT), page, ROOT / FIGURES)
        elif (ROOT / "benchmarks" / "experiments" / f"{name}.yaml").is_file():
            text = experiment_block(name)
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
    for page in sorted({path for pattern in PAGES for path in ROOT.glob(pattern)}):
        try:
            text = render(page)
        except ValueError as error:
            sys.exit(str(error))
        if text != page.read_text(encoding="utf-8"):
            outdated.append(str(page.relative_to(ROOT)))
            if not arguments.check:
                page.write_text(text, encoding="utf-8")
    if arguments.check:
        figures = compare_pages.outdated_figures(measurements(ROOT), ROOT / FIGURES)
    else:
        figures = compare_pages.draw_figures(measurements(ROOT), ROOT / FIGURES)
    outdated += [(FIGURES / name).as_posix() for name in figures]
    for name in outdated:
        print(f"{name}: {'out of date' if arguments.check else 'written'}")
    if arguments.check and outdated:
        sys.exit("run: python benchmarks/tables.py")


if __name__ == "__main__":
    main()
