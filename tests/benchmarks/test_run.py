"""Running a list: what is run, skipped, resumed and left, and what a result file holds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch
from typer.testing import CliRunner, Result

from compare.__main__ import compare_app
from compare.complexity import count_parameters, measure_complexity
from compare.list import experiments
from compare.results import report_value
from compare.run import Outcome, Places, Watch, run_experiments, run_step

from .compare_toys import CASES, FakeRunner, settings_of, toy_bundle, write_list

ROOT = Path(__file__).resolve().parents[2]


class Notes(Watch):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[tuple[str, str, int, int]] = []

    def says(self, row: str, text: str) -> None:
        self.lines.append(f"{row}: {text.split(', log in')[0].split(', see')[0]}")

    def step(self, row: str, step: str, done: int, total: int) -> None:
        self.steps.append((row, step, done, total))


class Toy:
    """A list on a toy bundle, with its folders."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.bundle = toy_bundle(folder)
        self.path = write_list(folder, **{"bundle": str(self.bundle), **changes})
        self.places = Places(folder / "data", folder / "results", folder / "work", threads=3)
        self.notes = Notes()

    def run(self, runner: FakeRunner, *rows: str, **options: Any) -> Outcome:
        known = {row.row: row for row in experiments(self.path)}
        chosen = experiments(self.path, rows)
        self.notes = Notes()
        return run_experiments(
            chosen, known, self.places, watch=self.notes, runner=runner, **options
        )

    def result(self, row: str, seed: int = 0) -> Path:
        return self.places.results / "toy" / f"{row}_seed{seed}.json"


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


def test_rows_run_seed_by_seed_and_leave_one_file_each(toy: Toy) -> None:
    runner = FakeRunner()
    assert toy.run(runner) == Outcome()
    assert [line for line in toy.notes.lines if line.endswith("running")] == [
        "best, seed 0: running", "low, seed 0: running", "best, seed 1: running",
    ]  # fmt: skip
    assert sorted(p.name for p in (toy.places.results / "toy").iterdir()) == [
        "best_seed0.json", "best_seed1.json", "low_seed0.json",
    ]  # fmt: skip
    result = json.loads(toy.result("low").read_text())
    assert {k: result[k] for k in ("experiment", "method", "bundle", "data", "set", "profile")} == {
        "experiment": "low", "method": "Lower bound", "bundle": "toy_lv_confkd", "data": "toy",
        "set": 3, "profile": "cpu",
    }  # fmt: skip
    assert (result["seed"], result["threads"], result["parameters_training"]) == (0, 3, None)
    assert set(result["seconds"]) == {"training", "validation", "test"}
    # 20 iterations, as the history's last line says; four significant digits.
    expected = float(f"{result['seconds']['training'] / 20:.4g}")
    assert result["seconds_per_iteration"] == expected
    assert result["history"] == ["epoch,iteration", "1,10", "2,20"]
    assert result["reports"] == {}
    assert result["test"]["scores"]["student"]["LV"]["dice"]["mean"] == 0.7
    # Columns without a value are left out.
    assert result["cases"][0] == {
        "case_id": CASES[0], "branch": "teacher", "class": "LV", "dice": "0.5", "hd95_vox": "5.0",
    }  # fmt: skip


def test_a_result_keeps_the_tables_that_handlers_wrote(toy: Toy) -> None:
    class Reporter(FakeRunner):
        def _train(self, output: Path, weights: Path) -> None:
            super()._train(output, weights)
            (output / "indicators_history.csv").write_text("iteration,auc\n12,0.5\n24,0.75\n")

    toy.run(Reporter(), "low")
    result = json.loads(toy.result("low").read_text())
    assert result["reports"] == {"indicators_history": ["iteration,auc", "12,0.5", "24,0.75"]}
    assert report_value(result, "indicators_history.auc") == 0.75
    assert report_value(result, "indicators_history.mean") is None
    assert report_value(result, "others.auc") is None
    assert report_value({}, "indicators_history.auc") is None


