"""Tables of the studies that say which scores they are about, and the cost of a training step."""

from __future__ import annotations

import importlib
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from scipy.stats import wilcoxon

from compare.list import experiments, read_list
from compare.results import read_results

ROOT = Path(__file__).resolve().parents[2]
CASES = [f"{i:03d}" for i in range(6)]
Benchmark = Callable[[str], ModuleType]


@pytest.fixture
def benchmark_script(monkeypatch: pytest.MonkeyPatch) -> Benchmark:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


def write(folder: Path, row: str, seed: int, dice: dict[str, list[float]], **more: Any) -> None:
    """A result file of the list ``toy``: branch → Dice of each case, IoU half of it."""
    scores = {}
    for branch, values in dice.items():
        mean = statistics.fmean(values)
        scores[branch] = {"nucleus": {"dice": {"mean": mean}, "iou": {"mean": mean / 2}}}
    cases = [
        {"case_id": case, "branch": branch, "class": "nucleus", "dice": str(value)}
        for branch, values in dice.items()
        for case, value in zip(CASES, values, strict=True)
    ]
    split = {"scores": scores, "configuration": {}, "hardware": {"cpu": "a processor", "gpu": None}}
    path = folder / "results" / "toy" / f"{row}_seed{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"seed": seed, "validation": split, "test": split, "cases": cases, **more}
    path.write_text(json.dumps(content))


@pytest.fixture
def table(tmp_path: Path, benchmark_script: Benchmark) -> Callable[[], list[list[str]]]:
    """Renders the list's table, as the cells of its lines."""
    content = {
        "data": "wbc",
        "seeds": [0, 1],
        "scores": ["iou", "dice"],
        "reference": "base",
        "reports": {"AUC": "indicators_history.auc"},
        "beside": {"Paper": {"ours": "66.0"}},
        "common": {"num_full": 18, "num_noisy": 162},
        "rows": {
            "base": {"method": "Merged"},
            "ours": {"method": "DII", "variant": {"mixing": "cutmix"}},
            "later": {"method": "DCR", "num_noisy": 0},
        },
    }
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))

    def render() -> list[list[str]]:
        rows = [
            (row, list(read_results(tmp_path / "results", row).values()))
            for row in experiments(path)
        ]
        text = benchmark_script("compare.study_tables").study_block("toy", read_list(path), rows)
        return [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()]

    return render


BASE = [0.50, 0.52, 0.54, 0.56, 0.58, 0.60]


def test_a_study_shows_its_scores_its_reports_and_the_papers_numbers(
    table: Callable[[], list[list[str]]], tmp_path: Path
) -> None:
    # Two seeds; the other row is 0.02 to 0.12 above the base, its second branch 0.1 below.
    gains = [0.02 * (i + 1) for i in range(6)]
    for seed, shift, auc in ((0, -0.02, 0.9), (1, 0.02, 0.8)):
        write(tmp_path, "base", seed, {"teacher": [value + shift for value in BASE]})
        better = [value + gain + shift for value, gain in zip(BASE, gains, strict=True)]
        worse = [value - 0.1 + shift for value in BASE]
        history = ["iteration,auc", "12,0.1", f"24,{auc}"]
        write(
            tmp_path, "ours", seed, {"teacher": better, "student": worse},
            reports={"indicators_history": history},
        )  # fmt: skip
    lines = table()
    assert lines[0] == [
        "Row", "Method", "Labels", "Branch", "Seeds", "Validation: Dice", "Test: mIoU", "Dice (F1)",
        "Δ Dice, p", "AUC", "*Paper*",
    ]  # fmt: skip
    assert lines[2] == [
        "`base`", "Merged", "18 full, 162 noisy", "teacher", "2", "55.0 ± 2.8", "27.5 ± 1.4",
        "55.0 ± 2.8", "reference", "", "",
    ]  # fmt: skip
    # Means 60 and 64: 62 ± 4/√2; IoU half of it. All six cases are better: exact p = 2/64,
    # and so is that of the six worse ones; Holm doubles both.
    assert wilcoxon(gains).pvalue == 2 / 64
    assert lines[3] == [
        "`ours`", "DII, mixing = cutmix", "18 full, 162 noisy", "teacher", "2", "62.0 ± 2.8",
        "31.0 ± 1.4", "62.0 ± 2.8", "+7.0, p = 0.062", "0.85 ± 0.07", "66.0",
    ]  # fmt: skip
    assert lines[4][3:9] == ["student", "2", "45.0 ± 2.8", "22.5 ± 1.4", "45.0 ± 2.8",
                             "−10.0, p = 0.062"]  # fmt: skip
    (explanation,) = lines[6]  # the row "later" was not run
    assert "difference from `base` on the test cases" in explanation
    assert "in pixels" not in explanation
    assert explanation.endswith("`benchmarks/experiments/toy.yaml`; machine: a processor.")


