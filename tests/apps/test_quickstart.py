from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from mixseg.apps.quickstart import run as quickstart
from mixseg.apps.quickstart.report import HEADER, markdown_report, score_lines, screen_table
from mixseg.cli.main import app
from mixseg.configuration.settings import setting_texts

# Two full, three partial patients and four iterations: every step of the real thing in a minute.
SMALL = [
    "--patients",
    "8",
    "--num_full",
    "2",
    "--num_partial",
    "3",
    "--max_epochs",
    "1",
    "--epoch_length",
    "4",
]


def run(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "600"}).invoke(app, ["quickstart", *map(str, arguments)])


def statistics(mean: float, sd: float | None, n: int) -> dict[str, Any]:
    return {"mean": mean, "sd": sd, "n": n}


@pytest.fixture
def results() -> dict[str, Any]:
    """Scores of two cases; 0.5 and 0.7 have mean 0.6 and standard deviation 0.1·√2."""
    scores = {
        "n": 2,
        "dice": statistics(0.6, 0.02**0.5, 2),
        "hd95_vox": statistics(3.25, 0.5, 2),
        "hd95_mm": statistics(float("nan"), None, 0),
    }
    single = {
        "n": 1,
        "dice": statistics(0.9, None, 1),
        "hd95_vox": statistics(1.0, None, 1),
        "hd95_mm": statistics(1.5, None, 1),
    }
    settings = {"num_full": 3, "num_partial": 15, "max_epochs": 7, "epoch_length": 100}
    return {
        "settings": {"patients": 32, "seed": 0, "given": {}},
        "runs": {
            "lower_bound": {
                "scores": {"main": {"LV": scores}},
                "configuration": {**settings, "num_partial": 0},
            },
            "mixed": {"scores": {"main": {"LV": single}}, "configuration": settings},
        },
        "seconds": {"phantom": 30.0, "training": 120.0},
        "hardware": {"cpu": "a processor", "cpu_count": 2},
    }


def test_the_report_gives_percent_voxels_and_mm(results: dict[str, Any]) -> None:
    assert score_lines(results) == [
        ["lower bound", "3 masks", "2", "60.0 ± 14.1", "3.2 ± 0.5", "–"],
        ["mixed supervision", "3 masks, 15 scribbles", "1", "90.0", "1.0", "1.5"],
    ]
    text = markdown_report(results)
    assert text.splitlines()[0] == "| " + " | ".join(HEADER) + " |"
    assert "700 iterations each. 2.5 minutes in all on 2 cores (a processor)" in text


def test_the_terminal_shows_units_and_whole_figures(results: dict[str, Any]) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(screen_table(results))
    text = console.export_text()
    assert text.count("HD95") == 2
    assert "[voxels]" in text
    assert "[mm]" in text
    assert "60.0 ± 14.1" in text
    assert "…" not in text


@pytest.mark.parametrize(
    ("patients", "settings", "problem"),
    [
        # An eighth validates, a quarter tests: 29 − 4 − 7 = 18 are left, 28 − 4 − 7 = 17.
        (28, {}, "--patients 28 leaves 17 for training.*3 with masks and 15 with.*--patients 29"),
        (29, {}, None),
        (5, {}, "--patients 5 leaves 3 for training"),
        (5, {"num_full": 1, "num_partial": 2}, None),
        (5, {"num_full": 1, "num_partial": 3}, "give --patients 7"),
    ],
)
def test_too_few_patients_are_refused_before_anything_is_made(
    patients: int, settings: dict[str, int], problem: str | None
) -> None:
    known = {"num_full": 3, "num_partial": 15}
    if problem is None:
        quickstart.check_patients(patients, known, settings)
    else:
        with pytest.raises(ValueError, match=problem):
            quickstart.check_patients(patients, known, settings)


def test_settings_are_read_and_checked() -> None:
    known = {"lr": 1, "num_full": 3}
    assert setting_texts(["--lr", "1e-3", "--num_full=-1"], known, "a bundle") == {
        "lr": "1e-3",
        "num_full": "-1",
    }
    with pytest.raises(ValueError, match="'--patient' is neither an option nor a setting"):
        setting_texts(["--patient", "3"], known, "a bundle")
    with pytest.raises(ValueError, match="'--lr' needs a value"):
        setting_texts(["--lr"], known, "a bundle")