def test_steps_get_the_settings_the_folders_and_no_gpu(toy: Toy) -> None:
    runner = FakeRunner()
    toy.run(runner, "low", seeds=[7])
    training, validation, test = runner.commands
    folder = toy.places.work / "toy" / "low_seed7"
    configs = toy.bundle / "configs"
    assert training[:5] == [sys.executable, "-m", "monai.bundle", "run", "training"]
    assert settings_of(training) == {
        "config_file": f"['{configs / 'train.yaml'}']",
        "lr": "0.5", "lambda_w": "0", "lambda_kd": "0", "lambda_ent": "0", "seed": "7",
        "dataset_dir": str(toy.places.dataset_dir), "output_dir": str(folder / "training"),
        "ckpt_dir": str(folder / "training" / "models"), "progress": "False", "resume": "True",
    }  # fmt: skip
    assert [c[4] for c in (validation, test)] == ["evaluating", "evaluating"]
    # The run knows its settings.
    assert settings_of(test) == {
        "config_file": f"['{folder / 'training' / 'configs' / 'evaluate.yaml'}']",
        "split": "test", "output_dir": str(folder / "test"), "progress": "False",
    }  # fmt: skip
    assert {e["CUDA_VISIBLE_DEVICES"] for e in runner.environments} == {""}
    assert {e["OMP_NUM_THREADS"] for e in runner.environments} == {"3"}


def test_settings_of_the_evaluation_are_kept_from_training(tmp_path: Path) -> None:
    toy = Toy(tmp_path, rows={"a": {"evaluated_branches": ["student"]}}, seeds=[0])
    runner = FakeRunner()
    toy.run(runner)
    given = ["evaluated_branches" in settings_of(command) for command in runner.commands]
    assert given == [False, True, True]


def test_progress_counts_epochs(toy: Toy) -> None:
    path = toy.path
    path.write_text(path.read_text().replace("lr: 0.5", "lr: 0.5\n  max_epochs: 2"))
    toy.run(FakeRunner(), "low")
    # Before the training and while it runs, then the two splits, which have no epochs.
    assert toy.notes.steps[:2] == [("low, seed 0", "training", 0, 2)] * 2
    assert ("low, seed 0", "test", 0, 0) in toy.notes.steps


def test_finished_rows_are_skipped_and_lose_their_checkpoints(toy: Toy) -> None:
    toy.run(FakeRunner(), "low")
    before = toy.result("low").read_bytes()
    folder = toy.places.work / "toy" / "low_seed0"
    assert not (folder / "training" / "checkpoint.pt").exists()
    assert (folder / "training" / "models" / "model.pt").is_file()
    again = FakeRunner()
    toy.run(again, "low")
    assert again.commands == []
    assert toy.notes.lines == ["low, seed 0: done already"]
    assert toy.result("low").read_bytes() == before


