"""The quickstart's scores side by side: for the screen, for results.md and for the README."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from mixseg.report.tables import as_markdown, as_table, mean_and_sd

#: Name of a run's folder and of its scores in results.json, and what the tables call it.
METHODS = {"lower_bound": "lower bound", "mixed": "mixed supervision"}
HEADER = ("Method", "Labels", "Cases", "Dice [%]", "HD95 [voxels]", "HD95 [mm]")
_COLUMNS = (("dice", 100.0), ("hd95_vox", 1.0), ("hd95_mm", 1.0))


def score_lines(results: Mapping[str, Any]) -> list[list[str]]:
    """Cells below :data:`HEADER`, one line per run, mean ± sd over the test cases."""
    lines = []
    for run, title in METHODS.items():
        run_settings = results["runs"][run]["configuration"]
        labels = f"{run_settings['num_full']} mask{'s' * (run_settings['num_full'] != 1)}"
        if run_settings["num_partial"]:
            labels += f", {run_settings['num_partial']} scribbles"
        for classes in results["runs"][run]["scores"].values():
            for scores in classes.values():
                cells = [mean_and_sd(scores[key], factor) for key, factor in _COLUMNS]
                lines.append([title, labels, str(scores["n"]), *cells])
    return lines


def screen_table(results: Mapping[str, Any]) -> Table:
    """The scores for the terminal."""
    return as_table("Test cases, mean ± sd", HEADER, score_lines(results), HEADER[:2], width=8)


def markdown_report(results: Mapping[str, Any]) -> str:
    """The scores as a Markdown table, with a sentence on where they come from."""
    table = as_markdown(HEADER, score_lines(results), texts=HEADER[:2])
    settings, seconds, hardware = results["settings"], results["seconds"], results["hardware"]
    run_settings = results["runs"]["mixed"]["configuration"]
    iterations = run_settings["max_epochs"] * run_settings["epoch_length"]
    count = hardware["cpu_count"]
    return table + (
        f"\nSynthetic phantom of {settings['patients']} patients, two scans each. Labels are of "
        f"patients, scores of scans: mean ± sd over the test split, seed {settings['seed']}, "
        f"{iterations} iterations each. {sum(seconds.values()) / 60:.1f} minutes in all on "
        f"{count} core{'s' * (count > 1)} ({hardware['cpu']}).\n"
    )
