"""Draw the validation curves of an experiment list from the files in benchmarks/results/.

    python benchmarks/curves.py acdc_cpu acdc_cpu_study

Writes benchmarks/studies/figures/LIST_curves.png: the Dice of teacher and student on the
validation split after each validation, one panel per branch, one line per row of the list; the mean
over its seeds, and the range over them as a band. Networks of one branch, main, are in the first
panel. Rows that nobody ran are left out.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from compare.list import Experiment, experiments
from compare.results import Result, read_results

ROOT = Path(__file__).resolve().parents[1]
# Okabe and Ito's colors, then the same again with other dashes.
COLORS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7")
DASHES = ("-", "--", ":")


def curve_of(result: Result, branch: str) -> dict[int, float]:
    """Iteration → validation Dice in % of one result; empty for an untrained branch."""
    rows = list(csv.DictReader(result["history"]))
    if branch == "teacher" and any("val_dice_main" in row for row in rows):
        branch = "main"
    key = f"val_dice_{branch}"
    return {int(row["iteration"]): 100 * float(row[key]) for row in rows if row.get(key)}


def draw_row(axes: Axes, row: Experiment, branch: str, place: int) -> bool:
    """One row's line and band; False where there is nothing to draw."""
    results = read_results(ROOT / "benchmarks" / "results", row).values()
    seeds = [curve for result in results if (curve := curve_of(result, branch))]
    if not seeds:
        return False
    iterations = sorted(set.intersection(*(set(curve) for curve in seeds)))
    values = np.array([[curve[i] for i in iterations] for curve in seeds])
    color = COLORS[place % len(COLORS)]
    dashes = DASHES[place // len(COLORS) % len(DASHES)]
    label = row.row if len(seeds) == 1 else f"{row.row} ({len(seeds)} seeds)"
    axes.plot(iterations, values.mean(0), dashes, color=color, label=label, linewidth=1.4)
    if len(seeds) > 1:
        axes.fill_between(
            iterations, values.min(0), values.max(0), color=color, alpha=0.12, linewidth=0
        )
    return True


def draw(name: str) -> Path | None:
    """The figure of one list, or None where no row was run."""
    rows = experiments(ROOT / "benchmarks" / "experiments" / f"{name}.yaml")
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    found = False
    for axes, branch in zip(panels, ("teacher", "student"), strict=True):
        for place, row in enumerate(rows):
            found |= draw_row(axes, row, branch, place)
        axes.set(title=branch, xlabel="iteration")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    if not found:
        return None
    panels[0].set_ylabel("validation Dice, %")
    handles = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside right upper", frameon=False, fontsize=8)
    path = ROOT / "benchmarks" / "studies" / "figures" / f"{name}_curves.png"
    figure.savefig(path, dpi=110)
    return path


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lists", nargs="+", help="names of lists in benchmarks/experiments/")
    for name in parser.parse_args().lists:
        path = draw(name)
        print(f"{name}: {path.relative_to(ROOT) if path else 'no row was run'}")


if __name__ == "__main__":
    main()