def test_without_the_reference_there_is_no_test(
    table: Callable[[], list[list[str]]], tmp_path: Path
) -> None:
    write(tmp_path, "ours", 0, {"teacher": BASE})
    lines = table()
    (line,) = lines[2:-2]
    assert [line[0], line[5], line[8]] == ["`ours`", "55.0", ""]


def test_scores_that_a_file_lacks_are_left_out(
    table: Callable[[], list[list[str]]], tmp_path: Path
) -> None:
    write(tmp_path, "base", 0, {"teacher": BASE})
    path = tmp_path / "results" / "toy" / "base_seed0.json"
    content = json.loads(path.read_text())
    del content["test"]["scores"]["teacher"]["nucleus"]["iou"]
    path.write_text(json.dumps(content))
    assert table()[2][6:8] == ["", "55.0"]


def test_the_time_of_a_step_is_a_ratio_within_each_turn(
    benchmark_script: Benchmark, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = benchmark_script("step_time")
    # The machine slows down from turn to turn; the first one warms up.
    slow = iter([9.0] * 4 + [1.0] * 4 + [2.0] * 4 + [4.0] * 4)
    factors = {"float32": 1.0, "float32, channels last": 1.5, "bfloat16": 0.5,
               "bfloat16, channels last": 0.25}  # fmt: skip
    made: dict[int, str] = {}

    class Trainer:
        state = SimpleNamespace(epoch=0, max_epochs=1)

        def run(self) -> None:
            pass

    def build(bundle: str, device: str, variant: str) -> Trainer:
        trainer = Trainer()
        made[id(trainer)] = variant
        return trainer

    def timed(work: Any, device: Any) -> tuple[float, float]:
        return 0.0, next(slow) * factors[made[id(work.__self__)]]

    monkeypatch.setattr(script, "build", build)
    cost = benchmark_script("training_cost")
    monkeypatch.setattr(cost, "_epoch", lambda trainer: trainer.run)
    monkeypatch.setattr(cost, "timed", timed)
    found = script.measure("acdc_lv_mixed", "cpu", turns=3)
    assert {name: one["over_reference"] for name, one in found.items()} == factors
    assert found["bfloat16"]["milliseconds"] == 1000
    assert found["bfloat16"]["quartiles"] == [0.5, 0.5]


def test_the_time_of_a_step_is_that_of_the_bundle(benchmark_script: Benchmark) -> None:
    trainer = benchmark_script("step_time").build("acdc_lv_mixed", "cpu", "float32, channels last")
    assert trainer.precision == "float32"
    assert trainer.memory_format == torch.channels_last
    (batch,) = trainer.data_loader
    assert batch["image"].shape == (16, 1, 112, 112)
    label, kinds = batch["label"], batch["supervision"]
    assert kinds == ["full"] * 8 + ["partial"] * 8
    assert (label[:8] < 2).all()
    assert 0.05 < (label[8:] < 2).float().mean() < 0.15


def test_the_cost_of_a_step_is_a_ratio_within_each_round(
    benchmark_script: Benchmark, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cost = benchmark_script("training_cost")
    # Seconds of each method's blocks, the first of which warms up. The machine slows down: the
    # ratios of neighbors stay.
    seconds = {
        "supervised": [9.0, 1.0, 2.0, 4.0],
        "fewer": [9.0, 0.5, 1.0, 2.0],
        "entmin": [9.0, 1.1, 2.4, 4.4],
        "uamt": [9.0, 3.0, 6.0, 12.0],
        "adversarial": [9.0, 2.0, 4.0, 8.0],
        "multitask": [9.0, 1.5, 3.0, 6.0],
        "s4gan": [9.0, 1.5, 3.0, 6.0],
    }
    order: list[str] = []
    left = {name: iter(values) for name, values in seconds.items()}
    names: dict[int, str] = {}

    def epoch(trainer: Any) -> Any:
        return lambda: names[id(trainer)]

    def timed(work: Callable[[], str], device: Any) -> tuple[float, float]:
        order.append(work())
        return next(left[order[-1]]), 0.0

    kept = []
    build = cost.build

    def remembered(name: str, *rest: Any) -> Any:
        trainer, parameters = build(name, *rest)
        names[id(trainer)] = name
        kept.append(trainer)
        return trainer, parameters

    monkeypatch.setattr(cost, "build", remembered)
    monkeypatch.setattr(cost, "_epoch", epoch)
    monkeypatch.setattr(cost, "timed", timed)
    settings = {"device": "cpu", "slice_size": [32, 32], "features": [2, 2, 2, 2, 2]}
    found = cost.measure(settings, iterations=2, rounds=3)
    # Turn by turn, in one direction and the other.
    assert order[:14] == [*reversed(seconds), *seconds]
    methods = found["methods"]
    assert methods["supervised"]["time_over_reference"] == 1
    assert methods["fewer"]["time_over_reference"] == 0.5
    # Ratios 1.1, 1.2, 1.1.
    assert methods["entmin"]["time_over_reference"] == 1.1
    assert methods["entmin"]["quartiles"] == [1.1, 1.2]
    assert methods["uamt"]["milliseconds"] == 3000  # 6 s in two steps
    # Three log-variances more for pixels, 3·(2 + 1); for pictures both, 6·(2 + 1).
    counts = {name: one["parameters"] for name, one in methods.items()}
    assert counts["entmin"]["training"] - counts["supervised"]["training"] == 9 + 18
    assert counts["entmin"]["predicting"] == counts["entmin"]["training"]
    assert counts["uamt"]["training"] == 2 * counts["supervised"]["training"]
    assert counts["uamt"]["predicting"] == counts["supervised"]["predicting"]
    # Discriminators of three classes, and of these and three colors: the published sizes but for
    # the first layer, 4·4·64 weights for each of 21 or 24 channels there.
    for name, published, channels in (("adversarial", 2_783_169, 21), ("s4gan", 2_778_561, 24)):
        given = 3 if name == "adversarial" else 6
        more = counts[name]["training"] - counts["supervised"]["training"]
        assert more == published - 16 * 64 * (channels - given)
    # The trainers do train: a step of each moves its network.
    for trainer in kept:
        before = [p.detach().clone() for p in trainer.network.parameters()]
        trainer.run()
        after = list(trainer.network.parameters())
        assert any((a != b).any() for a, b in zip(after, before, strict=True))
    hardware = {"cpu": "a processor", "gpu": None, "torch_threads": 1}
    setting = {"device": "cpu", "size": [32, 32], "features": [2, 2]}
    run = {"setting": setting, "hardware": hardware, **found}
    path = tmp_path / "benchmarks" / "results" / "training_cost.json"
    measured = benchmark_script("measured")
    assert measured.training_cost_block(tmp_path) == "Cost of a step: not run.\n"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"runs": [run]}))
    lines = measured.training_cost_block(tmp_path).splitlines()
    base = counts["supervised"]["training"]
    assert lines[2:6:3] == [
        f"| 2–2, 32 × 32, cpu | supervised, 8 pictures | {base} | 1.000 | {base} | 1000 "
        "| reference |",
        f"| 2–2, 32 × 32, cpu | UA-MT, 8 pictures | {2 * base:,} | 2.000 | {base} | 3000 "
        "| 3.00 (3.00 to 3.00) |",
    ]


