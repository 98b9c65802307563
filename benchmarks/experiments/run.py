"""Run the rows of an experiment list, one result file a row and seed.

    python benchmarks/experiments/run.py benchmarks/experiments/acdc_cpu.yaml --dataset_dir ACDC

Rows whose result file is there are skipped, a row that was interrupted goes on where it stopped.
Training selects its weights on the validation split; the test split is scored once, at the end.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from mixseg.metrics import write_bytes_atomic

REPOSITORY = Path(__file__).resolve().parents[2]


def bundle_command(bundle: str, run_id: str, files: list[str], knobs: dict[str, Any]) -> list[str]:
    """The ``monai.bundle`` command line of one step."""
    configs = REPOSITORY / "bundles" / bundle / "configs"
    command = [sys.executable, "-m", "monai.bundle", "run", run_id]
    command += ["--config_file", str([str(configs / name) for name in files])]
    for name, value in knobs.items():
        command += [f"--{name}", str(value)]
    return command


def read_cases(path: Path) -> list[dict[str, str]]:
    """Scores of each test case, as the evaluation wrote them, without empty columns."""
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


def run_row(
    experiment: dict[str, Any], row: str, seed: int, dataset_dir: Path, work: Path, threads: int
) -> dict[str, Any]:
    """Train and score one row; returns what the result file holds."""
    folder = work / f"{row}_seed{seed}"
    knobs = {**experiment.get("common", {}), **experiment["rows"][row], "seed": seed}
    places = {
        "dataset_dir": dataset_dir,
        "output_dir": folder / "training",
        "ckpt_dir": folder / "models",
        "progress": False,
    }
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    folder.mkdir(parents=True, exist_ok=True)
    seconds = {}
    with open(folder / "log.txt", "a") as log:

        def step(run_id: str, files: list[str], **more: Any) -> None:
            started = time.monotonic()
            command = bundle_command(
                experiment["bundle"], run_id, files, {**knobs, **places, **more}
            )
            subprocess.run(command, env=environment, stdout=log, stderr=log, check=True)
            seconds[more.get("split", "training")] = round(time.monotonic() - started, 1)

        base = ["train.yaml", *experiment.get("overlays", [])]
        step("training", base, resume=True)
        scores = [*base, "evaluate.yaml"]
        for split in ("validation", "test"):
            step("evaluating", scores, split=split, output_dir=folder / split)
    result: dict[str, Any] = {
        "experiment": row,
        "seed": seed,
        "seconds": seconds,
        "threads": threads,
    }
    for split in ("validation", "test"):
        result[split] = json.loads((folder / split / "summary.json").read_text())
    result["cases"] = read_cases(folder / "test" / "metrics.csv")
    result["history"] = (folder / "training" / "history.csv").read_text().splitlines()
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("list", type=Path, help="experiment list (YAML)")
    parser.add_argument("--dataset_dir", type=Path, required=True, help="folder of the data")
    parser.add_argument("--rows", nargs="*", help="names of rows; all without it")
    parser.add_argument("--seeds", nargs="*", type=int, help="seeds; those of the list without it")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs", help="folder of the runs")
    parser.add_argument("--results", type=Path, help="folder of the result files")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads a run")
    parser.add_argument(
        "--minutes",
        type=float,
        help="start no row that would not end in time (as the last one took)",
    )
    parser.add_argument("--keep", action="store_true", help="keep checkpoints of finished runs")
    arguments = parser.parse_args()

    experiment = yaml.safe_load(arguments.list.read_text())
    rows = arguments.rows or list(experiment["rows"])
    if unknown := set(rows) - set(experiment["rows"]):
        parser.error(
            f"no such row: {', '.join(sorted(unknown))}; known: {', '.join(experiment['rows'])}"
        )
    name = arguments.list.stem
    results = arguments.results or REPOSITORY / "benchmarks" / "results" / name
    work = arguments.work / name
    failed = []
    started, longest = time.monotonic(), 0.0
    for seed in experiment["seeds"] if arguments.seeds is None else arguments.seeds:
        for row in rows:
            target = results / f"{row}_seed{seed}.json"
            if target.is_file():
                print(f"{row}, seed {seed}: done already", flush=True)
                continue
            elapsed = time.monotonic() - started
            if arguments.minutes is not None and elapsed + longest > 60 * arguments.minutes:
                print(f"{row}, seed {seed}: left for the next call", flush=True)
                continue
            print(f"{row}, seed {seed}: running, log in {work / f'{row}_seed{seed}'}", flush=True)
            try:
                result = run_row(
                    experiment, row, seed, arguments.dataset_dir, work, arguments.threads
                )
            except subprocess.CalledProcessError as error:
                print(f"{row}, seed {seed}: failed with exit code {error.returncode}", flush=True)
                failed.append(f"{row}_seed{seed}")
                continue
            longest = max(longest, time.monotonic() - started - elapsed)
            text = json.dumps(result, indent=1) + "\n"
            write_bytes_atomic(target, text.encode())
            if not arguments.keep:
                shutil.rmtree(work / f"{row}_seed{seed}" / "training")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; their logs say why")


if __name__ == "__main__":
    main()
