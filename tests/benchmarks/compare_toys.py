"""A toy bundle, a list and a runner that only writes files, for the tests of comparisons."""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

CASES = [f"patient{i:02d}" for i in range(8)]


def toy_bundle(folder: Path, name: str = "toy_lv_confkd") -> Path:
    """A bundle that find_bundle accepts, without a network."""
    configs = folder / name / "configs"
    configs.mkdir(parents=True)
    (configs / "metadata.json").write_text("{}")
    settings = {"num_full": 3, "num_partial": 15, "lambda_w": 1, "lambda_kd": 50, "lambda_ent": 1}
    settings |= {"lr": 0.1, "max_epochs": 2, "seed": 0}
    (configs / "train.yaml").write_text(yaml.safe_dump(settings))
    (configs / "evaluate.yaml").write_text(yaml.safe_dump({"evaluated_branches": []}))
    return folder / name


def write_list(folder: Path, name: str = "toy", **changes: Any) -> Path:
    """A list of two rows, or with other entries."""
    content = {
        "profile": "cpu",
        "seeds": [0, 1],
        "common": {"lr": 0.5},
        "rows": {
            "best": {},
            "low": {"lambda_w": 0, "lambda_kd": 0, "lambda_ent": 0, "seeds": [0]},
        },
    }
    path = folder / f"{name}.yaml"
    kept = {key: value for key, value in {**content, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(kept, sort_keys=False))
    return path


def case_rows(branches: Mapping[str, Sequence[float]]) -> list[dict[str, str]]:
    """Rows of metrics.csv: branch → Dice of each case; HD95 ten times as much."""
    return [
        {"case_id": case, "branch": branch, "class": "LV", "dice": str(dice),
         "hd95_vox": str(10 * dice), "assd_vox": ""}
        for branch, values in branches.items()
        for case, dice in zip(CASES, values, strict=False)
    ]  # fmt: skip


def summary(branches: Mapping[str, Sequence[float]], configuration: dict[str, Any]) -> Any:
    """Content of summary.json."""
    scores = {}
    for branch, values in branches.items():
        mean = sum(values) / len(values)
        scores[branch] = {"LV": {"dice": {"mean": mean}, "hd95_vox": {"mean": 10 * mean}}}
    hardware = {"cpu": "a processor", "gpu": None}
    return {"scores": scores, "configuration": configuration, "hardware": hardware}


def write_result(
    results: Path,
    place: str,
    seed: int,
    branches: Mapping[str, Sequence[float]],
    configuration: dict[str, Any] | None = None,
) -> None:
    """The result file of LIST/ROW and a seed."""
    path = results / f"{place}_seed{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    test, cases = summary(branches, configuration or {}), case_rows(branches)
    path.write_text(json.dumps({"seed": seed, "test": test, "cases": cases}))


class FakeRunner:
    """Notes the commands, and writes what monai.bundle would."""

    def __init__(self, fails: Callable[[dict[str, str]], int] = lambda settings: 0) -> None:
        self.commands: list[list[str]] = []
        self.environments: list[Mapping[str, str]] = []
        self.fails = fails

    def __call__(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        tick: Callable[[], None],
    ) -> int:
        self.commands.append(list(command))
        self.environments.append(environment)
        run_id, settings = command[4], settings_of(command)
        log.write_text("ran\n")
        tick()
        status = self.fails({**settings, "run_id": run_id})
        if status:
            return status
        if command[3] == "self-train":
            last = Path(settings["output"]) / f"round_{int(settings['rounds']):02d}"
            self._train(last, last / "models")
            (last.parent / "rounds.csv").write_text("round,dice\n1,0.5\n2,0.6\n")
            for split in ("validation", "test"):
                self._evaluate(last / split, {})
        elif run_id == "training":
            self._train(Path(settings["output_dir"]), Path(settings["ckpt_dir"]))
        else:
            run = Path(ast.literal_eval(settings["config_file"])[0]).parent.parent
            assert (run / "models" / "model.pt").is_file()
            self._evaluate(Path(settings["output_dir"]), {"lr": 0.5})
        return 0

    def _train(self, output: Path, weights: Path) -> None:
        for folder in (output, weights):
            folder.mkdir(parents=True, exist_ok=True)
        (output / "history.csv").write_text("epoch,iteration\n1,10\n2,20\n")
        (output / "checkpoint.pt").write_bytes(b"large")
        (weights / "model.pt").write_bytes(b"weights")

    def _evaluate(self, folder: Path, configuration: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        branches = {"teacher": [0.5, 0.7], "student": [0.6, 0.8]}
        (folder / "summary.json").write_text(json.dumps(summary(branches, configuration)))
        with (folder / "metrics.csv").open("w", newline="") as file:
            rows = case_rows(branches)
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def settings_of(command: Sequence[str]) -> dict[str, str]:
    """``--name value`` pairs of a command; switches are left out."""
    words = [word for word in command if word != "--quiet"]
    return {w[2:]: words[i + 1] for i, w in enumerate(words) if w.startswith("--")}