def test_settings_stand_side_by_side(
    tmp_path: Path, benchmark_script: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {
        "lower": {"method": "Lower bound"},
        "kl_ent": {"method": "KL+Ent"},
        "kl_ent_turned": {"method": "KL+Ent", "variant": {"lr": 0.1}},
    }
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump({"data": "acdc", "seeds": [0, 1], "rows": rows}))
    write(tmp_path, "lower", 0, {"teacher": BASE})
    for seed, shift in ((0, 0.1), (1, 0.2)):
        higher = [value + shift for value in BASE]
        write(tmp_path, "kl_ent_turned", seed, {"teacher": BASE, "student": higher})
    found = [
        (row, list(read_results(tmp_path / "results", row).values())) for row in experiments(path)
    ]
    module = benchmark_script("compare.study_tables")
    monkeypatch.setattr(module, "SETTINGS", {"": "as it is", "_turned": "turned"})
    names = ("lower", "kl_ent")
    monkeypatch.setattr(module, "COLUMNS", {name: module.COLUMNS[name] for name in names})
    text = module.settings_block(found)
    # The mean of BASE is 55; with 10 and 20 points more 65 and 75, sd 10/√2.
    assert text.splitlines()[2:4] == [
        "| of the tables | as it is | 55.0 (1) | not run |",
        "| `…_turned` | turned | not run | 70.0 ± 7.1 (2) |",
    ]