def test_a_mistyped_option_ends_before_anything_is_made(tmp_path: Path) -> None:
    result = run("--output", tmp_path / "out", "--patient", 3)
    assert result.exit_code == 1
    assert "'--patient' is neither an option nor a setting" in result.output
    assert not (tmp_path / "out").exists()


def test_an_installation_without_bundles_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quickstart, "ROOT", tmp_path / "mixseg")
    result = run("--output", tmp_path / "out")
    assert result.exit_code == 1
    assert "is not beside this installation" in result.output
    assert "clone the repository" in result.output


@pytest.mark.slow
def test_from_nothing_to_a_table(tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = run("--output", output, *SMALL)
    assert first.exit_code == 0, first.output
    results = json.loads((output / "results.json").read_text())
    # Two of eight patients are for testing, two frames each.
    assert [line[:3] for line in score_lines(results)] == [
        ["lower bound", "2 masks", "4"],
        ["mixed supervision", "2 masks, 3 scribbles", "4"],
    ]
    lower, mixed = (results["runs"][name] for name in ("lower_bound", "mixed"))
    assert lower["data_hash"] == mixed["data_hash"]
    differing = {
        name
        for name, value in mixed["configuration"].items()
        if lower["configuration"][name] != value
    }
    assert differing == {"num_partial", "batch_full", "batch_partial"}
    batches = [
        run["configuration"]["batch_full"] + run["configuration"]["batch_partial"]
        for run in (lower, mixed)
    ]
    assert batches[0] == batches[1]
    text = (output / "results.json").read_text()
    assert str(tmp_path) not in text
    assert str(Path.home()) not in text
    assert mixed["commands"] == [
        "mixseg train bundles/acdc_lv_mixed --data quickstart/phantom --output quickstart/mixed "
        "--config quickstart.yaml --seed 0 --num-full 2 --num-partial 3 --max-epochs 1 "
        "--epoch-length 4",
        "mixseg evaluate quickstart/mixed",
    ]
    for name in ("lower_bound", "mixed"):
        for picture in ("curves.png", "test/cases.png"):
            place = output / name / picture
            assert place.read_bytes().startswith(b"\x89PNG")
            assert str(place) in first.output
    assert f"mixseg evaluate {output}/mixed" in first.output

    # Done is done, and settings do not mix.
    again = run("--output", output, *SMALL)
    assert again.exit_code == 0
    assert again.output.count("done already") == 5
    other = run("--output", output, "--seed", 1, *SMALL)
    assert other.exit_code == 1
    assert "other settings" in other.output

    # A step that fails ends the command; so does one whose weights are gone.
    state = json.loads((output / "state.json").read_text())
    state["done"].remove("mixed supervision: test")
    (output / "state.json").write_text(json.dumps(state))
    (output / "mixed" / "models" / "model.pt").unlink()
    failed = run("--output", output, *SMALL)
    assert failed.exit_code == 1
    assert f"'{output / 'mixed'}' has no weights" in failed.output


@pytest.mark.slow
def test_an_interrupted_quickstart_keeps_what_is_done(tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = [sys.executable, "-m", "mixseg.cli.main", "quickstart", "--output", str(output)]
    with (tmp_path / "screen.txt").open("wb") as screen:
        process = subprocess.Popen(
            [*command, *SMALL],
            stdout=screen,
            stderr=screen,
            # A shell starts its background jobs with the signal ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        state = output / "state.json"
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            if state.is_file() and json.loads(state.read_text())["done"]:
                break
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    again = f"to resume: mixseg quickstart --output {output} {' '.join(SMALL)}\n"
    assert again in (tmp_path / "screen.txt").read_text()
    # What is done stays done: the next call takes it up (see "done already" above).
    left = json.loads(state.read_text())
    assert left["done"] == ["phantom"]
    assert set(left["seconds"]) == {"phantom", "lower bound: training"}
    assert (output / "phantom" / "datalist.json").is_file()