def test_checkpoints_can_be_kept(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.places = Places(tmp_path, tmp_path / "results", tmp_path / "work", 1, keep=True)
    toy.run(FakeRunner(), "low")
    assert (tmp_path / "work" / "toy" / "low_seed0" / "training" / "checkpoint.pt").is_file()


def test_a_failed_row_leaves_the_others_to_run_and_resumes_later(toy: Toy) -> None:
    failing = FakeRunner(lambda settings: 9 * settings["output_dir"].endswith("best_seed0/test"))
    assert toy.run(failing, "best").failed == ["best_seed0"]
    assert toy.notes.lines[1] == "best, seed 0: failed with exit code 9 in test"
    assert not toy.result("best").exists()
    assert toy.result("best", 1).is_file()
    runner = FakeRunner()
    assert toy.run(runner, "best").failed == []
    assert settings_of(runner.commands[0])["resume"] == "True"
    assert len(runner.commands) == 3
    # The time of both attempts at the test split counts.
    assert set(json.loads(toy.result("best").read_text())["seconds"]) == {
        "training", "validation", "test",
    }  # fmt: skip


def test_an_interrupted_row_leaves_its_checkpoint_and_no_result(toy: Toy) -> None:
    class Interrupted(FakeRunner):
        def __call__(self, command: Any, *rest: Any) -> int:
            status = super().__call__(command, *rest)
            if len(self.commands) == 1:
                raise KeyboardInterrupt
            return status

    with pytest.raises(KeyboardInterrupt):
        toy.run(Interrupted(), "low")
    folder = toy.places.work / "toy" / "low_seed0"
    assert not toy.result("low").exists()
    assert (folder / "training" / "checkpoint.pt").is_file()
    times = json.loads((folder / "times.json").read_text())
    assert (list(times["seconds"]), times["running"]) == (["training"], None)
    # Its time is known, the process ended in order.
    toy.run(FakeRunner(), "low")
    assert json.loads(toy.result("low").read_text())["seconds_per_iteration"] is not None


def test_a_killed_process_leaves_the_time_unknown(toy: Toy) -> None:
    folder = toy.places.work / "toy" / "low_seed0"
    folder.mkdir(parents=True)
    (folder / "times.json").write_text('{"seconds": {}, "lost": [], "running": "training"}')
    toy.run(FakeRunner(), "low")
    assert json.loads(toy.result("low").read_text())["seconds_per_iteration"] is None


def test_shared_results_are_not_run_again(tmp_path: Path) -> None:
    toy = Toy(tmp_path, rows={"a": {"same_as": "first/x"}})
    bundle = str(toy.bundle)
    write_list(tmp_path, "first", bundle=bundle, rows={"x": {"lambda_w": 0.25}})
    other = toy.places.results / "first" / "x_seed0.json"
    other.parent.mkdir(parents=True)
    other.write_text("{}")
    runner = FakeRunner()
    toy.run(runner)
    assert toy.notes.lines[0] == "a, seed 0: measured as first/x"
    # The seed that nobody ran there is run here, with the other row's settings.
    assert [p.name for p in (toy.places.results / "toy").iterdir()] == ["a_seed1.json"]
    assert settings_of(runner.commands[0])["lambda_w"] == "0.25"
    assert settings_of(runner.commands[0])["seed"] == "1"


def test_a_row_that_starts_from_another_trains_that_one_first(tmp_path: Path) -> None:
    rows = {"t": {"lambda_ent": 0, "num_full": 2}}
    rows["p"] = {"start_from": "t", "rounds": 2, "method": "Proposals", "num_full": 2}
    toy = Toy(tmp_path, rows=rows, seeds=[0])
    runner = FakeRunner()
    toy.run(runner, "p")
    training, rounds = runner.commands
    teacher = toy.places.work / "toy" / "t_seed0"
    assert settings_of(training)["output_dir"] == str(teacher / "training")
    assert rounds[1:5] == ["-m", "mixseg.cli.main", "self-train", str(teacher / "training")]
    wanted = {
        "student": str(toy.bundle),
        "rounds": "2", "split": "test", "lr": "0.5", "seed": "0",
        "output": str(toy.places.work / "toy" / "p_seed0" / "rounds"),
    }  # fmt: skip
    assert wanted.items() <= settings_of(rounds).items()
    assert "num_full" not in settings_of(rounds)  # the teacher's run selects the cases
    result = json.loads(toy.result("p").read_text())
    assert result["method"] == "Proposals"
    assert result["test"]["scores"]["teacher"]["LV"]["dice"]["mean"] == 0.6
    assert result["reports"] == {"rounds": ["round,dice", "1,0.5", "2,0.6"]}
    assert not toy.result("t").exists()
    # Its weights are there now, and are used as long as its settings are the same.
    toy.result("p").unlink()
    again = FakeRunner()
    toy.run(again, "p")
    assert [command[3] for command in again.commands] == ["self-train"]
    toy.result("p").unlink()
    toy.path.write_text(toy.path.read_text().replace("lambda_ent: 0", "lambda_ent: 2"))
    changed = FakeRunner()
    toy.run(changed, "p")
    assert [command[3] for command in changed.commands] == ["run", "self-train"]
    assert settings_of(changed.commands[0])["overwrite"] == "True"


def test_rows_that_would_not_end_in_time_are_left(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def slow(settings: dict[str, str]) -> int:
        now[0] += 60
        return 0

    # A row takes three steps of a minute: the second would end after 6 of 5 minutes.
    outcome = toy.run(FakeRunner(slow), "best", minutes=5)
    assert toy.notes.lines[-1] == "best, seed 1: left for the next call"
    assert outcome.left == 1
    assert toy.result("best").is_file()
    assert json.loads(toy.result("best").read_text())["seconds"]["training"] == 60.0


def test_a_row_that_runs_elsewhere_is_left_to_it(toy: Toy) -> None:
    folder = toy.places.work / "toy" / "low_seed0"
    folder.mkdir(parents=True)
    runner = FakeRunner()
    with filelock.FileLock(folder / ".lock"):
        assert toy.run(runner, "low").left == 1
    assert runner.commands == []
    assert toy.notes.lines == ["low, seed 0: runs in another process"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_nothing_is_run_where_a_row_cannot(toy: Toy, tmp_path: Path) -> None:
    runner = FakeRunner()
    original = toy.path.read_text()
    for old, new, message in (
        ("low:", "low:\n    profile: gpu", "row 'low' is of profile gpu, and no CUDA device"),
        ("low:", "low:\n    bundle: nowhere", "row 'low': there is no bundle 'nowhere'"),
        (
            "low:",
            "low:\n    lamda: 1",
            "row 'low': no setting of the bundle toy_lv_confkd: 'lamda'",
        ),
        (f"bundle: {toy.bundle}", "published: acdc", "row 'best': names no bundle, nor does"),
    ):
        toy.path.write_text(original.replace(old, new))
        with pytest.raises(ValueError, match=message):
            toy.run(runner)
    assert runner.commands == []


def test_a_steps_output_goes_to_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    code = "import os, sys; print(os.environ['X']); sys.stderr.write('no'); sys.exit(4)"
    for _ in range(2):
        assert run_step([sys.executable, "-c", code], log, {"X": "yes"}, lambda: None) == 4
    assert log.read_text() == "yes\nnoyes\nno"


def test_ctrl_c_lets_the_step_end_by_itself(tmp_path: Path) -> None:
    child = (
        "import time, pathlib\n"
        "try:\n    pathlib.Path('up').touch(); time.sleep(60)\n"
        "except KeyboardInterrupt:\n    time.sleep(0.3); pathlib.Path('saved').touch()\n"
    )
    parent = (
        "import os, pathlib, sys\nfrom compare.run import run_step\n"
        f"run_step([sys.executable, '-c', {child!r}], pathlib.Path('log'), os.environ, "
        "lambda: None)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "benchmarks")},
        start_new_session=True,
        stderr=subprocess.PIPE,
        # A shell's background jobs ignore Ctrl-C, and the tests may run in one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (tmp_path / "up").exists():
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, error = process.communicate(timeout=30)
    assert b"KeyboardInterrupt" in error
    assert (tmp_path / "saved").exists()


def command(*arguments: str | Path) -> Result:
    return CliRunner(env={"COLUMNS": "600"}).invoke(compare_app, list(map(str, arguments)))


def test_the_command_names_what_is_wrong(toy: Toy, tmp_path: Path) -> None:
    for more, message in (
        (["--row", "bset"], "'bset' (did you mean 'best'?)"),
        (["--seeds", "0;1"], "--seeds takes whole numbers with commas, e.g. 0,1, not '0;1'"),
        (["--profile", "gpu", "--row", "low"], "not of profile gpu: low; leave --profile out"),
        (["--dataset_dir", "gone"], "there is no folder 'gone': give that of the data"),
    ):
        result = command("run", toy.path, "--dataset_dir", tmp_path, *more)
        assert result.exit_code == 1
        assert message in result.output


def test_the_command_reports_rows_and_failures(toy: Toy, tmp_path: Path) -> None:
    folders = ["--results", toy.places.results, "--work", tmp_path / "work"]
    result = command("run", toy.path, "--dataset_dir", tmp_path, "--row", "low", *folders)
    assert result.exit_code == 1  # the toy bundle has nothing to run
    assert "low, seed 0: failed with exit code 1 in training" in result.output
    assert "error: failed: low_seed0; their logs in" in result.output
    done = toy.result("low")
    done.parent.mkdir(parents=True)
    done.write_text("{}")
    result = command("run", toy.path, "--dataset_dir", tmp_path, "--row", "low", *folders)
    assert (result.exit_code, result.output.strip()) == (0, "low, seed 0: done already")


def test_parameters_are_those_of_the_journals_table_8(tmp_path: Path) -> None:
    path = write_list(tmp_path, common={}, rows={"a": {"bundle": "acdc_lv_confkd"}})
    (row,) = experiments(path)
    assert count_parameters(ROOT / "bundles" / "acdc_lv_confkd", row) == 41_137_220


def test_parameters_need_no_data(tmp_path: Path) -> None:
    # DCR's objective has a weight for each training picture; it keeps two networks. So does
    # Self-Correcting, whose second one sees the mask's three classes beside the picture.
    names = ("wbc_single", "wbc_dcr", "wbc_selfcorrecting")
    path = write_list(
        tmp_path, common={"features": [2, 2, 2, 2, 2]}, rows={n: {"bundle": n} for n in names}
    )
    counts = (count_parameters(ROOT / "bundles" / str(r.bundle), r) for r in experiments(path))
    one, two, ancillary = (count or 0 for count in counts)
    assert one > 0
    assert two == 2 * one
    assert ancillary == 2 * one + 3 * 2 * 3 * 3  # classes, features, a kernel of 3²


def test_complexity_measures_the_network_that_is_trained() -> None:
    settings = {"features": [2, 2, 2, 2, 2], "slice_size": [32, 32], "num_full": 3}
    result = measure_complexity(ROOT / "bundles" / "acdc_lv_confkd", settings, "cpu")
    assert (result["networks"], result["sample"]) == (1, [1, 1, 32, 32])
    assert result["milliseconds_all"] == result["milliseconds"] > 0
