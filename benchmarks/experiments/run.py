"""Run the rows of an experiment list, one result file a row and seed.

    python benchmarks/experiments/run.py benchmarks/experiments/acdc_cpu.yaml --dataset_dir ACDC

Rows whose result file is there are skipped, an interrupted row resumes where it stopped.
The same as ``python -m benchmarks.compare run``, with folders of one list and lines in place of a
progress bar.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "benchmarks"))

from compare.list import experiments  # noqa: E402
from compare.run import Places, Watch, run_experiments  # noqa: E402


class Lines(Watch):
    """A line for whatever happens to a row."""

    def says(self, row: str, text: str) -> None:
        """Print it."""
        print(f"{row}: {text}", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("list", type=Path, help="experiment list (YAML)")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder of the data")
    parser.add_argument("--rows", nargs="*", help="names of rows; all without it")
    parser.add_argument("--seeds", nargs="*", type=int, help="seeds; those of the list without it")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs", help="folder of the runs")
    parser.add_argument("--results", type=Path, help="folder of this list's result files")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads a run")
    parser.add_argument(
        "--minutes",
        type=float,
        help="start no row that would not end in time (as the last one took)",
    )
    parser.add_argument("--keep", action="store_true", help="keep checkpoints of finished runs")
    arguments = parser.parse_args()
    name = arguments.list.stem
    results = arguments.results or REPOSITORY / "benchmarks" / "results" / name
    if results.name != name:
        parser.error(f"--results must be a folder named as the list, .../{name}")
    try:
        known = {one.row: one for one in experiments(arguments.list)}
        places = Places(
            arguments.dataset_dir,
            results.parent,
            arguments.work,
            arguments.threads,
            arguments.keep,
        )
        outcome = run_experiments(
            experiments(arguments.list, arguments.rows or ()),
            known,
            places,
            arguments.seeds,
            arguments.minutes,
            Lines(),
        )
    except ValueError as error:
        parser.error(str(error))
    if outcome.failed:
        sys.exit(f"failed: {', '.join(outcome.failed)}; their logs say why")


if __name__ == "__main__":
    main()
